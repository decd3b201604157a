"""AOTInductor packages: a stage exported by `torch.export` and compiled ahead of time for one device."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from zoetrope_core.specs import StageSpec
from zoetrope_export import programs
from zoetrope_export.errors import ExportError
from zoetrope_server.engines.inductor import cpu_target, cuda_target, fp32_products
from zoetrope_server.engines.sidecar import Profile


def device() -> str:
    """The device that packages are compiled for: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_precision(precision: str) -> None:
    """Refuses FP16 and BF16 on a CPU, where nobody measured them; raises ExportError."""
    if precision != "fp32" and device() == "cpu":
        raise ExportError(
            f"engine aot-inductor at {precision} is compiled on a GPU, and there is none here; use fp32"
        )


def target() -> str:
    """What a package compiled now is bound to, such as `sm90` or `cpu-avx512`."""
    return cuda_target(torch) if device() == "cuda" else cpu_target(torch)


def trace(
    module: nn.Module, stage: StageSpec, symbols: Mapping[str, int], ranges: Profile
) -> ExportedProgram:
    """Exports a stage on the device, for shapes of these ranges."""
    return programs.trace(module, stage, symbols, device=device(), batched=stage.batchable, ranges=ranges)


def digests(program: ExportedProgram) -> tuple[str, str]:
    """SHA-256 of an exported graph and of its weights, both in hexadecimal."""
    graph = f"{program.graph_module.code}\n{program.range_constraints}"
    weights = hashlib.sha256()
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashlib.sha256(graph.encode()).hexdigest(), weights.hexdigest()


def compile_package(program: ExportedProgram, path: Path, *, tf32: bool = False) -> None:
    """Compiles an exported stage into a `.pt2` package.

    Args:
        program: the stage.
        path: the package's file.
        tf32: whether its FP32 products may take TF32.

    Raises:
        ExportError: it could not be compiled; most often a C++ compiler is missing.
    """
    try:
        with warnings.catch_warnings(), fp32_products(torch, tf32=tf32):
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise ExportError(f"AOTInductor could not compile {path.name}: {error}") from error
