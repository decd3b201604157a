"""Does the demo checkpoint animate an image? Sixteen that training never saw, through the server.

`python -m zoetrope_bench.demo_quality --out DIRECTORY [--beside DIRECTORY]`, from the repository's root: the
held-out images and the measures are in `demo`. The directory gets the figures, each image's video and contact
sheet, and a page that shows them, beside those of an earlier run.
"""

import importlib
import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from zoetrope_bench.demo_page import write_page, write_video
from zoetrope_bench.demo_videos import (
    Frames,
    Generate,
    Settings,
    Subject,
    local_generator,
    served_generator,
)
from zoetrope_bench.report import machine

measure = importlib.import_module("demo.training.measure")
pictures = importlib.import_module("demo.training.pictures")
vae_training = importlib.import_module("demo.training.vae")

logger = logging.getLogger(__name__)
CHECKPOINT = Path("demo/checkpoint")
SIZE = (128, 192)
BUCKETS = (0, 60, 127, 200)
DEFAULT_BUCKET = 127
REQUEST = Settings(bucket=DEFAULT_BUCKET, seed=1, guidance=(1.0, 3.0))


def to_bytes(images: torch.Tensor) -> Frames:
    """Images f32 [...,3,H,W] in 0..1 as u8 [...,H,W,3]."""
    return (images.clamp(0, 1) * 255).round().byte().movedim(-3, -1).numpy()


def subjects(size: tuple[int, int] = SIZE) -> list[Subject]:
    """The held-out images at a size (height, width)."""
    return [Subject(p.name, to_bytes(vae_training.fit(p.load(), size))) for p in pictures.HELD_OUT]


def describe(video: Frames, picture: Frames) -> dict[str, float]:
    """All measures of one video of an image."""
    flow = measure.flows(video)
    predicted = measure.predictions(video, flow)
    return {
        "first_frame_db": measure.psnr(video[0], picture),
        "motion_px": measure.motion(flow),
        "worst_prediction_db": min(predicted),
        "mean_prediction_db": float(np.mean(predicted)),
        "flicker_percent": measure.flicker(video),
        "sharpness_kept": measure.sharpness_kept(video),
    }


def ceiling(checkpoint: Path, some: Sequence[Subject]) -> dict[str, float]:
    """The PSNR in dB that the autoencoder alone reaches on each image."""
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder.from_pretrained(checkpoint, subfolder="vae").float().eval()
    tensors = {s.name: torch.from_numpy(s.picture).permute(2, 0, 1).float() / 255 for s in some}
    return {name: vae_training.ceiling(vae, tensor) for name, tensor in tensors.items()}


def sweep(generate: Generate, subject: Subject, out: Path) -> dict[str, Any]:
    """An image's videos over the motion buckets and with a second seed, measured and kept."""
    videos = {bucket: generate(subject, replace(REQUEST, bucket=bucket)) for bucket in BUCKETS}
    other = generate(subject, replace(REQUEST, seed=REQUEST.seed + 1))
    video = videos[DEFAULT_BUCKET]
    write_video(out, subject, video)
    motions = [describe(each, subject.picture)["motion_px"] for each in videos.values()]
    return {
        "motion_by_bucket": dict(zip(BUCKETS, motions, strict=True)),
        "monotonic": all(a < b for a, b in zip(motions, motions[1:], strict=False)),
        "seed_difference": measure.difference(video, other),
        "second_seed": describe(other, subject.picture),
        **describe(video, subject.picture),
    }


def check(figure: str, target: str, measured: float, passed: bool) -> dict[str, Any]:
    """One line of the report."""
    return {"figure": figure, "target": target, "measured": round(measured, 3), "passed": bool(passed)}


def least(figure: str, limit: float, values: Sequence[float]) -> dict[str, Any]:
    """A figure whose smallest value must reach a limit."""
    return check(figure, f">= {limit:g}", min(values), min(values) >= limit)


def below(figure: str, limit: float, values: Sequence[float]) -> dict[str, Any]:
    """A figure whose largest value must stay below a limit."""
    return check(figure, f"< {limit:g}", max(values), max(values) < limit)


def verdicts(rows: Mapping[str, Mapping[str, Any]], ceilings: Sequence[float]) -> list[dict[str, Any]]:
    """The thresholds, each the worst over the images, and over both seeds where it is of one video."""
    values = list(rows.values())
    videos = values + [row["second_seed"] for row in values]
    obedient = sum(row["monotonic"] for row in values)
    mean = sum(ceilings) / len(ceilings)
    return [
        check("autoencoder, mean (dB)", ">= 30", mean, mean >= 30),
        least("autoencoder, worst (dB)", 27, ceilings),
        least("frame 0 against the input (dB)", 26, [row["first_frame_db"] for row in videos]),
        least("flow-warped PSNR, worst frame (dB)", 28, [row["worst_prediction_db"] for row in videos]),
        least("sharpness, last frame to first", 0.7, [row["sharpness_kept"] for row in videos]),
        below("flicker (%)", 1, [row["flicker_percent"] for row in videos]),
        check(
            "images whose motion rises with the bucket",
            f"{len(values)}",
            obedient,
            obedient == len(values),
        ),
        below("motion at bucket 0 (px a frame)", 0.15, [row["motion_by_bucket"][0] for row in values]),
        least("difference of two seeds (levels)", 2, [row["seed_difference"] for row in values]),
    ]


def seconds_a_video(generate: Generate, subject: Subject) -> dict[str, Any]:
    """Seconds of the default video, the better of two, after those before."""
    seconds = []
    for seed in range(2):
        began = time.monotonic()
        generate(subject, replace(REQUEST, seed=seed))
        seconds.append(time.monotonic() - began)
    return check("default video through the server (s)", "< 15", min(seconds), min(seconds) < 15)


def show(figures: Sequence[Mapping[str, Any]]) -> None:
    """Prints the verdicts as a table."""
    table = Table("figure", "target", "measured", "passed", title="Demo checkpoint")
    for line in figures:
        passed = "yes" if line["passed"] else "[red]NO"
        table.add_row(line["figure"], line["target"], f"{line['measured']:.3f}", passed)
    Console().print(table)


@contextmanager
def generator(checkpoint: Path, size: tuple[int, int], out: Path, served: bool) -> Iterator[Generate]:
    """Videos by a server of engines that are built when they aren't there, or by diffusers."""
    if not served:
        yield local_generator(checkpoint)
        return
    repository = out / "repository"
    if not (repository / "zoetrope.json").is_file():
        zoetrope = str(Path(sys.executable).parent / "zoetrope")
        engine = ("--engine", "openvino", "--precision", "bf16", "--size", f"{size[0]}x{size[1]}")
        subprocess.run([zoetrope, "export", str(checkpoint), *engine, "--out", str(repository)], check=True)
    with served_generator(repository) as generate:
        yield generate


def frame_size(checkpoint: Path) -> tuple[int, int]:
    """The size (height, width) that a checkpoint was trained for: 128x192, or 160 high and 256 wide."""
    height = json.loads((checkpoint / "vae/config.json").read_text())["sample_size"]
    return {128: (128, 192), 160: (160, 256)}[height]


def main(
    out: Annotated[Path, typer.Option(help="Where figures, videos, sheets and the page go.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint to judge.")] = CHECKPOINT,
    beside: Annotated[Path | None, typer.Option(help="An earlier run that the page shows too.")] = None,
    count: Annotated[int, typer.Option(help="How many of the sixteen images.")] = 16,
    served: Annotated[bool, typer.Option(help="Through the server, or by diffusers.")] = True,
) -> None:
    """Judges the demo checkpoint on images that its training never saw."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out.mkdir(parents=True, exist_ok=True)
    size = frame_size(checkpoint)
    some = subjects(size)[:: math.ceil(len(pictures.HELD_OUT) / count)]
    began, rows = time.monotonic(), {}
    with generator(checkpoint, size, out, served) as generate:
        for subject in some:
            rows[subject.name] = sweep(generate, subject, out)
            logger.info("%s: %s", subject.name, rows[subject.name])
        speed = [seconds_a_video(generate, some[0])] if served else []
    ceilings = ceiling(checkpoint, some)
    figures = verdicts(rows, list(ceilings.values())) + speed
    report = {
        "made_by": "the server" if served else "diffusers",
        "request": asdict(REQUEST),
        "figures": figures,
        "images": rows,
        "autoencoder_db": ceilings,
        "seconds": time.monotonic() - began,
        "machine": machine(),
    }
    (out / "quality.json").write_text(json.dumps(report, indent=1) + "\n")
    write_page(out, report, beside)
    show(figures)


if __name__ == "__main__":
    typer.run(main)
