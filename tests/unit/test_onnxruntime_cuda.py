"""ONNX Runtime's CUDA provider, as far as a machine without a GPU tells: what is refused, and the binding."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto  # noqa: E402
from stand_in.engines import attention  # noqa: E402

from zoetrope_core.specs import StageSpec, TensorSpec  # noqa: E402
from zoetrope_server.engines import EngineError, onnxruntime_cuda, open_engine  # noqa: E402
from zoetrope_server.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, check_placement  # noqa: E402

CPU = "CPUExecutionProvider"
CPU_ENGINES = ("openvino", "onnxruntime", "onnxruntime_cuda")
STAGE = StageSpec(
    name="unet",
    inputs=tuple(TensorSpec(name=name, dtype="FP32", dims=(2, "S", 8)) for name in "qkv"),
    outputs=(TensorSpec(name="y", dtype="FP32", dims=(2, "S", 8)),),
)


@pytest.fixture
def folder(tmp_path):
    attention(tmp_path / "model.onnx", 8, TensorProto.FLOAT)
    return tmp_path


def test_an_onnxruntime_without_cuda_is_refused_with_what_to_install(folder):
    """Both distributions are one folder: which is there is not what pip says."""
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider: .*onnxruntime-gpu>=1.25"):
        open_engine(folder, STAGE, engine="onnxruntime", precision="fp16")


def test_one_that_is_too_old_for_attention_on_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.9")
    with pytest.raises(EngineError, match="needs 1.25 or newer, here 1.24.9"):
        onnxruntime_cuda.check_provider(CPU)


def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(folder, monkeypatch):
    """ONNX Runtime logs a line and goes on without it."""
    monkeypatch.setattr(onnxruntime_cuda, "check_provider", lambda provider: None)
    session = SimpleNamespace(get_providers=lambda: [CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(EngineError, match="could not start CUDAExecutionProvider"):
        OnnxRuntimeCudaEngine(folder, STAGE, tf32=False)


def test_an_attention_on_the_cpu_is_refused(folder):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=[CPU])
    with pytest.raises(EngineError, match="unet: 1 attentions have no kernel on the GPU"):
        check_placement(session, "unet")


def test_tensors_keep_their_place_from_call_to_call(folder):
    """The same code over the CPU's provider."""
    engine = OnnxRuntimeCudaEngine(folder, STAGE, tf32=False, provider=CPU, device="cpu")
    plain = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=[CPU])
    draw = np.random.default_rng(0)
    for length in (3, 3, 5, 3):
        inputs = {name: draw.normal(size=(1, 2, length, 8)).astype(np.float32) for name in "qkv"}
        np.testing.assert_array_equal(engine.run(inputs)["y"], plain.run(None, inputs)[0])
        assert len(engine._values) == 3, "one shape of each"


def test_an_export_for_tensorrt_needs_no_engine_of_the_cpu():
    """A GPU machine has neither OpenVINO nor ONNX Runtime, unless somebody installs them."""
    found = []
    for file in sorted((Path(__file__).parents[2] / "export" / "zoetrope_export").glob("*.py")):
        for node in ast.parse(file.read_text()).body:  # what a module imports as it is imported itself
            named = [node.module] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{file.name}: {name}" for name in named if name.rpartition(".")[2] in CPU_ENGINES]
    assert found == []
