"""How soon a client hears: the time to `accepted`, to the first step, and the first request beside the tenth.

    python -m zoetrope_bench.latency REPOSITORY --image FILE [--json FILE]

One request at a time on a server that has just become ready, over gRPC.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import serving
from zoetrope_client.client import Client
from zoetrope_core.events import Accepted, Done, Progress
from zoetrope_core.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Seconds from sending one request to what was heard.

    Attributes:
        accepted: the event `accepted`.
        first_step: the end of the first denoising step.
        step: the median time of the later steps.
        done: the event `done`.
    """

    accepted: float
    first_step: float
    step: float
    done: float

    @property
    def before_first_step(self) -> float:
        """What lies between `accepted` and the first step's beginning."""
        return self.first_step - self.accepted - self.step


def timeline(client: Client, photo: bytes, steps: int, seed: int) -> Timeline:
    """Sends one request and notes when each event comes."""
    began, ends, accepted, done = time.perf_counter(), [], 0.0, 0.0
    for event in client.stream(photo, num_inference_steps=steps, seed=seed):
        now = time.perf_counter() - began
        if isinstance(event, Accepted):
            accepted = now
        elif isinstance(event, Progress) and event.stage == "denoise" and event.step:
            ends.append(now)
        elif isinstance(event, Done):
            done = now
    later = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return Timeline(accepted=accepted, first_step=ends[0], step=statistics.median(later), done=done)


def figures(lines: list[Timeline]) -> list[Figure]:
    """The figures of requests in the order in which a fresh server served them."""
    usual = lines[1:]
    return [
        Figure(
            name="accepted after, median",
            measured=1000 * statistics.median(line.accepted for line in usual),
            unit="ms",
            target=50.0,
            at_most=True,
        ),
        Figure(
            name="from accepted to the first step's beginning, median",
            measured=1000 * statistics.median(line.before_first_step for line in usual),
            unit="ms",
            target=50.0,
            at_most=True,
        ),
        Figure(
            name="the first request against the last five",
            measured=lines[0].done / statistics.median(line.done for line in lines[-5:]),
            unit="x",
            target=1.2,
            at_most=True,
        ),
    ]


def latency(
    repository: Annotated[Path, typer.Argument(help="the model repository")],
    image: Annotated[Path, typer.Option(help="the picture to animate")],
    steps: Annotated[int, typer.Option(help="denoising steps", min=2)] = 5,
    requests: Annotated[int, typer.Option(help="requests, one after the other", min=6)] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures when a client hears what, on a fresh server."""
    photo, manifest = image.read_bytes(), Manifest.load(repository)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log") as server,
        Client(server.url) as client,
    ):
        lines = [timeline(client, photo, steps, seed) for seed in range(requests)]
    outcome = Report(
        benchmark="latency",
        figures=figures(lines),
        parameters={
            "steps": steps,
            "requests": requests,
            "checkpoint": manifest.checkpoint,
            "engine": manifest.engine,
            "precision": manifest.precision,
            "size": manifest.sizes[0],
        },
        details={"done, s": [round(line.done, 4) for line in lines]},
    )
    outcome.show(Console(stderr=True))
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(latency)
