"""AOTInductor packages: a stage exported by `torch.export` and compiled ahead of time for one device."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from zoetrope_core.specs import STATIC_SYMBOLS, StageSpec, TensorSpec
from zoetrope_export.errors import ExportError
from zoetrope_export.onnx_graphs import example_tensors
from zoetrope_server.engines.inductor import cpu_target, cuda_target


def device() -> str:
    """The device that packages are compiled for: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_precision(precision: str) -> None:
    """Refuses FP16 on a CPU, which computes it more slowly than FP32; raises ExportError."""
    if precision == "fp16" and device() == "cpu":
        raise ExportError(
            "engine aot-inductor at fp16 is compiled on a GPU, and there is none here; use fp32"
        )


def target() -> str:
    """What a package compiled now is bound to, such as `sm90` or `cpu-avx512`."""
    return cuda_target(torch) or cpu_target(torch)


def trace(module: nn.Module, stage: StageSpec, symbols: Mapping[str, int]) -> ExportedProgram:
    """Exports a stage with the dynamic axes of its spec.

    Args:
        module: the stage's module; it is moved to the device.
        stage: its spec.
        symbols: sizes to trace at, see `onnx_graphs.trace_symbols`.
    """
    examples = example_tensors(stage, symbols, 2 if stage.batchable else 1).values()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        return torch.export.export(
            module.to(device()),
            tuple(each.to(device()) for each in examples),
            dynamic_shapes=tuple(_dynamic(spec, stage) for spec in stage.inputs),
        )


def _dynamic(spec: TensorSpec, stage: StageSpec) -> dict[int, Any]:
    """The dynamic axes of an input; the batch of a stage that takes one video is fixed."""
    axes = {
        axis: Dim.DYNAMIC
        for axis, dim in enumerate(spec.dims, start=1)
        if isinstance(dim, str) and dim not in STATIC_SYMBOLS
    }
    return {0: Dim.DYNAMIC, **axes} if stage.batchable else axes


def digests(program: ExportedProgram) -> tuple[str, str]:
    """SHA-256 of an exported graph and of its weights, both in hexadecimal."""
    graph = f"{program.graph_module.code}\n{program.range_constraints}"
    weights = hashlib.sha256()
    for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashlib.sha256(graph.encode()).hexdigest(), weights.hexdigest()


def compile_package(program: ExportedProgram, path: Path) -> None:
    """Compiles an exported stage into a `.pt2` package.

    Raises:
        ExportError: it could not be compiled; most often a C++ compiler is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        raise ExportError(f"AOTInductor could not compile {path.name}: {error}") from error
