"""CUDA graphs: what an engine launches for one set of shapes, recorded once and replayed as a whole.

A UNet step is some two thousand kernels; replayed, they cost the CPU one call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from zoetrope_server.engines import EngineError

_logger = logging.getLogger(__name__)


class CudaGraph:
    """The work of one execution context at one set of shapes.

    A graph refers to the state of the context that it was recorded from and to the addresses of its tensors:
    a context has one graph and one set of shapes, and `forget` is called when a buffer has moved.
    """

    def __init__(self, cuda: Any, call: Callable[[Any], Any], stream: int) -> None:
        """Takes cuda-python's runtime module, what checks the result of a call to it, and the stream."""
        self._cuda, self._call, self._stream = cuda, call, stream
        self._graph: Any = None
        self._calls = 0
        self._possible = True

    def run(self, launch: Callable[[], None]) -> None:
        """Runs `launch`, or what it launched before.

        The second run is recorded, since one-off shapes are not worth it. It is launched before: the first
        work after a change of shapes or addresses may bring the context up to date, which no graph may hold.

        Args:
            launch: puts the work on the stream: the same work on the same addresses each time.

        Raises:
            EngineError: it could not be launched. What cannot be recorded is launched one by one.
        """
        if self._graph is not None:
            self._call(self._cuda.cudaGraphLaunch(self._graph, self._stream))
            return
        launch()
        self._calls += 1
        if self._calls > 1 and self._possible:
            self._try_to_record(launch)

    def forget(self) -> None:
        """Drops what was recorded."""
        graph, self._graph, self._calls = self._graph, None, 0
        if graph is not None:
            self._call(self._cuda.cudaGraphExecDestroy(graph))

    def _try_to_record(self, launch: Callable[[], None]) -> None:
        try:
            self._graph = self._record(launch)
        except EngineError as error:
            self._possible = False
            self._cuda.cudaGetLastError()  # or the next call that looks takes this failure for its own
            _logger.warning("no CUDA graph, kernels are launched one by one: %s", error)

    def _record(self, launch: Callable[[], None]) -> Any:
        """The work of `launch`, not run yet."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(cuda.cudaStreamBeginCapture(self._stream, mode))
        graph = None
        try:
            try:
                launch()
            finally:
                # Ends the capture also when the engine refuses, since the stream is of no use within one.
                graph = self._call(cuda.cudaStreamEndCapture(self._stream))
            return self._call(cuda.cudaGraphInstantiate(graph, 0))
        finally:
            if graph is not None:
                cuda.cudaGraphDestroy(graph)
