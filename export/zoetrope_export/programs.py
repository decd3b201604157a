"""Stages as programs of `torch.export`, with the dynamic axes of their specs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from zoetrope_core.specs import STATIC_SYMBOLS, StageSpec, TensorSpec
from zoetrope_export.onnx_graphs import example_tensors


def trace(
    module: nn.Module,
    stage: StageSpec,
    symbols: Mapping[str, int],
    *,
    device: str = "cpu",
    batched: bool = True,
) -> ExportedProgram:
    """Exports a stage with the dynamic axes of its spec.

    Args:
        module: the stage's module; it is moved to the device.
        stage: its spec.
        symbols: sizes to trace at, see `onnx_graphs.trace_symbols`.
        device: where, such as `cpu`.
        batched: whether the batch is dynamic; else it is fixed at one video.
    """
    examples = example_tensors(stage, symbols, 2 if batched else 1).values()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        return torch.export.export(
            module.to(device),
            tuple(each.to(device) for each in examples),
            dynamic_shapes=tuple(_dynamic(spec, batched) for spec in stage.inputs),
        )


def _dynamic(spec: TensorSpec, batched: bool) -> dict[int, Any]:
    """The dynamic axes of an input."""
    axes = {
        axis: Dim.DYNAMIC
        for axis, dim in enumerate(spec.dims, start=1)
        if isinstance(dim, str) and dim not in STATIC_SYMBOLS
    }
    return {0: Dim.DYNAMIC, **axes} if batched else axes
