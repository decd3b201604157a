"""Engine hosts: the compiled graph of one stage, run in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from zoetrope_core.errors import ZoetropeError
from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_ENCODER, Array, StageSpec

ENGINES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "fp16"),
    "openvino": ("fp32", "bf16"),
    "tensorrt": ("fp16", "bf16", "fp32"),
    "tensorrt-rtx": ("fp16", "bf16", "fp32"),
    "aot-inductor": ("fp32", "fp16", "bf16"),
}
"""The engines that can be hosted here, and the precisions of each."""
REDUCED_PRECISION_STAGES = frozenset({UNET.name, VAE_DECODER.name})
"""Stages that run below FP32: the encoders run once a request, and the FP16 VAE encoder overflows."""
OPENVINO_FILE, ONNX_FILE = "model.xml", "model.onnx"
"""The files of engines that have no sidecar."""
GPU_ENGINES = frozenset({"tensorrt", "tensorrt-rtx", "aot-inductor", "onnxruntime"})
"""Engines that run on a GPU; `aot-inductor` and `onnxruntime` run on a CPU too, at FP32."""
TF32_STAGES = frozenset({IMAGE_ENCODER.name, VAE_ENCODER.name})
"""Stages whose FP32 products may take TF32 on a GPU: three times as fast, with the range of FP32."""

IsListed = Callable[[Mapping[str, tuple[int, ...]]], bool]
"""Whether inputs of these shapes, by name, are of a frame size and count that the repository lists."""


class EngineError(ZoetropeError):
    """An engine file is missing, or the engine or its precision is not supported here."""

    code = "engine"


class Engine(Protocol):
    """The compiled graph of one stage."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage for inputs with their batch dimension; see the stage's spec."""
        ...


def stage_precision(stage: StageSpec, precision: str, engine: str) -> str:
    """The precision that a stage really runs at in a repository of the given precision and engine.

    It is `tf32` for encoders on a GPU, unless the whole repository is FP32: then FP32 means FP32.
    """
    if stage.name in REDUCED_PRECISION_STAGES or precision == "fp32":
        return precision
    return "tf32" if stage.name in TF32_STAGES and engine in GPU_ENGINES else "fp32"


def open_engine(
    directory: Path, stage: StageSpec, *, engine: str, precision: str, is_listed: IsListed | None = None
) -> Engine:
    """Opens the engine of a stage.

    Args:
        directory: the version folder of the stage's model, such as `REPOSITORY/unet/1`.
        stage: the spec of the stage.
        engine: a key of `ENGINES`.
        precision: the precision of the repository; see `stage_precision` for that of the encoders.
        is_listed: which shapes an engine that compiles them one by one keeps; all when absent.

    Raises:
        EngineError: the combination is not supported, or the engine file is missing, damaged or foreign.
    """
    if precision not in ENGINES.get(engine, ()):
        supported = ", ".join(f"{name} {kind}" for name, kinds in ENGINES.items() for kind in kinds)
        raise EngineError(f"engine {engine} at {precision} is not supported here; supported: {supported}")
    kept = stage_precision(stage, precision, engine)
    if engine == "openvino":
        from zoetrope_server.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(directory, precision=kept, is_listed=is_listed)
    if engine in ("tensorrt", "tensorrt-rtx"):
        from zoetrope_server.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(directory, stage, engine=engine, precision=kept)
    if engine == "aot-inductor":
        from zoetrope_server.engines.inductor import AotInductorEngine

        return AotInductorEngine(directory, stage, precision=kept)
    if precision != "fp32":
        from zoetrope_server.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine

        return OnnxRuntimeCudaEngine(directory, stage, tf32=kept == "tf32")
    from zoetrope_server.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(directory)
