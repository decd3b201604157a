"""Samplers and schedules side by side: time through the server, and how far the video is from others.

    python -m zoetrope_bench.samplers REPOSITORY --image FILE [--json FILE]

One request at a time, with one seed, so that all videos begin from equal noise. Differences are PSNR of the
decoded frames: against the default (25 Euler steps of the Karras schedule), and against many Euler steps,
which is where all of these go as their steps grow.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import serving
from zoetrope_client.client import Client
from zoetrope_client.events import Frames, Progress
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import Array
from zoetrope_export.parity import psnr

DEFAULT = "euler karras 25"
REQUESTS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {"num_inference_steps": 25},
    "euler ays 10": {"num_inference_steps": 10, "schedule": "ays"},
    "euler karras 10": {"num_inference_steps": 10},
    "dpmpp_2m karras 15": {"num_inference_steps": 15, "sampler": "dpmpp_2m"},
    "dpmpp_2m ays 10": {"num_inference_steps": 10, "sampler": "dpmpp_2m", "schedule": "ays"},
    "heun karras 13": {"num_inference_steps": 13, "sampler": "heun"},
    "euler karras 25, guidance only below sigma 50": {
        "num_inference_steps": 25,
        "guidance_interval": [0.0, 50.0],
    },
}
"""What is compared, by name."""
_MANY_STEPS = 100
_SEED = 11


def generate(client: Client, photo: bytes, request: Mapping[str, Any]) -> tuple[Array, float, float]:
    """One video: frames u8 [F,H,W,3], the seconds of the whole request and those of denoising."""
    frames: list[Array] = []
    denoise: list[float] = []
    began = time.perf_counter()
    for event in client.stream(photo, seed=_SEED, stream_frames=True, **request):
        if isinstance(event, Progress) and event.stage == "denoise":
            denoise.append(time.perf_counter() - began)
        if isinstance(event, Frames):
            frames.append(event.array)
    return np.concatenate(frames), time.perf_counter() - began, denoise[-1] - denoise[0]


def measure(client: Client, photo: bytes, rounds: int) -> list[dict[str, Any]]:
    """A row for each request: the least seconds of some rounds, and the differences."""
    converged, _, _ = generate(client, photo, {"num_inference_steps": _MANY_STEPS})
    videos: dict[str, Array] = {}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in REQUESTS}
    for _ in range(rounds):
        for name, request in REQUESTS.items():
            videos[name], total, denoise = generate(client, photo, request)
            seconds[name].append((total, denoise))
    return [
        {
            "request": name,
            "seconds": round(min(total for total, _ in seconds[name]), 3),
            "denoise_seconds": round(min(denoise for _, denoise in seconds[name]), 3),
            "db_to_default": None if name == DEFAULT else round(psnr(videos[DEFAULT], videos[name]), 1),
            "db_to_many_steps": round(psnr(converged, videos[name]), 1),
        }
        for name in REQUESTS
    ]


def line(row: Mapping[str, Any]) -> str:
    """A row as a line of the table in the docs."""
    default = "" if row["db_to_default"] is None else f"{row['db_to_default']:.1f}"
    return (
        f"| {row['request']} | {row['seconds']:.1f} | {row['denoise_seconds']:.1f} | {default} "
        f"| {row['db_to_many_steps']:.1f} |"
    )


def report(rows: list[dict[str, Any]], parameters: dict[str, Any]) -> Report:
    """The rows, and what AYS saves."""
    seconds = {row["request"]: row["seconds"] for row in rows}
    ratio = Figure(
        name="25 Karras steps over 10 AYS steps",
        measured=seconds[DEFAULT] / seconds["euler ays 10"],
        unit="x",
    )
    return Report(benchmark="samplers", figures=[ratio], parameters=parameters, details={"rows": rows})


def samplers(
    repository: Annotated[Path, typer.Argument(help="the model repository")],
    image: Annotated[Path, typer.Option(help="the picture to animate")],
    rounds: Annotated[int, typer.Option(help="rounds, of which the fastest counts", min=1)] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures samplers and schedules: time, and difference to the default and to many steps."""
    photo, manifest, console = image.read_bytes(), Manifest.load(repository), Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log") as server,
        Client(server.url) as client,
    ):
        rows = measure(client, photo, rounds)
    table = Table("request", "seconds", "of which denoising", "dB to default", "dB to 100 steps")
    for row in rows:
        table.add_row(*(cell.strip() for cell in line(row).strip("|").split("|")))
    console.print(table)
    facts = {"checkpoint": manifest.checkpoint, "engine": manifest.engine, "precision": manifest.precision}
    outcome = report(rows, facts | {"size": manifest.sizes[0], "rounds": rounds, "seed": _SEED})
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(samplers)
