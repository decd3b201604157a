"""What TensorRT's optimization levels cost: time, memory and size of one engine at each, without a GPU.

Each level is built in a process of its own, from one graph. What a level gains is a GPU's to say.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zoetrope_bench.full_size import ENGINE, PRECISION, in_own_process
from zoetrope_bench.report import Figure, Report
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET

LEVELS = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One build: its seconds, the peak memory of its process and the engine's size, in MiB."""

    level: int
    seconds: float
    peak_mib: float
    engine_mib: float


def export_graph(checkpoint: Path, folder: Path, size: tuple[int, int]) -> Manifest:
    """Writes the graph of the UNet at FP16 and returns the manifest that it is built for."""
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.half import to_half
    from zoetrope_export.native_graphs import export_native
    from zoetrope_export.onnx_graphs import trace_symbols
    from zoetrope_export.stage_modules import stage_module

    opened = open_checkpoint(str(checkpoint))
    manifest = opened.manifest(
        engine=ENGINE,
        precision=PRECISION,
        sizes=(size,),
        num_frames=(opened.num_frames,),
        decode_chunk_size=7,
        max_batch_size=1,
    )
    module = to_half(stage_module(opened, UNET.name, max_frames=opened.num_frames), UNET)
    export_native(module, UNET, trace_symbols(opened), folder)
    return manifest


def build(folder: Path, manifest: Manifest, level: int, capability: str) -> Built:
    """Builds the engine of the graph in a folder at one level; in a process of its own."""
    from zoetrope_export import tensorrt_build
    from zoetrope_export.profiles import profiles
    from zoetrope_export.stage_builds import Silent

    library = tensorrt_build.load_library(ENGINE)
    target = tensorrt_build.choose_target(ENGINE, library, capability, None)
    builder = tensorrt_build.Builder(library=library, target=target, ahead=True, optimization_level=level)
    began = time.perf_counter()
    parsed = tensorrt_build.parse(library, folder / "model.onnx")
    ranges = profiles(UNET, manifest)
    config, _ = tensorrt_build.configure(parsed, builder, UNET, ranges, manifest.symbols())
    engine = folder / f"{level}.plan"
    tensorrt_build.build(parsed, builder, config, engine, Silent())
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().split()
    peak = int(status[status.index("VmHWM:") + 1]) / 2**10
    return Built(level=level, seconds=seconds, peak_mib=peak, engine_mib=engine.stat().st_size / 2**20)


def build_levels(
    checkpoint: Annotated[Path, typer.Argument(help="in diffusers' layout")],
    height: Annotated[int, typer.Option(help="of the frames")] = 128,
    width: Annotated[int, typer.Option(help="of the frames")] = 192,
    compute_capability: Annotated[str, typer.Option(help="the GPU to build for")] = "8.9",
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Builds the UNet of a checkpoint at each optimization level, without a GPU."""
    found = []
    with tempfile.TemporaryDirectory(prefix="zoetrope-levels-") as folder:
        manifest = in_own_process(export_graph, checkpoint, Path(folder), (height, width))
        for level in LEVELS:
            work = (Path(folder), manifest, level, compute_capability)
            found.append(in_own_process(build, *work))
    figures = [Figure(name=f"level {each.level}", measured=each.seconds, unit="s") for each in found]
    asked = {"engine": ENGINE, "precision": PRECISION, "compute_capability": compute_capability}
    outcome = Report(
        benchmark="build_levels",
        figures=figures,
        parameters=asked | {"checkpoint": str(checkpoint), "stage": UNET.name, "size": [height, width]},
        details={"levels": [asdict(each) for each in found]},
    )
    outcome.show(Console(stderr=True))
    if json_file:
        outcome.save(json_file)


if __name__ == "__main__":
    typer.run(build_levels)
