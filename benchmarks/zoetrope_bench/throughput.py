"""What company brings: videos per minute of several equal requests at once against one at a time.

    python -m zoetrope_bench.throughput REPOSITORY --image FILE [--json FILE]

Both in the same server, in turns; the batch sizes that the UNet reached are Triton's own statistics.
A mixture of requests with and without guidance (K = 2 and K = 1) is measured too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from tritonclient import grpc

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import Server, serving
from zoetrope_client.client import Client
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET

GUIDED: dict[str, Any] = {}
UNGUIDED: dict[str, Any] = {"max_guidance_scale": 1.0}
TARGET = 1.3
Results = dict[str, list[tuple[float, float]]]
"""Videos per minute and steps per execution of each round, by case."""


def unet_counts(server: Server) -> tuple[int, int]:
    """Inferences and executions of the UNet so far."""
    with grpc.InferenceServerClient(server.url) as connection:
        (stats,) = connection.get_inference_statistics(UNET.name).model_stats
    return stats.inference_count, stats.execution_count


def run(server: Server, photo: bytes, requests: Sequence[dict[str, Any]], width: int) -> tuple[float, float]:
    """Videos per minute, and steps per execution, of requests sent `width` at a time."""
    before = unet_counts(server)
    began = time.perf_counter()
    with Client(server.url) as client, ThreadPoolExecutor(width) as pool:
        videos = list(pool.map(lambda fields: client.generate(photo, **fields), requests))
    seconds = time.perf_counter() - began
    inferences, executions = (now - then for now, then in zip(unet_counts(server), before, strict=True))
    return len(videos) * 60 / seconds, inferences / executions


def throughput(
    repository: Annotated[Path, typer.Argument(help="the model repository")],
    image: Annotated[Path, typer.Option(help="the picture to animate")],
    concurrency: Annotated[int, typer.Option(help="requests at once")] = 4,
    steps: Annotated[int, typer.Option(help="denoising steps")] = 10,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures videos per minute of concurrent requests against one at a time."""
    photo, manifest = image.read_bytes(), Manifest.load(repository)
    equal = [{**GUIDED, "num_inference_steps": steps, "seed": seed} for seed in range(concurrency)]
    mixed = [
        {**(UNGUIDED if seed % 2 else GUIDED), "num_inference_steps": steps, "seed": seed}
        for seed in range(concurrency)
    ]
    cases = {"alone": (equal, 1), "together": (equal, concurrency), "mixed": (mixed, concurrency)}
    results: Results = {name: [] for name in cases}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log", "--max-active", str(concurrency)) as server,
    ):
        for number in range(rounds + 1):
            for name, (requests, width) in cases.items():
                result = run(server, photo, requests, width)
                if number:
                    results[name].append(result)
    outcome = report(results, concurrency, {"steps": steps, "rounds": rounds, **manifest.to_dict()})
    outcome.show(Console(stderr=True))
    if json_file:
        outcome.save(json_file)


def report(results: Results, concurrency: int, parameters: dict[str, Any]) -> Report:
    """The medians over the rounds, and the gain against its target."""
    rate = {name: statistics.median(rate for rate, _ in values) for name, values in results.items()}
    batch = {name: statistics.median(batch for _, batch in values) for name, values in results.items()}
    figures = [
        Figure(name="videos a minute, one at a time", measured=rate["alone"]),
        Figure(name=f"videos a minute, {concurrency} at once", measured=rate["together"]),
        Figure(name="gain", measured=rate["together"] / rate["alone"], unit="x", target=TARGET),
        Figure(name=f"steps per execution, {concurrency} at once", measured=batch["together"]),
        Figure(name="steps per execution, K = 1 and K = 2 mixed", measured=batch["mixed"]),
    ]
    return Report(
        benchmark="throughput",
        figures=figures,
        parameters={"concurrency": concurrency, **parameters},
        details={"videos a minute and batch, by round": results},
    )


if __name__ == "__main__":
    typer.run(throughput)
