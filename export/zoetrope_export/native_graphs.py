"""ONNX graphs of opset 23, for builders that have kernels of their own for its large operators.

The same function as the graph of `onnx_graphs`, in a third of its nodes: attention is one `Attention`, a
group norm one `GroupNormalization`, and what is constant is folded. TensorRT has a fused kernel for each.
CPU engines find these patterns in the other graph too, and this exporter takes a minute where that one takes
seconds.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset23 as op
from torch import nn

from zoetrope_core.specs import StageSpec
from zoetrope_export import programs
from zoetrope_export.onnx_graphs import FILE_NAME

OPSET = 23
"""The first with `Attention`; its `GroupNormalization` is that of opset 21."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeGraph:
    """A written graph.

    Attributes:
        path: where it is; its weights lie beside it.
        translated: its nodes as PyTorch's operators were translated.
        nodes: its nodes after constants were folded and what is not used was dropped.
    """

    path: Path
    translated: int
    nodes: int


def export_native(
    module: nn.Module, stage: StageSpec, symbols: Mapping[str, int], directory: Path
) -> NativeGraph:
    """Writes `model.onnx` of a stage and its weights beside it.

    Args:
        module: the stage's module, in evaluation mode.
        stage: its spec, which names the inputs and the outputs and says which axes are dynamic.
        symbols: sizes to trace at, see `onnx_graphs.trace_symbols`.
        directory: where to, an existing folder.
    """
    program = programs.trace(module, stage, symbols)
    with torch.no_grad(), _quiet():
        exported: Any = torch.onnx.export(
            program,
            opset_version=OPSET,
            input_names=[spec.name for spec in stage.inputs],
            output_names=[spec.name for spec in stage.outputs],
            custom_translation_table=_TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
        translated = _count(exported)
        exported.optimize()
    path = directory / FILE_NAME
    exported.save(str(path), external_data=True)
    onnx.checker.check_model(str(path))
    nodes = _count(exported)
    _logger.info("%s: wrote %s, %d nodes of %d", stage.name, path, nodes, translated)
    return NativeGraph(path=path, translated=translated, nodes=nodes)


def _count(exported: Any) -> int:
    """Nodes that are not constants."""
    return sum(node.op_type != "Constant" for node in exported.model.graph)


def _repeat_interleave(x: Any, repeats: Any, dim: int = 0, output_size: Any = None) -> Any:
    """`aten.repeat_interleave` along the first axis for any number of repeats.

    The exporter's own puts the number of repeats on the wrong axis when it is dynamic.
    """
    if dim != 0:
        raise NotImplementedError(f"repeat_interleave along axis {dim}")
    one: Any = op.Constant(value_ints=[1])
    count: Any = op.Constant(value_ints=[repeats]) if isinstance(repeats, int) else op.Reshape(repeats, one)
    times: Any = op.Concat(one, count, *[one] * (len(x.shape) - 1), axis=0)
    repeated = op.Expand(op.Unsqueeze(x, one), times)
    rest: Any = op.Constant(value_ints=[-1])
    shape: Any = op.Concat(rest, op.Shape(x, start=1), axis=0)
    return op.Reshape(repeated, shape)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.repeat_interleave.self_int: _repeat_interleave
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says of itself: operators of libraries that are not here, deprecations."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
