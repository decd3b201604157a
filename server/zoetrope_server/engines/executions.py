"""Execution contexts of a TensorRT engine, by what they were set up for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from zoetrope_server.engines import EngineError
from zoetrope_server.engines.cuda_graphs import CudaGraph
from zoetrope_server.engines.recorder import Recorder

Shapes = Mapping[str, tuple[int, ...]]
MAX_CONTEXTS = 16
"""The most contexts that are kept; the least recently used one gives way."""


class Execution:
    """An execution context and what it is set to."""

    def __init__(self, context: Any, stream: int, graph: CudaGraph | None, errors: Recorder) -> None:
        """Takes the context, its stream, what records it (None where the library does so), and its errors."""
        self.graph, self._errors = graph, errors
        self._context, self._stream = context, stream
        self._shapes: Shapes = {}
        self._addresses: Mapping[str, int] = {}

    def output_shape(self, name: str, shapes: Shapes) -> tuple[int, ...]:
        """The shape of an output for inputs of these shapes."""
        if shapes != self._shapes:
            self._shapes = {}
            for tensor, shape in shapes.items():
                if not self._context.set_input_shape(tensor, shape):
                    raise EngineError(f"the engine refuses the shape {shape} of {tensor}")
            self._shapes = dict(shapes)
        return tuple(self._context.get_tensor_shape(name))

    def run(self, addresses: Mapping[str, int]) -> None:
        """Puts the work on the stream.

        Args:
            addresses: where the tensors are; what was recorded is dropped when one has moved.

        Raises:
            EngineError: the engine failed.
        """
        if addresses != self._addresses:
            self.forget()
            for name, address in addresses.items():
                self._context.set_tensor_address(name, address)
            self._addresses = dict(addresses)
        if self.graph is None:
            self._launch()
        else:
            self.graph.run(self._launch)

    def forget(self) -> None:
        """Drops what was recorded."""
        if self.graph is not None:
            self.graph.forget()

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            said = "; ".join(self._errors.taken())
            raise EngineError(f"the engine failed on {dict(self._shapes)}: {said}")


class Executions:
    """Executions by key, which are made when they are first asked for."""

    def __init__(self, make: Callable[[int], Execution]) -> None:
        """Takes what makes an execution for an optimization profile."""
        self._make = make
        self._kept: OrderedDict[Hashable, Execution] = OrderedDict()

    def get(self, profile: int, key: Hashable) -> Execution:
        """The execution of a key, set to an optimization profile."""
        if key not in self._kept:
            while len(self._kept) >= MAX_CONTEXTS:
                self._kept.popitem(last=False)[1].forget()
            self._kept[key] = self._make(profile)
        self._kept.move_to_end(key)
        return self._kept[key]
