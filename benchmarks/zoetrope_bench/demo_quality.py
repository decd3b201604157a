"""Does the demo checkpoint animate a picture?

`python -m zoetrope_bench.demo_quality --json FILE --sheet FILE.png [--repository REPOSITORY]`.
Run from the repository's root: the held-out pictures and the measures are in `demo/training`. With a
repository that was exported from the checkpoint, the server makes the videos, over gRPC, and is timed too.
"""

import importlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

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
scenes = importlib.import_module("demo.training.scenes")
vae_training = importlib.import_module("demo.training.vae")

logger = logging.getLogger(__name__)
CHECKPOINT = Path("demo/checkpoint")
BUCKETS = (20, 80, 140, 200)
HELD_OUT_SEED = 1_000_000_000
PROCEDURAL = ("clouds", "water", "objects", "smoke")


def to_bytes(images: torch.Tensor) -> Frames:
    """Images f32 [...,3,H,W] in 0..1 as u8 [...,H,W,3]."""
    return (images.clamp(0, 1) * 255).round().byte().movedim(-3, -1).numpy()


def subjects() -> list[Subject]:
    """Four photographs and four procedural scenes that training never saw."""
    photographs = [Subject(p.file, to_bytes(vae_training.fit(p.load()))) for p in pictures.HELD_OUT]
    clips = [scenes.make_clip(HELD_OUT_SEED + n, (), kind, 140) for n, kind in enumerate(PROCEDURAL)]
    made = [Subject(clip.kind, to_bytes(clip.frames[0]), to_bytes(clip.frames)) for clip in clips]
    return photographs + made


def describe(video: Frames, picture: Frames | None = None) -> dict[str, float]:
    """All measures of one video."""
    flow = measure.flows(video)
    predicted = measure.predictions(video, flow)
    figures = {
        "motion_px": measure.motion(flow),
        "worst_prediction_db": min(predicted),
        "mean_prediction_db": float(np.mean(predicted)),
        "flicker_percent": measure.flicker(video),
        "independence": measure.independence(flow),
    }
    return figures if picture is None else {"first_frame_db": measure.psnr(video[0], picture), **figures}


def references(shape: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """The measures of a static video, of pure noise and of a true virtual-camera clip."""
    camera = scenes.make_clip(HELD_OUT_SEED + 99, [p.load() for p in pictures.HELD_OUT[:1]], "camera", 140)
    truth = to_bytes(camera.frames)
    noise = np.random.default_rng(0).integers(0, 256, (scenes.FRAMES, *shape), dtype=np.uint8)
    static = np.repeat(truth[:1], scenes.FRAMES, axis=0)
    return {name: describe(v) for name, v in (("static", static), ("noise", noise), ("camera", truth))}


def ceiling(checkpoint: Path, some: Sequence[Subject]) -> dict[str, float]:
    """The PSNR in dB that the autoencoder alone reaches on each picture."""
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder.from_pretrained(checkpoint, subfolder="vae").float().eval()
    tensors = {s.name: torch.from_numpy(s.picture).permute(2, 0, 1).float() / 255 for s in some}
    return {name: vae_training.ceiling(vae, tensor) for name, tensor in tensors.items()}


def sweep(generate: Generate, subject: Subject, base: Settings) -> dict[str, Any]:
    """A picture's videos over the motion buckets and with a second seed, measured."""
    videos = {bucket: generate(subject, replace(base, bucket=bucket)) for bucket in BUCKETS}
    other = generate(subject, replace(base, seed=base.seed + 1))
    motions = [describe(video)["motion_px"] for video in videos.values()]
    row = {
        "motion_by_bucket": dict(zip(BUCKETS, motions, strict=True)),
        "monotonic": all(a < b for a, b in zip(motions, motions[1:], strict=False)),
        "seed_difference": measure.difference(measure.flows(videos[140]), measure.flows(other)),
        **describe(videos[140], subject.picture),
        "video": videos[140],
    }
    if subject.truth is not None:
        row["true_independence"] = describe(subject.truth)["independence"]
    return row


def check(figure: str, target: str, measured: float, passed: bool) -> dict[str, Any]:
    """One line of the report."""
    return {"figure": figure, "target": target, "measured": round(measured, 3), "passed": bool(passed)}


def verdicts(rows: Mapping[str, Mapping[str, Any]], repeatable: bool) -> list[dict[str, Any]]:
    """The issue's thresholds, each the worst over the pictures."""
    values = list(rows.values())
    worst = {
        name: min(row[name] for row in values)
        for name in ("first_frame_db", "worst_prediction_db", "motion_px")
    }
    obedient = sum(row["monotonic"] for row in values)
    rest = max(row["motion_by_bucket"][20] / row["motion_by_bucket"][140] for row in values)
    flicker = max(row["flicker_percent"] for row in values)
    own = min(row["independence"] for row in values if "true_independence" in row)
    seeds = min(row["seed_difference"] for row in values)
    return [
        check(
            "first frame, worst picture (dB)", ">= 24", worst["first_frame_db"], worst["first_frame_db"] >= 24
        ),
        check("pictures whose motion rises with the bucket", ">= 7 of 8", obedient, obedient >= 7),
        check(
            "motion at bucket 140, worst (px a frame)",
            ">= 0.5",
            worst["motion_px"],
            worst["motion_px"] >= 0.5,
        ),
        check("motion at 20 over motion at 140, worst", "< 1/3", rest, rest < 1 / 3),
        check(
            "frame prediction, worst frame (dB)",
            ">= 26",
            worst["worst_prediction_db"],
            worst["worst_prediction_db"] >= 26,
        ),
        check("flicker, worst (%)", "< 1", flicker, flicker < 1),
        check("independent motion, worst procedural scene", ">= 0.2", own, own >= 0.2),
        check("flow difference of two seeds, worst", "> 0.3", seeds, seeds > 0.3),
        check("the same seed gives the same video", "1", float(repeatable), repeatable),
    ]


def speeds(generate: Generate, subject: Subject, base: Settings) -> list[dict[str, Any]]:
    """Seconds of a video with 25 Karras steps and with 10 AYS steps, the better of two, after a first one."""
    lines = []
    for name, settings, target in (
        ("a video with 25 steps through the server (s)", replace(base, steps=25, ays=False), 15.0),
        ("a video with 10 AYS steps through the server (s)", replace(base, steps=10, ays=True), 7.0),
    ):
        seconds = []
        for seed in range(3):
            began = time.monotonic()
            generate(subject, replace(settings, seed=seed))
            seconds.append(time.monotonic() - began)
        lines.append(check(name, f"<= {target:g}", min(seconds[1:]), min(seconds[1:]) <= target))
    return lines


def variations(base: Settings) -> dict[str, Settings]:
    """What the table of settings compares."""
    return {
        "25 steps": replace(base, steps=25, ays=False),
        "10 steps, AYS": replace(base, steps=10, ays=True),
        "5 steps": replace(base, steps=5, ays=False),
        "no guidance": replace(base, guidance=(1.0, 1.0)),
        "guidance 1 to 1.5": replace(base, guidance=(1.0, 1.5)),
        "guidance 1 to 3": replace(base, guidance=(1.0, 3.0)),
        "no augmentation": replace(base, augmentation=0.0),
        "augmentation 0.1": replace(base, augmentation=0.1),
    }


def settings_table(
    generate: Generate, some: Sequence[Subject], base: Settings
) -> dict[str, dict[str, float]]:
    """The mean measures of each variation over some pictures."""
    table = {}
    for name, settings in variations(base).items():
        rows = [describe(generate(subject, settings), subject.picture) for subject in some]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        logger.info("%s: %s", name, {key: round(value, 2) for key, value in table[name].items()})
    return table


def contact_sheet(some: Sequence[Subject], rows: Mapping[str, Mapping[str, Any]]) -> Image.Image:
    """Each picture and frames 0, 4, 9 and 13 of its video at bucket 140."""
    lines = [
        np.concatenate([s.picture, *(rows[s.name]["video"][n] for n in (0, 4, 9, 13))], axis=1) for s in some
    ]
    return Image.fromarray(np.concatenate(lines, axis=0))


def show(report: Mapping[str, Any]) -> None:
    """Prints the verdicts and the references as tables."""
    table = Table("figure", "target", "measured", "passed", title="Demo checkpoint")
    for line in report["figures"]:
        table.add_row(
            line["figure"], line["target"], f"{line['measured']:.3f}", "yes" if line["passed"] else "[red]NO"
        )
    Console().print(table)
    for title in ("references", "settings"):
        if report[title]:
            table = Table(title, *next(iter(report[title].values())))
            for name, row in report[title].items():
                table.add_row(name, *(f"{value:.2f}" for value in row.values()))
            Console().print(table)


def main(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.")],
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet (PNG) goes.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint to measure.")] = CHECKPOINT,
    steps: Annotated[int, typer.Option(help="Denoising steps of the main measures.")] = 25,
    ays: Annotated[bool, typer.Option(help="The ten AYS sigmas instead of Karras'.")] = False,
    table: Annotated[bool, typer.Option(help="Also compare steps, guidance and augmentation.")] = True,
    guidance: Annotated[float, typer.Option(help="Guidance of the last frame; 1 is none.")] = 1.5,
    count: Annotated[int, typer.Option(help="How many of the eight pictures.")] = 8,
    repository: Annotated[Path | None, typer.Option(help="Generate by a server of this repository.")] = None,
) -> None:
    """Measures the demo checkpoint on pictures that its training never saw."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    some = subjects()[:: 8 // count]
    base = Settings(steps=10 if ays else steps, ays=ays, guidance=(1.0, guidance))
    started = time.monotonic()
    with served_generator(repository) if repository else nullcontext(local_generator(checkpoint)) as generate:
        rows = {}
        for subject in some:
            rows[subject.name] = sweep(generate, subject, base)
            shown = {key: value for key, value in rows[subject.name].items() if key != "video"}
            logger.info("%s: %s", subject.name, shown)
        repeatable = np.array_equal(generate(some[0], base), rows[some[0].name]["video"])
        settings = settings_table(generate, some[::4], base) if table else {}
        served = speeds(generate, some[0], base) if repository else []
    contact_sheet(some, rows).save(sheet)
    report = {
        "made_by": "the server" if repository else "diffusers",
        "base": asdict(base),
        "figures": verdicts(rows, repeatable) + served,
        "pictures": {name: {k: v for k, v in row.items() if k != "video"} for name, row in rows.items()},
        "autoencoder_ceiling_db": ceiling(checkpoint, some),
        "references": references(some[0].picture.shape),
        "settings": settings,
        "seconds": time.monotonic() - started,
        "machine": machine(),
    }
    json_file.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


if __name__ == "__main__":
    typer.run(main)
