"""Engine files from ONNX graphs, and the PyTorch stages behind the interface of an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from zoetrope_core.specs import Array, StageSpec
from zoetrope_export import onnx_graphs
from zoetrope_export.errors import ExportError
from zoetrope_server.engines import ENGINES, OPENVINO_FILE
from zoetrope_server.engines.inductor import fp32_products

_logger = logging.getLogger(__name__)


def check_supported(engine: str, precision: str) -> None:
    """Refuses an engine or a precision that cannot be built here; raises ExportError."""
    if precision not in ENGINES.get(engine, ()):
        supported = ", ".join(f"{name} {kind}" for name, kinds in ENGINES.items() for kind in kinds)
        raise ExportError(f"engine {engine} at {precision} is not supported; supported: {supported}")


def check_fp32_decoder(wanted: bool, precision: str) -> None:
    """Refuses a second decoder at FP32 where the first is at FP32; raises ExportError."""
    if wanted and precision == "fp32":
        raise ExportError(f"--fp32-decoder: at {precision} the decoder is at fp32 already")


def build_engine(
    module: nn.Module, stage: StageSpec, symbols: Mapping[str, int], directory: Path, *, engine: str
) -> tuple[int, int]:
    """Writes the engine file of a stage, which `zoetrope_server.engines.open_engine` opens.

    Args:
        module: the stage's module.
        stage: its spec.
        symbols: sizes to trace at.
        directory: the version folder of the stage's model.
        engine: `onnxruntime` or `openvino`.

    Returns:
        Nodes of the graph as it was traced, and as it was given to the engine, which is the same.
    """
    graph = onnx_graphs.export_onnx(module, stage, symbols, directory)
    nodes = onnx_graphs.count_nodes(graph)
    if engine == "openvino":
        to_openvino(graph, directory / OPENVINO_FILE)
        for file in (graph, directory / onnx_graphs.WEIGHTS_NAME):
            file.unlink(missing_ok=True)
    return nodes, nodes


def to_openvino(graph: Path, path: Path) -> None:
    """Writes the graph as OpenVINO IR with FP32 weights: precision is chosen when it is compiled."""
    import openvino

    # Not `convert_model`: it reports its use to its vendor, from a forked process.
    model = openvino.Core().read_model(graph)
    openvino.save_model(model, path, compress_to_fp16=False)
    _logger.info("wrote %s", path)


class TorchEngine:
    """A stage module with the interface of an engine: the reference that engines are compared with.

    On a GPU its FP32 is FP32: without TF32, which torch's convolutions take there unless told otherwise.
    """

    def __init__(self, module: nn.Module, stage: StageSpec, device: str = "cpu") -> None:
        """Takes the module of a stage, which is moved to the device, and its spec."""
        self._module, self._stage, self._device = module.to(device), stage, device

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage."""
        tensors = [torch.from_numpy(inputs[spec.name]).to(self._device) for spec in self._stage.inputs]
        with torch.inference_mode(), fp32_products(torch, tf32=False):
            outputs = self._module(*tensors)
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return {
            spec.name: value.cpu().numpy() for spec, value in zip(self._stage.outputs, values, strict=True)
        }
