"""Page-locked host memory: what the GPU copies from and to without a detour through the driver's own."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zoetrope_core.specs import Array

_GRANULE = 1 << 16
_MOST_FREE = 16
"""Blocks that are kept for the next arrays; more go back to the system."""


class PinnedMemory:
    """Arrays over page-locked blocks, each of which is used again when nothing refers to its array any more.

    Locking pages takes as long as several copies, and a fresh array of pageable memory costs a page fault for
    each 4 KiB at its first use: so the blocks are kept.
    """

    def __init__(self, cuda: Any, call: Callable[[Sequence[Any]], Any]) -> None:
        """Takes cuda-python's runtime module and what checks the result of a call to it."""
        self._cuda, self._call = cuda, call
        self._free: list[tuple[int, int]] = []
        self._staged: dict[str, Array] = {}

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array whose contents are arbitrary."""
        kind = np.dtype(dtype)
        capacity, address = self._block(max(1, math.prod(shape) * kind.itemsize))
        owner = _Owner(address, shape, kind)
        weakref.finalize(owner, self._give_back, capacity, address).atexit = False
        return np.asarray(owner)

    def staged(self, name: str, array: Array) -> Array:
        """A page-locked copy of an array, in the one place of its name: the copy before it is overwritten."""
        place = self._staged.get(name)
        if place is None or place.nbytes < array.nbytes:
            self._staged[name] = place = self.empty((array.nbytes,), np.uint8)
        copy: Array = place[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(copy, array)
        return copy

    def _block(self, size: int) -> tuple[int, int]:
        """The capacity and the address of a block: the smallest free one that is not far too large."""
        fitting = [block for block in self._free if size <= block[0] <= max(2 * size, _GRANULE)]
        if fitting:
            block = min(fitting)
            self._free.remove(block)
            return block
        capacity = -(-size // _GRANULE) * _GRANULE
        return capacity, int(self._call(self._cuda.cudaHostAlloc(capacity, self._cuda.cudaHostAllocDefault)))

    def _give_back(self, capacity: int, address: int) -> None:
        self._free.append((capacity, address))
        if len(self._free) > _MOST_FREE:
            _, oldest = self._free.pop(0)
            self._cuda.cudaFreeHost(oldest)  # unchecked: nobody waits for it


class _Owner:
    """What an array and all its views refer to."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
        }
