"""Every CUDA call of the TensorRT host over real CUDA; where TensorRT would be, something copies.

A rehearsal without a GPU needs modules named `cuda.bindings.runtime` that stand for the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.record import Record, Step
from zoetrope_core.specs import Array
from zoetrope_server.engines.cuda_graphs import CudaGraph
from zoetrope_server.engines.device_loss import is_sticky
from zoetrope_server.engines.executions import Execution
from zoetrope_server.engines.tensorrt import DeviceMemory

SHAPES = ((1, 25, 4, 72, 128), (1, 14, 4, 32, 32))


class Copying:
    """An execution context that copies `x` to `y`; while `breaks`, it also does what no graph may hold."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory, self.breaks = memory, False
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """As `IExecutionContext.set_input_shape`."""
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """As `IExecutionContext.get_tensor_shape`."""
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        """As `IExecutionContext.set_tensor_address`."""
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """As `IExecutionContext.execute_async_v3`."""
        cuda, size = self._memory.cuda, int(np.prod(self._shape)) * 4
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        done = cuda.cudaMemcpyAsync(self._addresses["y"], self._addresses["x"], size, kind, stream)
        if self.breaks:
            cuda.cudaStreamSynchronize(stream)
        return bool(done[0] == cuda.cudaError_t.cudaSuccess)


class NoErrors:
    """An error recorder that was told nothing."""

    def taken(self) -> list[str]:
        """See `recorder.Recorder`."""
        return []


class Host:
    """What `TensorRtEngine.run` does around its library, over a context that copies."""

    def __init__(self) -> None:
        self.memory = DeviceMemory()
        self.context = Copying(self.memory)
        self.graph = CudaGraph(self.memory.cuda, self.memory.call, self.memory.stream)
        self.execution = Execution(self.context, self.memory.stream, self.graph, NoErrors())

    def run(self, x: Array) -> Array:
        """The copy of an array that went through the GPU."""
        output = self.memory.pinned.empty(self.execution.output_shape("y", {"x": x.shape}), x.dtype)
        addresses = {"x": self.memory.upload("x", x), "y": self.memory.reserve("y", output.nbytes)}
        self.execution.run(addresses)
        self.memory.download("y", output)
        self.memory.wait()
        return output


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    return [
        ("graphs", lambda: _graphs(record)),
        ("moved buffers", lambda: _moved(record)),
        ("a capture that fails", lambda: _failed_capture(record)),
        ("time of a call", lambda: _times(record, device)),
        ("out of memory", lambda: _out_of_memory(record)),
    ]


def _fresh(shape: tuple[int, ...], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _is_right(host: Host, shape: tuple[int, ...], calls: int) -> bool:
    """Whether so many calls with fresh inputs come out as they went in; earlier answers stay as they were."""
    inputs = [_fresh(shape, seed) for seed in range(calls)]
    outputs = [host.run(x) for x in inputs]
    return all(np.array_equal(x, y) for x, y in zip(inputs, outputs, strict=True))


def _graphs(record: Record) -> None:
    host = Host()
    record.check("launched, recorded, replayed, five calls are right", _is_right(host, SHAPES[0], 5))
    record.check("a graph was recorded", host.graph._graph is not None)
    record.check("the context is idle and sound", _error(host) == 0, _error(host))


def _moved(record: Record) -> None:
    """Two shapes in turn: the first is smaller, so the buffers move, and what was recorded must go."""
    host = Host()
    right = [_is_right(host, shape, 3) for shape in (SHAPES[1], SHAPES[0], SHAPES[1])]
    record.check("shapes in turn are right", all(right), str(right))


def _failed_capture(record: Record) -> None:
    """Waiting for a stream breaks its capture; the host goes on without a graph, and nothing sticks."""
    host = Host()
    host.run(_fresh(SHAPES[1], 0))
    host.context.breaks = True
    right = _is_right(host, SHAPES[1], 2)
    host.context.breaks = False
    record.check("calls are right although no graph can be recorded", right and _is_right(host, SHAPES[1], 2))
    record.check("no graph is kept", host.graph._graph is None)
    record.check("the last error was taken", _error(host) == 0, _error(host))


def _times(record: Record, device: Device) -> None:
    host, x = Host(), _fresh(SHAPES[0], 0)
    ms = device.host_ms(lambda: host.run(x))
    record.add("a call: 3.7 MB there and back", ms, "ms")


def _out_of_memory(record: Record) -> None:
    """An allocation that cannot be: the error says so, is no sticky one, and the next call is served."""
    host, said = Host(), ""
    try:
        host.memory.reserve("x", 1 << 46)
    except Exception as error:
        said = str(error)
    record.check(
        "64 TB are refused by an error that does not stick", bool(said) and not is_sticky(said), said
    )
    host.memory.cuda.cudaGetLastError()
    record.check("and the next calls are right", _is_right(host, SHAPES[1], 3))


def _error(host: Host) -> int:
    """CUDA's last error, by number."""
    peeked: Any = host.memory.cuda.cudaPeekAtLastError()
    return int(peeked[0])
