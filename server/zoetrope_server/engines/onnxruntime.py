"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from zoetrope_core.specs import Array
from zoetrope_server.engines import ONNX_FILE as FILE_NAME
from zoetrope_server.engines import EngineError


class OnnxRuntimeEngine:
    """An ONNX graph with dynamic shapes; any shape that the graph allows runs."""

    def __init__(self, directory: Path) -> None:
        """Loads `model.onnx` of the directory; raises EngineError when there is none."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(graph_of(directory)), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage."""
        values = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, values, strict=True))


def graph_of(directory: Path) -> Path:
    """The graph of a directory; raises EngineError when there is none."""
    path = directory / FILE_NAME
    if not path.is_file():
        raise EngineError(f"no engine at {path}: run `zoetrope export` again")
    return path
