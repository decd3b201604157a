"""The device of the measurements: a CUDA GPU, or at toy sizes the CPU; how to time on it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], Any]


class Device:
    """Where a part computes.

    Attributes:
        toy: whether it is a rehearsal on the CPU.
        name: torch's name of the device.
        half: the dtype that stands for FP16 weights and activations.
    """

    def __init__(self, *, toy: bool) -> None:
        """Takes the GPU, or for a rehearsal the CPU.

        Raises:
            RuntimeError: there is no GPU.
        """
        if not toy and not torch.cuda.is_available():
            raise RuntimeError("there is no CUDA GPU; --toy rehearses on the CPU")
        self.toy, self.name, self.half = toy, "cpu" if toy else "cuda", torch.float16

    def facts(self) -> dict[str, Any]:
        """The card, its driver and the versions."""
        from zoetrope_server.engines.gpu import detect_gpu

        facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None}
        if not self.toy and (gpu := detect_gpu()) is not None:
            facts["gpu"] = {"name": gpu.name, "compute_capability": gpu.target, "driver": gpu.driver}
        return facts

    def synchronize(self) -> None:
        """Waits until the device is idle."""
        if not self.toy:
            torch.cuda.synchronize()

    def is_lost(self) -> bool:
        """Whether an error has left the CUDA context of this process without use."""
        try:
            self.synchronize()
        except RuntimeError:
            return True
        return False

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Any:
        """Standard normal values."""
        return torch.randn(shape, device=self.name, dtype=dtype or self.half)

    def time_ms(self, call: Call, *, runs: int = 6, warm_up: int = 2) -> float:
        """The median time of a call on the device."""
        if self.toy:
            return self.host_ms(call, runs=2, warm_up=1)
        for _ in range(warm_up):
            call()
        marks = [[self._event() for _ in range(2)] for _ in range(runs)]
        for start, end in marks:
            start.record()
            call()
            end.record()
        self.synchronize()
        return float(statistics.median(start.elapsed_time(end) for start, end in marks))

    def _event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def host_ms(
        self, call: Callable[..., Any], prepare: Callable[[], tuple[Any, ...]] = tuple, *, runs: int = 15,
        warm_up: int = 3,
    ) -> float:  # fmt: skip
        """The median time of a call as the host sees it; `prepare` makes its arguments, untimed."""
        times = []
        for _ in range(warm_up + runs):
            arguments = prepare()
            self.synchronize()
            began = time.perf_counter()
            call(*arguments)
            self.synchronize()
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times[warm_up:])

    def captured(self, call: Call) -> Call:
        """A call as a CUDA graph: its replay. On the CPU the call itself."""
        if self.toy:
            return call
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def begin_memory(self) -> None:
        """Frees what can be freed, and counts the peak anew."""
        gc.collect()
        if not self.toy:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """The most memory that tensors took since `begin_memory`, in GiB."""
        return 0.0 if self.toy else torch.cuda.max_memory_allocated() / 2**30

    def matmul_tflops(self, dtype: torch.dtype | None = None) -> float:
        """The rate of a large matrix product: what the floor of a network follows from."""
        size = 256 if self.toy else 8192
        a, b = (self.random(size, size, dtype=dtype) for _ in range(2))
        return 2 * size**3 / self.time_ms(lambda: a @ b, runs=20, warm_up=5) / 1e9
