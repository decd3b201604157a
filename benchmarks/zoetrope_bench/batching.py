"""Where sharing a UNet execution pays: videos a second at B videos an execution against one at a time.

    python -m zoetrope_bench.batching REPOSITORY [--size HxW ...] [--json FILE]

The engine runs in this process, without a server: what a batch gains at all, before anything else costs.
Where it gains nothing, requests that take turns finish no later and start sooner, so the largest batch to
export for is the largest one that still gains.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from zoetrope_bench.report import Figure, Report
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET
from zoetrope_export.plans import parse_size
from zoetrope_export.repository import stage_directory
from zoetrope_server.batching import example_inputs
from zoetrope_server.engines import Engine, open_engine

BATCHES = (1, 2, 4, 8)
WORTH = 1.1
"""The least gain for which a larger batch is worth the company."""


def measure(engine: Engine, manifest: Manifest, batches: tuple[int, ...], rounds: int) -> dict[int, float]:
    """The gain of each batch size at the manifest's first frame size: videos a second over those of B = 1."""
    inputs = {batch: example_inputs(UNET, manifest, batch=batch) for batch in batches}
    seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    for number in range(rounds + 1):
        for batch in batches:
            began = time.perf_counter()
            engine.run(inputs[batch])
            if number:  # the first compiles
                seconds[batch].append(time.perf_counter() - began)
    each = {batch: statistics.median(values) / batch for batch, values in seconds.items()}
    return {batch: round(each[1] / each[batch], 3) for batch in batches}


def largest_worthwhile(gains: dict[int, float]) -> int:
    """The largest batch that gains at least `WORTH` over the next smaller one that was taken; 1 if none."""
    taken = 1
    for batch in sorted(gains):
        if gains[batch] >= WORTH * gains[taken]:
            taken = batch
    return taken


def batching(
    repository: Annotated[Path, typer.Argument(help="the model repository, of an engine that runs here")],
    size: Annotated[list[str] | None, typer.Option(help="frame size HxW; repeat [default: listed]")] = None,
    rounds: Annotated[int, typer.Option(help="measured rounds", min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures what sharing a UNet execution gains, by frame size."""
    manifest, console = Manifest.load(repository), Console(stderr=True)
    folder = stage_directory(repository, UNET.name)
    engine = open_engine(folder, UNET, engine=manifest.engine, precision=manifest.precision)
    sizes = [parse_size(each) for each in size] if size else list(manifest.sizes)
    rows: list[dict[str, Any]] = []
    table = Table("size", *(f"B = {batch}" for batch in BATCHES), "largest worthwhile")
    for height, width in sizes:
        gains = measure(engine, replace(manifest, sizes=((height, width),)), BATCHES, rounds)
        best = largest_worthwhile(gains)
        rows.append({"size": f"{height}x{width}", "gains": gains, "largest_worthwhile": best})
        table.add_row(f"{height}x{width}", *(f"{gain:.2f}x" for gain in gains.values()), str(best))
    console.print(table)
    figures = [
        Figure(name=f"{row['size']}, largest batch that pays", measured=row["largest_worthwhile"])
        for row in rows
    ]
    facts = {"checkpoint": manifest.checkpoint, "engine": manifest.engine, "precision": manifest.precision}
    if json_file:
        Report(
            benchmark="batching",
            figures=figures,
            parameters=facts | {"frames": manifest.num_frames[0], "rounds": rounds, "worth": WORTH},
            details={"rows": rows},
        ).save(json_file)


if __name__ == "__main__":
    typer.run(batching)
