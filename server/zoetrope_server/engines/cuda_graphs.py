"""CUDA graphs: what an engine launches for one set of shapes, recorded once and replayed as a whole.

A UNet step is some two thousand kernels; replayed, they cost the CPU one call. Not run on a GPU yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MAX_GRAPHS = 16
"""The most shapes that are kept recorded; the least recently used one gives way."""
_SEEN = None
"""What a shape has that ran once: its second call is recorded, as one-off shapes are not worth it."""


class CudaGraphs:
    """Recorded executions of one engine by shape. They refer to its buffers: `clear` when one has moved."""

    def __init__(self, cuda: Any, call: Callable[[Any], Any], stream: int) -> None:
        """Takes cuda-python's runtime module, what checks the result of a call to it, and the stream."""
        self._cuda, self._call, self._stream = cuda, call, stream
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Runs `launch`, or what it launched before for the same key.

        Args:
            key: the profile and the shapes; equal keys launch equal work on the same addresses.
            launch: puts the work on the stream.
        """
        if key not in self._graphs:
            launch()
            self._keep(key, _SEEN)
            return
        if self._graphs[key] is _SEEN:
            self._keep(key, self._record(launch))
        self._graphs.move_to_end(key)
        self._call(self._cuda.cudaGraphLaunch(self._graphs[key], self._stream))

    def clear(self) -> None:
        """Forgets all that was recorded."""
        while self._graphs:
            self._drop(self._graphs.popitem()[1])

    def _record(self, launch: Callable[[], None]) -> Any:
        """The work of `launch`, not run yet."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            launch()
        finally:
            # Ends the capture also when the engine refuses, since the stream is of no use within one.
            graph = self._call(cuda.cudaStreamEndCapture(self._stream))
        ready = self._call(cuda.cudaGraphInstantiate(graph, 0))
        self._call(cuda.cudaGraphDestroy(graph))
        return ready

    def _keep(self, key: Hashable, graph: Any) -> None:
        self._graphs[key] = graph
        self._graphs.move_to_end(key)
        while len(self._graphs) > MAX_GRAPHS:
            self._drop(self._graphs.popitem(last=False)[1])

    def _drop(self, graph: Any) -> None:
        if graph is not _SEEN:
            self._call(self._cuda.cudaGraphExecDestroy(graph))
