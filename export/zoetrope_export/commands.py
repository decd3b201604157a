"""The commands `zoetrope export` and `zoetrope checkpoint`."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zoetrope_export.endings import errors_to_exit, terminated_as_interrupted
from zoetrope_export.errors import ExportError
from zoetrope_export.plans import Wanted, parse_size, plan, quiet_libraries

if TYPE_CHECKING:
    from zoetrope_export.exporting import Plan

KEY = "{key}"
"""What stands for the key in `--out`."""
checkpoint = typer.Typer(help="Make checkpoints.", no_args_is_help=True)


class Like(StrEnum):
    """What a random checkpoint is shaped like."""

    TINY = "tiny"
    SVD = "svd"
    SVD_XT = "svd-xt"


def export(
    source: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder in diffusers' layout, or an id of the hub.")
    ],
    engine: Annotated[
        str, typer.Option(help="onnxruntime, openvino, tensorrt, tensorrt-rtx or aot-inductor.")
    ],
    size: Annotated[
        list[str], typer.Option(help="Frame size HxW; repeat for more, the first is the default.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The model repository to write; {key} in it stands for the export's key."),
    ],
    precision: Annotated[str, typer.Option(help="fp32; bf16 with openvino; fp16 or bf16 on GPUs.")] = "fp32",
    frames: Annotated[
        list[int] | None, typer.Option(help="Frame count; repeat for more. [default: the checkpoint's]")
    ] = None,
    decode_chunk: Annotated[
        int | None, typer.Option(min=1, help="Frames decoded at once. [default: even chunks of at most 8]")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Videos that may share a UNet execution. [default: 4 on GPUs where a step is short, else 1]",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The checkpoint's name as clients see it.")] = None,
    warm_up: Annotated[
        bool, typer.Option(help="Compile all shapes now rather than when they are first served.")
    ] = True,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Sizes HxW,HxW that share a profile: those between them are served too. "
            "[default: with TensorRT each has its own, else all share one]"
        ),
    ] = None,
    between: Annotated[
        bool | None,
        typer.Option(
            "--between/--listed-only",
            help="Serve sizes and frame counts between those given too. "
            "[default: between; with openvino only where --profile says so]",
        ),
    ] = None,
    trained_size: Annotated[
        str | None,
        typer.Option(help="HxW of the training, to warn of what is far from it. [default: the checkpoint's]"),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="TensorRT-RTX: the GPU to build for, as 8.9. [default: this machine's]")
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(min=0.0, help="TensorRT: the most scratch memory of a kernel, GiB.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where built engines are kept. [default: the user's cache folder]")
    ] = None,
    host: Annotated[
        str, typer.Option(help="What runs the engines: python, or triton for its own backends.")
    ] = "python",
    fp32_decoder: Annotated[
        bool,
        typer.Option("--fp32-decoder", help="Add a decoder at FP32, for chunks that overflow in the first."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build although disk or memory look too small.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="A picture to measure parity on. [default: a drawn one]")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare a whole video with diffusers too.")] = True,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Write the repository even if parity fails.")
    ] = False,
    print_key: Annotated[
        bool, typer.Option("--print-key", help="Print the key of this export, and build nothing.")
    ] = False,
) -> None:
    """Export a checkpoint to engines and a Triton model repository, parity report inside.

    The key names everything that the repository depends on: the weights, these options, the libraries, this
    code, and the GPU where engines are bound to it. A repository whose name holds the key is not built again.
    """
    with errors_to_exit(), terminated_as_interrupted():
        began = time.perf_counter()
        wanted = Wanted(
            engine=engine,
            precision=precision,
            sizes=tuple(dict.fromkeys(map(parse_size, size))),
            frames=tuple(dict.fromkeys(frames or ())),
            decode_chunk=decode_chunk,
            max_batch=max_batch,
            name=name,
            warm_up=warm_up,
            profiles=tuple(tuple(map(parse_size, each.split(","))) for each in profile or ()),
            between=between,
            trained_size=None if trained_size is None else parse_size(trained_size),
            compute_capability=compute_capability,
            workspace=workspace,
            cache=cache,
            force=force,
            host=host,
            fp32_decoder=fp32_decoder,
            picture=picture,
            verify=verify,
            allow_drift=allow_drift,
        )
        asked = plan(source, wanted, out)
        if print_key or KEY in str(out):
            from zoetrope_core.manifest import FILE_NAME
            from zoetrope_export.repository_key import repository_key

            key = repository_key(asked)
            asked = replace(asked, out=Path(str(out).replace(KEY, key)))
            if print_key:
                typer.echo(key)
                return
            if (asked.out / FILE_NAME).is_file():  # put in place as a whole, so it is complete
                typer.echo(f"{asked.out}: exported before")
                return
        _export(asked, began)


@checkpoint.callback()
def _checkpoint() -> None:
    """Keeps `random` a subcommand while it is the only one."""


@checkpoint.command("random")
def random(
    like: Annotated[Like, typer.Option(help="The architecture.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
) -> None:
    """Write a randomly initialised checkpoint in diffusers' layout: noise out, but all the work."""
    with errors_to_exit():
        quiet_libraries()
        from zoetrope_export.architectures import ARCHITECTURES
        from zoetrope_export.random_checkpoint import write_random_checkpoint

        if out.exists() and any(out.iterdir()):
            raise ExportError(f"{out} is not empty; choose another folder")
        architecture = ARCHITECTURES[like.value]
        write_random_checkpoint(architecture, out, seed=seed)
        height, width = architecture.size
        typer.echo(f"{out}: {architecture.num_frames} frames of {height}x{width} (HxW), seed {seed}")


def _export(plan: Plan, began: float) -> None:
    from zoetrope_export.exporting import export_repository
    from zoetrope_export.parity_table import show_parity
    from zoetrope_export.progress import ExportProgress

    with ExportProgress(Console(stderr=True)) as progress:
        report = export_repository(plan, progress.report, progress)
    show_parity(report, Console())
    seconds = time.perf_counter() - began
    typer.echo(f"{plan.out}: {report.engine} {report.precision}, exported in {seconds:.1f} s")
