"""What a denoising step costs around the engine: the orchestrator beside a minimal loop of stage calls.

    python -m zoetrope_bench.overhead [--repository REPOSITORY --image FILE] [--json FILE]

Both run in the same Triton, in turns, at full SVD-XT tensor shapes (25 frames, 72x128 latents, K = 2), with
a UNet that returns its input. With a repository, the same no-op UNet at that repository's shapes is compared
with a whole real request. Then whole videos of servers as they are deployed for GPUs, over engines that take
a known time: see `host_time`.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from tritonclient import grpc

from zoetrope_bench import host_time
from zoetrope_bench.noop_repository import MINIMAL, write_noop_repository
from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import Server, serving
from zoetrope_client.client import Client
from zoetrope_core.manifest import Manifest
from zoetrope_core.sampling import Step, euler
from zoetrope_core.schedules import karras
from zoetrope_core.specs import Array

SVD_XT = Manifest(
    checkpoint="no-op at SVD-XT's shapes",
    engine="noop",
    precision="fp16",
    latent_channels=4,
    embedding_dim=1024,
    vae_scale_factor=8,
    scaling_factor=0.18215,
    clip_size=224,
    clip_mean=(0.5, 0.5, 0.5),
    clip_std=(0.25, 0.25, 0.25),
    sigma_min=0.002,
    sigma_max=700.0,
    rho=7.0,
    sizes=((576, 1024),),
    num_frames=(25,),
    decode_chunk_size=25,
)


def minimal_ms(server: Server, steps: int) -> float:
    """The median milliseconds of one step of the minimal loop."""
    results: list[Array] = []
    with grpc.InferenceServerClient(server.url) as client:
        client.start_stream(lambda result, error: results.append(error or result.as_numpy("seconds")))
        count = grpc.InferInput("steps", [1], "INT32")
        count.set_data_from_numpy(np.array([steps], np.int32))
        client.async_stream_infer(MINIMAL, [count])
        client.stop_stream()
    if not results or isinstance(results[0], Exception):
        raise RuntimeError(f"the minimal loop gave no result: {results}")
    return float(np.median(results[0]) * 1000)


def orchestrated_ms(client: Client, photo: bytes, steps: int) -> float:
    """The mean milliseconds of one step of a real request."""
    return client.generate(photo, seed=1, num_inference_steps=steps).timings["denoise"] / steps * 1000


def sampler_ms(manifest: Manifest, steps: int) -> float:
    """The milliseconds of one step of the sampler alone, over a model that answers at once."""
    shape = (manifest.num_frames[0], manifest.latent_channels, *manifest.latent_size(manifest.sizes[0]))
    x = np.ones(shape, np.float32)

    async def model(x: Array, sigma: float) -> Array:
        return x

    async def on_step(step: Step) -> None:
        return None

    began = time.perf_counter()
    asyncio.run(
        euler(model, x, karras(steps, sigma_min=manifest.sigma_min, sigma_max=manifest.sigma_max), on_step)
    )
    return (time.perf_counter() - began) / steps * 1000


def step_costs(manifest: Manifest, steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step, by round, of the minimal loop, the orchestrator and the sampler."""
    costs: dict[str, list[float]] = {"minimal": [], "orchestrated": [], "sampler": []}
    photo = _picture(manifest.sizes[0])
    with tempfile.TemporaryDirectory() as folder:
        repository = write_noop_repository(Path(folder) / "repository", manifest)
        with serving(repository, Path(folder) / "log") as server, Client(server.url) as client:
            minimal_ms(server, steps), orchestrated_ms(client, photo, steps)
            for _ in range(rounds):
                costs["minimal"].append(minimal_ms(server, steps))
                costs["orchestrated"].append(orchestrated_ms(client, photo, steps))
                costs["sampler"].append(sampler_ms(manifest, steps))
    return costs


def request_share(
    repository: Path, photo: bytes, steps: int, rounds: int
) -> tuple[list[Figure], dict[str, float]]:
    """The share of the orchestration in a whole request of a real repository."""
    noop = statistics.median(step_costs(Manifest.load(repository), steps, rounds)["orchestrated"]) * steps
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log") as server,
        Client(server.url) as client,
    ):
        seconds = [
            client.generate(photo, seed=1, num_inference_steps=steps).timings["total"]
            for _ in range(rounds + 1)
        ]
    total = statistics.median(seconds[1:]) * 1000
    figure = Figure(
        name="share of a request: its steps without the UNet",
        measured=100 * noop / total,
        unit="%",
        target=5.0,
        at_most=True,
    )
    return [figure], {"steps of no-op, ms": noop, "request, ms": total}


def overhead(
    repository: Annotated[
        Path | None, typer.Option(help="a real repository, for its request's share")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="the picture for it")] = None,
    steps: Annotated[int, typer.Option(help="denoising steps")] = 25,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures what a denoising step, and a whole video, costs around the engines."""
    console = Console(stderr=True)
    costs = step_costs(SVD_XT, steps, rounds)
    median = {name: statistics.median(values) for name, values in costs.items()}
    ratio = statistics.median(a / b for a, b in zip(costs["orchestrated"], costs["minimal"], strict=True))
    rest = median["orchestrated"] - median["minimal"] - median["sampler"]
    figures = [
        Figure(
            name="a step, no-op UNet",
            measured=median["orchestrated"],
            unit="ms",
            target=host_time.STEP_TARGET_MS,
            at_most=True,
        ),
        Figure(name="against the minimal loop", measured=ratio, unit="x", target=1.3, at_most=True),
        Figure(name="of it: a minimal stage call", measured=median["minimal"], unit="ms"),
        Figure(name="of it: the sampler", measured=median["sampler"], unit="ms"),
        Figure(name="of it: stage glue, events, checks", measured=rest, unit="ms"),
    ]
    details: dict[str, object] = {"milliseconds": costs}
    if repository is not None:
        photo = image.read_bytes() if image else _picture(Manifest.load(repository).sizes[0])
        more, shares = request_share(repository, photo, steps, rounds)
        figures += more
        details["request"] = shares
    for deployment in host_time.deployments(SVD_XT, steps):
        measured = host_time.measure(deployment, rounds)
        figures += host_time.figures(deployment, measured)
        details[deployment.name] = asdict(measured)
    outcome = Report(
        benchmark="overhead", figures=figures, parameters={"steps": steps, "rounds": rounds}, details=details
    )
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


def _picture(size: tuple[int, int]) -> bytes:
    """A grey PNG of the frame size."""
    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), (120, 130, 140)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    typer.run(overhead)
