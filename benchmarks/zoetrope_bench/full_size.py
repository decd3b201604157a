"""Engines of a full-size checkpoint with random weights: what each stage's build takes of memory and time.

    python -m zoetrope_bench.full_size [--like svd-xt] [--compute-capability 8.9] [--json FILE]

Each stage is loaded, exported and built in a process of its own, so that its peak memory is its own. No GPU
is needed: TensorRT-RTX builds ahead of time. Comparing with PyTorch is left to `zoetrope export`.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.stages import parse_stages
from zoetrope_core.errors import ZoetropeError
from zoetrope_core.specs import STAGES

MEMORY_GIB = 24.0
"""What a machine that builds the engines must have at most."""
FULL_SIZE = ("svd", "svd-xt")
ENGINE, PRECISION = "tensorrt-rtx", "fp16"
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one stage took.

    Attributes:
        load_s: seconds to load the weights and make them FP16.
        export_s: seconds to the ONNX graph.
        build_s: seconds from the graph to the engine.
        load_gib, export_gib, build_gib: peak memory of the process after each of these.
        nodes: nodes of the graph.
        graph_gib, engine_gib: sizes of the graph with its weights and of the engine.
    """

    load_s: float
    export_s: float
    build_s: float
    load_gib: float
    export_gib: float
    build_gib: float
    nodes: int
    graph_gib: float
    engine_gib: float


def build_stage(checkpoint: Path, name: str, capability: str, folder: Path) -> Outcome:
    """Builds the engine of one stage at SVD's size and the checkpoint's frame count; in a process of its own.

    Args:
        checkpoint: in diffusers' layout.
        name: the stage.
        capability: the GPU to build for, such as `8.9`.
        folder: an empty folder for the graph and the engine.
    """
    from zoetrope_export import tensorrt_build
    from zoetrope_export.architectures import SVD_XT
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.half import to_half
    from zoetrope_export.native_graphs import export_native
    from zoetrope_export.onnx_graphs import trace_symbols
    from zoetrope_export.profiles import profiles
    from zoetrope_export.stage_builds import Silent
    from zoetrope_export.stage_modules import stage_module

    stage, opened = STAGES[name], open_checkpoint(str(checkpoint))
    manifest = opened.manifest(
        engine=ENGINE,
        precision=PRECISION,
        sizes=(SVD_XT.size,),
        num_frames=(opened.num_frames,),
        decode_chunk_size=7,
        max_batch_size=1,
    )
    marks = [_mark()]
    module = to_half(stage_module(opened, name, max_frames=opened.num_frames), stage)
    marks.append(_mark())
    graph = export_native(module, stage, trace_symbols(opened), folder)
    del module
    marks.append(_mark())
    library = tensorrt_build.load_library(ENGINE)
    target = tensorrt_build.choose_target(ENGINE, library, capability, None)
    builder = tensorrt_build.Builder(library=library, target=target, ahead=True)
    parsed = tensorrt_build.parse(library, graph.path)
    config, _ = tensorrt_build.configure(
        parsed, builder, stage, profiles(stage, manifest), manifest.symbols()
    )
    engine = folder / "engine.plan"
    tensorrt_build.build(parsed, builder, config, engine, Silent())
    marks.append(_mark())
    seconds = [after[0] - before[0] for before, after in zip(marks, marks[1:], strict=False)]
    peaks = [peak for _, peak in marks[1:]]
    size = engine.stat().st_size
    written = sum(file.stat().st_size for file in folder.iterdir()) - size
    return Outcome(
        load_s=seconds[0],
        export_s=seconds[1],
        build_s=seconds[2],
        load_gib=peaks[0],
        export_gib=peaks[1],
        build_gib=peaks[2],
        nodes=graph.nodes,
        graph_gib=written / 2**30,
        engine_gib=size / 2**30,
    )


def _mark() -> tuple[float, float]:
    """Now, and the peak memory of this process so far in GiB."""
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().split()
    return time.perf_counter(), int(status[status.index("VmHWM:") + 1]) / 2**20


def in_own_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What `work` returns, from a process that ends with it: its memory is its own, and free again.

    Raises:
        BrokenProcessPool: the process was killed, most often because memory ran out.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **options).result()


def report(outcomes: dict[str, Outcome], parameters: dict[str, Any]) -> Report:
    """The figures of all stages; the largest peak against what the machine may have."""
    figures = []
    for name, each in outcomes.items():
        seconds = each.load_s + each.export_s + each.build_s
        figures += [
            Figure(name=f"{name}, seconds", measured=seconds, unit="s"),
            Figure(name=f"{name}, peak memory", measured=each.build_gib, unit="GiB"),
        ]
    most = max(each.build_gib for each in outcomes.values())
    figures.append(Figure(name="most memory", measured=most, unit="GiB", target=MEMORY_GIB, at_most=True))
    details = {name: asdict(each) for name, each in outcomes.items()}
    return Report(benchmark="full_size", figures=figures, parameters=parameters, details=details)


def full_size(
    like: Annotated[str, typer.Option(help="svd or svd-xt")] = "svd-xt",
    compute_capability: Annotated[str, typer.Option(help="the GPU to build for")] = "8.9",
    checkpoint: Annotated[
        Path | None, typer.Option(help="an own checkpoint instead of random weights")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="only this stage; repeat for more")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Builds the engines of a full-size checkpoint and measures the memory and time of each stage."""
    from zoetrope_export.architectures import ARCHITECTURES
    from zoetrope_export.random_checkpoint import write_random_checkpoint

    if like not in FULL_SIZE:
        raise typer.BadParameter(f"{like}: one of {', '.join(FULL_SIZE)}")
    chosen, console = [spec.name for spec in parse_stages(stage)], Console(stderr=True)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="zoetrope-full-size-") as scratch:
        source = checkpoint or Path(scratch) / "checkpoint"
        if checkpoint is None:
            console.print(f"writing a random {like} checkpoint")
            in_own_process(write_random_checkpoint, ARCHITECTURES[like], source)
        try:
            for name in chosen:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    work = (source, name, compute_capability, Path(folder))
                    outcomes[name] = in_own_process(build_stage, *work)
                console.print(f"{name}: {outcomes[name]}")
        except (ZoetropeError, BrokenProcessPool) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
    built = str(checkpoint or f"random, like {like}")
    asked = {"checkpoint": built, "compute_capability": compute_capability}
    outcome = report(outcomes, asked | {"engine": ENGINE, "precision": PRECISION})
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(full_size)
