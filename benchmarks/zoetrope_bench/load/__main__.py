"""`python -m zoetrope_bench.load` is `zoetrope bench load`."""

import typer

from zoetrope_bench.load.command import load

typer.run(load)
