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
from zoetrope_server.engines.sidecar import Profile

_LEAST_BOUND = 4
"""No axis has a lower bound than this: axes are traced at 2 or 3, and one that may be 2 at most is 2, since
torch takes a dynamic axis to be at least 2."""


def trace(
    module: nn.Module,
    stage: StageSpec,
    symbols: Mapping[str, int],
    *,
    device: str = "cpu",
    batched: bool = True,
    ranges: Profile | None = None,
) -> ExportedProgram:
    """Exports a stage with the dynamic axes of its spec.

    AOTInductor believes an axis without a bound to be as small as it is traced, and then indexes with 32 bits
    whatever comes: at 1024x576 two videos have more elements than that. Hence the ranges.

    Args:
        module: the stage's module; it is moved to the device.
        stage: its spec.
        symbols: sizes to trace at, see `onnx_graphs.trace_symbols`.
        device: where, such as `cpu`.
        batched: whether the batch is dynamic; else it is fixed at one video.
        ranges: what the program takes; an axis with one value is static. None for anything.
    """
    fixed = {symbol: low for symbol, (low, _, high) in (ranges or {}).items() if low == high}
    batch = fixed.get("B", 2 if batched else 1)
    examples = example_tensors(stage, {**symbols, **fixed}, batch).values()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        return torch.export.export(
            module.to(device),
            tuple(each.to(device) for each in examples),
            dynamic_shapes=tuple(_dynamic(spec, batched, ranges) for spec in stage.inputs),
        )


def _dynamic(spec: TensorSpec, batched: bool, ranges: Profile | None) -> dict[int, Any]:
    """The dynamic axes of an input, with their bounds."""
    symbols = dict(enumerate(spec.dims, start=1)) | ({0: "B"} if batched else {})
    return {
        axis: Dim.DYNAMIC if ranges is None else Dim.DYNAMIC(max=max(ranges[dim][2], _LEAST_BOUND))
        for axis, dim in sorted(symbols.items())
        if isinstance(dim, str)
        and dim not in STATIC_SYMBOLS
        and not (ranges and ranges[dim][0] == ranges[dim][2])
    }
