"""The command `zoetrope bench`."""

from __future__ import annotations

import typer

from zoetrope_bench.batching import batching
from zoetrope_bench.formats import formats
from zoetrope_bench.full_size import full_size
from zoetrope_bench.latency import latency
from zoetrope_bench.load.command import load
from zoetrope_bench.load.compare import compare
from zoetrope_bench.overhead import overhead
from zoetrope_bench.samplers import samplers
from zoetrope_bench.side_by_side import side_by_side
from zoetrope_bench.stages import stages
from zoetrope_bench.throughput import throughput

bench = typer.Typer(help="Measure the server.", no_args_is_help=True)
bench.command("load")(load)
bench.command("compare")(compare)
bench.command("side-by-side")(side_by_side)
bench.command("overhead")(overhead)
bench.command("throughput")(throughput)
bench.command("latency")(latency)
bench.command("formats")(formats)
bench.command("stages")(stages)
bench.command("full-size")(full_size)
bench.command("samplers")(samplers)
bench.command("batching")(batching)
