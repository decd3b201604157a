"""Page-locked memory: blocks are used again, but never while somebody still holds an array over them."""

import gc

import numpy as np
import pytest

from zoetrope_server.engines import pinned
from zoetrope_server.engines.pinned import PinnedMemory


class Cuda:
    """Host memory, and what was asked of it."""

    cudaHostAllocDefault = 0

    def __init__(self):
        self.blocks, self.freed = {}, []

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        block = np.full(size, 0xA5, np.uint8)
        self.blocks[block.ctypes.data] = block
        return 0, block.ctypes.data

    def cudaFreeHost(self, address):  # noqa: N802
        self.freed.append(address)
        return (0,)


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def memory(cuda):
    return PinnedMemory(cuda, lambda result: result[1])


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 25, 4, 72, 128), np.float32), ((7, 8, 8, 3), np.uint8), ((1, 1), np.bool_)]
)
def test_an_array_lies_in_page_locked_memory(cuda, memory, shape, dtype):
    array = memory.empty(shape, dtype)
    assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, dtype, True)
    array[...] = 1
    (block,) = cuda.blocks.values()
    assert address(array) == block.ctypes.data and block[: array.nbytes].any()


def test_a_block_is_used_again_when_nothing_refers_to_it(cuda, memory):
    first = memory.empty((1000,), np.float32)
    place = address(first)
    part = first[10:20].reshape(2, 5)
    del first
    second = memory.empty((1000,), np.float32)
    assert address(second) != place, "a view of it is still there, as of an answer that is not sent yet"
    del part
    gc.collect()
    assert address(memory.empty((900,), np.float32)) == place
    assert len(cuda.blocks) == 2 and not cuda.freed


def test_a_small_array_does_not_take_a_large_block(cuda, memory):
    large = memory.empty((1 << 20,), np.uint8)
    del large
    memory.empty((100_000,), np.uint8)
    assert len(cuda.blocks) == 2


def test_few_free_blocks_are_kept(cuda, memory, monkeypatch):
    monkeypatch.setattr(pinned, "_MOST_FREE", 2)
    arrays = [memory.empty((10,), np.uint8) for _ in range(5)]
    order = [address(array) for array in arrays]
    while arrays:
        del arrays[0]
    assert cuda.freed == order[:3]


def test_staged_copies_take_turns_in_one_place_by_name(cuda, memory):
    for shape in [(2, 3), (1, 3), (2, 3)]:
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        copy = memory.staged("latents", array[:, ::-1])
        np.testing.assert_array_equal(copy, array[:, ::-1])
        assert copy.flags.c_contiguous
    other = memory.staged("sigma", np.float32([[7.0]]))
    assert len(cuda.blocks) == 2 and address(other) != address(copy)
    assert memory.staged("latents", np.ones((70_000,), np.float32)).all(), "and grows"
    assert len(cuda.blocks) == 3
