"""This server beside diffusers: the same checkpoint, image, noise and parameters, all cores each, in one run.

    python -m zoetrope_bench.side_by_side CHECKPOINT REPOSITORY --image FILE [--json FILE]

Contenders take turns, so that a slow minute of the machine hits all of them; each has processes of its own.
Times are end to end and warm, from the encoded image to the encoded video; the server's through gRPC.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from zoetrope_bench import pipeline_worker as diffusers_kinds
from zoetrope_bench.contenders import Case, Contender, Crowd, diffusers, served
from zoetrope_bench.memory import peak_memory
from zoetrope_bench.report import Figure, Report
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import Array
from zoetrope_export.parity import psnr

EAGER, COMPILED, SERVER = "diffusers eager fp32", "diffusers torch.compile bf16", "zoetrope"
KINDS: Mapping[str, str] = {EAGER: diffusers_kinds.EAGER, COMPILED: diffusers_kinds.COMPILED}
WIDTHS = (1, 2, 4, 8)
TARGETS: Mapping[str, float] = {EAGER: 2.5, COMPILED: 1.0}
_SEED = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found of one contender.

    Attributes:
        seconds: of one video, by round.
        crowds: of several videos at once, by their number.
        warm_up: seconds from nothing to the first video.
        memory: the most memory of all its processes, in bytes.
        frames: of one video, u8 [F,H,W,3].
    """

    seconds: Sequence[float]
    crowds: Mapping[int, Crowd]
    warm_up: float
    memory: int
    frames: Array


def measure(
    contenders: Mapping[str, Contender],
    *,
    steps: int,
    rounds: int,
    crowd_steps: int,
    widths: Sequence[int],
    console: Console,
) -> dict[str, Measured]:
    """Lets the contenders take turns: one video a round, then several at once, then one for its frames."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender.video(number + 1, steps))
            console.print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s")
    crowds: dict[str, dict[int, Crowd]] = {name: {} for name in contenders}
    for width in widths:
        for name, contender in contenders.items():
            crowds[name][width] = contender.crowd(width, crowd_steps)
            console.print(f"{width} at once: {name} {crowds[name][width].seconds:.2f} s")
    return {
        name: Measured(
            seconds=seconds[name],
            crowds=crowds[name],
            warm_up=contender.warm_up,
            frames=contender.frames(_SEED, steps),
            memory=peak_memory(contender.pid),
        )
        for name, contender in contenders.items()
    }


def rows(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """A line of the table for each contender, JSON-ready; the PSNR is against diffusers in FP32."""
    reference = measured.get(EAGER)
    return [
        {
            "contender": name,
            "seconds": round(statistics.median(each.seconds), 3),
            "videos_a_minute": {
                str(width): round(60 * width / crowd.seconds, 2) for width, crowd in each.crowds.items()
            },
            "videos_an_execution": {
                str(width): round(crowd.batch, 2) for width, crowd in each.crowds.items()
            },
            "peak_memory_mib": each.memory >> 20,
            "warm_up_seconds": round(each.warm_up, 1),
            "psnr_db": None
            if reference is None or each is reference
            else round(psnr(reference.frames, each.frames), 1),
        }
        for name, each in measured.items()
    ]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """The rows as the README shows them, with the videos an execution of the UNet in parentheses."""
    widths = list(found[0]["videos_a_minute"])
    rates = " | ".join(f"{width} at once" for width in widths)
    lines = [
        f"| | one video, s | videos a minute: {rates} | peak memory, MiB | ready after, s | PSNR, dB |",
        "| --- " * (len(widths) + 5) + "|",
    ]
    for row in found:
        rates = " | ".join(
            f"{row['videos_a_minute'][width]:.1f} ({row['videos_an_execution'][width]:g})" for width in widths
        )
        quality = "reference" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        lines.append(
            f"| {row['contender']} | {row['seconds']:.2f} | {rates} | {row['peak_memory_mib']} "
            f"| {row['warm_up_seconds']:.0f} | {quality} |"
        )
    return "\n".join(lines)


def report(measured: Mapping[str, Measured], parameters: dict[str, Any]) -> Report:
    """The ratios between the medians, against the targets."""
    found = rows(measured)
    median = {row["contender"]: row["seconds"] for row in found}
    figures = [Figure(name=f"{name}, median", measured=value, unit="s") for name, value in median.items()]
    for name, target in TARGETS.items():
        if name in median:
            ratio = median[name] / median[SERVER]
            figures.append(Figure(name=f"speed against {name}", measured=ratio, unit="x", target=target))
    seconds = {name: list(each.seconds) for name, each in measured.items()}
    return Report(
        benchmark="side_by_side",
        figures=figures,
        parameters=parameters,
        details={"rows": found, "seconds": seconds},
    )


def side_by_side(
    checkpoint: Annotated[Path, typer.Argument(help="the checkpoint, in diffusers' layout", exists=True)],
    repository: Annotated[Path, typer.Argument(help="the model repository exported from it", exists=True)],
    image: Annotated[Path, typer.Option(help="the picture to animate", exists=True)],
    steps: Annotated[int, typer.Option(help="denoising steps of one video", min=1)] = 25,
    rounds: Annotated[int, typer.Option(help="measured rounds", min=1)] = 3,
    crowd_steps: Annotated[int, typer.Option(help="denoising steps of several at once", min=1)] = 10,
    at_once: Annotated[list[int] | None, typer.Option(help="videos at once. [default: 1, 2, 4, 8]")] = None,
    compiled: Annotated[bool, typer.Option(help="measure torch.compile too")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures this server, diffusers eager FP32 and diffusers torch.compile BF16 in one run."""
    console, manifest = Console(stderr=True), Manifest.load(repository)
    case = Case(checkpoint=checkpoint, repository=repository, photo=image)
    widths = tuple(at_once or WIDTHS)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        for name in (EAGER, COMPILED) if compiled else (EAGER,):
            contenders[name] = stack.enter_context(diffusers(case, KINDS[name]))
        contenders[SERVER] = stack.enter_context(served(case, max(widths)))
        measured = measure(
            contenders, steps=steps, rounds=rounds, crowd_steps=crowd_steps, widths=widths, console=console
        )
    parameters = {"steps": steps, "rounds": rounds, "crowd_steps": crowd_steps}
    facts = json.loads(json.dumps(manifest.to_dict()))
    kept = ("checkpoint", "engine", "precision", "sizes", "num_frames", "max_batch_size")
    outcome = report(measured, parameters | {name: facts[name] for name in kept})
    console.print(table(outcome.details["rows"]), markup=False, soft_wrap=True)
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(side_by_side)
