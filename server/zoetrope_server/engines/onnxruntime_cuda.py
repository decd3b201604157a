"""ONNX Runtime on a GPU, by its CUDA provider. Not run on a GPU yet; see docs/status.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from zoetrope_core.specs import Array, StageSpec
from zoetrope_server.engines import EngineError
from zoetrope_server.engines.onnxruntime import graph_of
from zoetrope_server.engines.requirements import parse_version

PROVIDER = "CUDAExecutionProvider"
_OLDEST = (1, 25)
"""The first whose CUDA provider has the `Attention` of opset 23; before, it ran on the CPU without a word."""
_INSTALL = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu>=1.25'"


class OnnxRuntimeCudaEngine:
    """An ONNX graph with dynamic shapes on the GPU; inputs keep their place there from call to call."""

    def __init__(
        self,
        directory: Path,
        stage: StageSpec,
        *,
        tf32: bool,
        provider: str = PROVIDER,
        device: str = "cuda",
    ) -> None:
        """Loads `model.onnx` of the directory.

        Args:
            directory: the version folder of the stage's model.
            stage: the stage's spec.
            tf32: whether FP32 products may take TF32.
            provider: what computes.
            device: where it keeps its tensors.

        Raises:
            EngineError: there is no graph or no provider, or an attention would run on the CPU.
        """
        check_provider(provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = (provider, {"use_tf32": str(int(tf32))}) if provider == PROVIDER else provider
        self._session = onnxruntime.InferenceSession(
            str(graph_of(directory)), sess_options=options, providers=[chosen]
        )
        if provider not in self._session.get_providers():  # it falls back to the CPU by itself
            raise EngineError(f"ONNX Runtime could not start {provider} on this machine; its log says why")
        if device != "cpu":
            check_placement(self._session, stage.name)
        self._stage, self._device = stage, device
        self._values: dict[tuple[str, tuple[int, ...]], Any] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._placed(name, np.ascontiguousarray(array)))
        names = [spec.name for spec in self._stage.outputs]
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def _placed(self, name: str, array: Array) -> Any:
        """The array on the device, in the place of the last one of its name and shape."""
        key = name, array.shape
        if key in self._values:
            self._values[key].update_inplace(array)
        else:
            others = [each for each in self._values if each[0] == name]
            for each in others:  # one shape of each tensor: clients choose shapes
                del self._values[each]
            self._values[key] = onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)
        return self._values[key]


def check_provider(provider: str = PROVIDER) -> None:
    """Refuses an ONNX Runtime without the provider, or with one that is too old; raises EngineError.

    `onnxruntime` and `onnxruntime-gpu` are one folder: with both installed, the last one counts.
    """
    installed, oldest = str(onnxruntime.__version__), ".".join(map(str, _OLDEST))
    if parse_version(installed) < _OLDEST:
        raise EngineError(f"onnxruntime on a GPU needs {oldest} or newer, here {installed}: {_INSTALL}")
    if provider not in onnxruntime.get_available_providers():
        raise EngineError(f"the onnxruntime {installed} that is installed has no {provider}: {_INSTALL}")


def check_placement(session: Any, stage: str) -> None:
    """Refuses a session that computes an attention on the CPU; raises EngineError."""
    placed = [
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    ]
    if slow := [kind for kind in placed if "Attention" in kind]:
        raise EngineError(f"{stage}: {len(slow)} attentions have no kernel on the GPU: {_INSTALL}")
