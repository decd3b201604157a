"""This server beside diffusers: the same checkpoint, image and parameters, all cores each, in one run.

    python -m zoetrope_bench.side_by_side CHECKPOINT REPOSITORY [--json FILE]

Contenders take turns, so that a slow minute of the machine hits all of them. Each is measured end to end and
warm, from the encoded image to the encoded video; the server through gRPC.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import serving
from zoetrope_client.client import Client
from zoetrope_core.manifest import Manifest
from zoetrope_server.media.encode import encode_video
from zoetrope_server.media.fit import fit

Contender = Callable[[int], None]
"""Generates one video with the given seed."""
EAGER, COMPILED, SERVER = "diffusers eager fp32", "diffusers torch.compile bf16", "zoetrope"


def diffusers_contender(
    checkpoint: Path, manifest: Manifest, photo: bytes, steps: int, fast: bool
) -> Contender:
    """The pipeline of diffusers, eager in FP32, or `fast`: BF16 with the UNet and the decoder compiled."""
    import torch
    from diffusers import StableVideoDiffusionPipeline

    dtype = torch.bfloat16 if fast else torch.float32
    pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(checkpoint, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    if fast:
        pipeline.unet = torch.compile(pipeline.unet)
        pipeline.vae.decode = torch.compile(pipeline.vae.decode)
    height, width = manifest.sizes[0]
    frames = manifest.num_frames[0]

    def generate(seed: int) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
        image = Image.fromarray(fit(pixels, (height, width), "crop"))
        with torch.inference_mode():
            video = pipeline(
                image,
                height=height,
                width=width,
                num_frames=frames,
                num_inference_steps=steps,
                decode_chunk_size=manifest.decode_chunk_size,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).frames[0]
        encode_video([(video * 255).round().astype(np.uint8)], fps=7)

    return generate


def measure(contenders: dict[str, Contender], rounds: int, console: Console) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(rounds + 1):
        for name, generate in contenders.items():
            began = time.perf_counter()
            generate(seed)
            spent = time.perf_counter() - began
            console.print(f"{'warm-up' if seed == 0 else f'round {seed}'}: {name} {spent:.2f} s")
            if seed:
                seconds[name].append(spent)
    return seconds


def report(seconds: dict[str, list[float]], parameters: dict[str, Any]) -> Report:
    """The ratios between the medians, against the targets."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    figures = [Figure(name=f"{name}, median", measured=value, unit="s") for name, value in median.items()]
    for name, target in ((EAGER, 2.5), (COMPILED, 1.0)):
        if name in median:
            ratio = median[name] / median[SERVER]
            figures.append(Figure(name=f"speed against {name}", measured=ratio, unit="x", target=target))
    return Report(
        benchmark="side_by_side", figures=figures, parameters=parameters, details={"seconds": seconds}
    )


def side_by_side(
    checkpoint: Annotated[Path, typer.Argument(help="the checkpoint, in diffusers' layout")],
    repository: Annotated[Path, typer.Argument(help="the model repository exported from it")],
    image: Annotated[Path, typer.Option(help="the picture to animate")],
    steps: Annotated[int, typer.Option(help="denoising steps")] = 25,
    rounds: Annotated[int, typer.Option(help="measured rounds")] = 3,
    compiled: Annotated[bool, typer.Option(help="measure torch.compile too")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures this server, diffusers eager FP32 and diffusers torch.compile BF16 in one run."""
    import torch

    console = Console(stderr=True)
    manifest, photo = Manifest.load(repository), image.read_bytes()
    contenders = {EAGER: diffusers_contender(checkpoint, manifest, photo, steps, fast=False)}
    if compiled:
        contenders[COMPILED] = diffusers_contender(checkpoint, manifest, photo, steps, fast=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log") as server,
        Client(server.url) as client,
    ):

        def generate(seed: int) -> None:
            client.generate(photo, seed=seed, num_inference_steps=steps)

        seconds = measure(contenders | {SERVER: generate}, rounds, console)
    outcome = report(
        seconds,
        {
            "steps": steps,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "engine": manifest.engine,
            "precision": manifest.precision,
            "size": manifest.sizes[0],
            "num_frames": manifest.num_frames[0],
            "checkpoint": manifest.checkpoint,
        },
    )
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(side_by_side)
