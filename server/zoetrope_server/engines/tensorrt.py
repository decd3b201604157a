"""TensorRT and TensorRT-RTX engines, run through cuda-python.

Not run on a GPU yet, but on a stand-in that refuses what CUDA and TensorRT refuse; see docs/status.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoetrope_core.specs import Array, StageSpec
from zoetrope_server.engines import EngineError
from zoetrope_server.engines.cuda_graphs import CudaGraph
from zoetrope_server.engines.executions import Execution, Executions
from zoetrope_server.engines.gpu import CUDA_RUNTIME, Gpu, detect_gpu
from zoetrope_server.engines.pinned import PinnedMemory
from zoetrope_server.engines.recorder import Recorder, error_recorder
from zoetrope_server.engines.requirements import load
from zoetrope_server.engines.runtime_cache import RuntimeCache
from zoetrope_server.engines.sidecar import Sidecar, find_engine, fitting_profile, verify

LIBRARIES: Mapping[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The module of each engine."""
_ACTIVATIONS = ".activations"
"""The buffer of what lies between the layers; no tensor is called so."""

_logger = logging.getLogger(__name__)


class TensorRtEngine:
    """An engine with its execution contexts; not safe for threads.

    TensorRT has a context for each set of shapes, since a CUDA graph refers to the state of the context that
    it was recorded from; they take turns in one piece of memory. TensorRT-RTX has one for each profile: it
    records by itself, when the kernels of a shape are compiled.
    """

    def __init__(self, directory: Path, stage: StageSpec, *, engine: str, precision: str) -> None:
        """Verifies the engine file of the directory and loads it onto the GPU.

        Args:
            directory: the version folder of the stage's model.
            stage: the stage's spec.
            engine: `tensorrt` or `tensorrt-rtx`.
            precision: the precision of this stage.

        Raises:
            EngineError: the library is missing, the file is missing, damaged, stale or foreign, there is no
                GPU, or the library refuses the engine.
        """
        library = load(LIBRARIES[engine])
        file, sidecar = checked_engine(
            directory, stage, engine=engine, precision=precision, version=library.__version__
        )
        self._stage, self._profiles, self._library = stage, sidecar.key.profiles, library
        self._memory = DeviceMemory()
        self._runtime = library.Runtime(library.Logger(library.Logger.WARNING))
        self._errors: Recorder = error_recorder(library)
        self._runtime.error_recorder = self._errors
        self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise EngineError(f"{engine} refuses {file.name}: {'; '.join(self._errors.taken())}")
        self._records_itself = engine == "tensorrt-rtx"
        self._kernels = RuntimeCache(file) if self._records_itself else None
        self._executions = Executions(self._execution)
        self._reserve()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage; raises EngineError when no profile takes the shapes."""
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = fitting_profile(self._stage, self._profiles, shapes)
        key = profile if self._records_itself else (profile, *sorted(shapes.items()))
        execution = self._executions.get(profile, key)
        outputs = {
            spec.name: self._memory.pinned.empty(execution.output_shape(spec.name, shapes), spec.numpy_dtype)
            for spec in self._stage.outputs
        }
        addresses = {name: self._memory.upload(name, array) for name, array in arrays.items()}
        for name, array in outputs.items():
            addresses[name] = self._memory.reserve(name, array.nbytes)
        execution.run(addresses)
        for name, array in outputs.items():
            self._memory.download(name, array)
        self._memory.wait()
        self._check(execution)
        if self._kernels is not None:
            self._kernels.save(shapes)
        return outputs

    def synchronize(self) -> None:
        """See `device_loss.OnDevice`."""
        self._memory.wait()

    def _reserve(self) -> None:
        """Takes the memory of the largest shapes now.

        A buffer that moves later ends all graphs that were recorded with it; and what does not fit is better
        known before the first request.
        """
        for profile in range(self._engine.num_optimization_profiles):
            inputs = {
                spec.name: tuple(self._engine.get_tensor_profile_shape(spec.name, profile)[2])
                for spec in self._stage.inputs
            }
            execution = self._executions.get(profile, profile)
            outputs = {spec.name: execution.output_shape(spec.name, inputs) for spec in self._stage.outputs}
            for spec in (*self._stage.inputs, *self._stage.outputs):
                size = math.prod((inputs | outputs)[spec.name]) * np.dtype(spec.numpy_dtype).itemsize
                self._memory.reserve(spec.name, size)

    def _check(self, execution: Execution) -> None:
        """Raises EngineError for what the library did not say by a return value."""
        if errors := self._errors.taken():
            execution.forget()  # what was recorded with it is no better
            raise EngineError(f"{self._stage.name}: {'; '.join(errors)}")

    def _execution(self, profile: int) -> Execution:
        """A new execution context that is set to a profile."""
        library, memory = self._library, self._memory
        if self._records_itself:
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            if self._kernels is not None:
                self._kernels.give(config)
            context = self._engine.create_execution_context(config)
        else:
            managed = library.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(managed)
        if context is None:
            said = "; ".join(self._errors.taken())
            raise EngineError(f"{self._stage.name}: no GPU memory for profile {profile}: {said}")
        if not self._records_itself and (size := int(self._engine.device_memory_size_v2)):
            context.set_device_memory(memory.reserve(_ACTIVATIONS, size), size)
        if not context.set_optimization_profile_async(profile, memory.stream):
            raise EngineError(f"{self._stage.name}: the engine refuses profile {profile}")
        graph = None if self._records_itself else CudaGraph(memory.cuda, memory.call, memory.stream)
        return Execution(context, memory.stream, graph, self._errors)


class DeviceMemory:
    """Buffers on the GPU by tensor name, which only grow, and the stream that everything runs on.

    Attributes:
        cuda: cuda-python's runtime module.
        stream: the stream.
        pinned: memory of the host that is copied from and to.
    """

    def __init__(self) -> None:
        """Makes the stream; raises EngineError without cuda-python or without a GPU."""
        self.cuda = load(CUDA_RUNTIME)
        self.stream: int = int(self.call(self.cuda.cudaStreamCreate()))
        self.pinned = PinnedMemory(self.cuda, self.call)
        self._buffers: dict[str, tuple[int, int]] = {}

    def reserve(self, name: str, size: int) -> int:
        """The address of a buffer of at least `size` bytes."""
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < size:
            if self._buffers.pop(name, None):  # before: without memory for the new one there is none
                self.call(self.cuda.cudaFree(address))
            address = int(self.call(self.cuda.cudaMalloc(size)))
            self._buffers[name] = (address, size)
        return address

    def upload(self, name: str, array: Array) -> int:
        """Copies an array to the GPU and returns the address; again for the same name only after `wait`."""
        array = self.pinned.staged(name, array)
        address = self.reserve(name, array.nbytes)
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call(self.cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))
        return address

    def download(self, name: str, array: Array) -> None:
        """Copies a buffer into an array, which is whole after `wait`."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        address = self._buffers[name][0]
        self.call(self.cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def wait(self) -> None:
        """Waits until everything on the stream is done."""
        self.call(self.cuda.cudaStreamSynchronize(self.stream))

    def call(self, result: Sequence[Any]) -> Any:
        """The value of a CUDA call; raises EngineError with CUDA's own words."""
        status, *values = result
        errors = self.cuda.cudaError_t
        if status != errors.cudaSuccess:
            said = self.cuda.cudaGetErrorString(status)[1].decode()
            old = status == errors.cudaErrorInsufficientDriver
            raise EngineError(f"CUDA: {said}{'; CUDA 13 needs driver 580 or newer' if old else ''}")
        return values[0] if values else None


def checked_engine(
    directory: Path, stage: StageSpec, *, engine: str, precision: str, version: str | None
) -> tuple[Path, Sidecar]:
    """The verified engine file of a directory and its sidecar; raises EngineError.

    Args:
        directory: the version folder of the stage's model.
        stage: the stage's spec.
        engine: `tensorrt` or `tensorrt-rtx`.
        precision: the precision of this stage.
        version: the version of the engine's library here; None where Triton brings its own.
    """
    file, gpu = find_engine(directory, stage.name), detect_gpu()
    expected = {"stage": stage.name, "library": LIBRARIES[engine], "precision": precision}
    if version is not None:
        expected["library_version"] = version
    sidecar = verify(file, expected | _place(engine, gpu))
    if gpu is None:
        raise EngineError(f"{file.name} needs a GPU ({sidecar.key.target}), and there is none here")
    if sidecar.key.driver not in ("", gpu.driver):
        _logger.warning("%s was timed on driver %s, here %s", file.name, sidecar.key.driver, gpu.driver)
    return file, sidecar


def _place(engine: str, gpu: Gpu | None) -> dict[str, str]:
    """What the GPU of this machine demands of an engine: `tensorrt` chose kernels for one product."""
    if gpu is None:
        return {}
    return {"target": gpu.target} | ({"gpu": gpu.name} if engine == "tensorrt" else {})
