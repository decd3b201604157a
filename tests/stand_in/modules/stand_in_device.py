"""A GPU without a GPU: memory, streams, capture and graphs, with the refusals of the CUDA runtime.

Work on a stream is done when somebody waits for it, and not before: what is read without waiting is not there
yet, and what is freed or changed too early is missed.
"""

import ctypes
import os
import weakref

import numpy as np

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INSUFFICIENT_DRIVER, NO_DEVICE = 0, 1, 2, 35, 100
INVALID_HANDLE, ILLEGAL_STATE, ILLEGAL_ADDRESS, LAUNCH_FAILURE = 400, 401, 700, 719
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
STICKY = {ILLEGAL_ADDRESS, LAUNCH_FAILURE}
"""CUDA's documentation of `cudaError_t`: "the process must be terminated and relaunched"."""
ALIGNMENT = 512
_FIRST_ADDRESS = 0x7_0000_0000_0000
"""No host pointer: beyond the addresses of user space."""


class Fault(Exception):
    """What went wrong while work was done; `code` is a `cudaError_t`."""

    def __init__(self, code, why):
        super().__init__(why)
        self.code = code


class Stream:
    def __init__(self):
        self.queue, self.captured, self.broken = [], None, False


class Graph:
    """Captured work, instantiated or not. It holds no memory: replaying it after a `free` is a fault."""

    def __init__(self, work):
        self.work, self.alive = work, True


class Device:
    def __init__(self):
        self.name, _, capability = os.environ.get("STAND_IN_GPU", "NVIDIA H200,9.0").partition(",")
        self.major, self.minor = map(int, capability.split("."))
        self.capacity = int(os.environ.get("STAND_IN_MEMORY", 8 << 30))
        self.blocks, self.pinned, self.streams, self.graphs = {}, {}, {}, {}
        self.next, self.handle = _FIRST_ADDRESS, 0
        self.sticky, self.last = SUCCESS, SUCCESS
        self.enqueues = self.launches = self.replays = 0
        kind, _, number = os.environ.get("STAND_IN_FAULT", "").partition(":")
        self.fault = (kind, int(number or 0))

    @property
    def used(self):
        return sum(block.nbytes for block in self.blocks.values())

    def new_handle(self, table, value):
        self.handle += 1
        table[self.handle] = value
        return self.handle

    def stream(self, handle):
        """Stream 0 exists without being made."""
        if int(handle) == 0:
            self.streams.setdefault(0, Stream())
        if int(handle) not in self.streams:
            raise Fault(INVALID_HANDLE, f"no stream {handle}")
        return self.streams[int(handle)]

    def forbid_in_capture(self):
        """ "Potentially unsafe API calls are prohibited during ... capture" (cudaStreamCaptureMode)."""
        capturing = [stream for stream in self.streams.values() if stream.captured is not None]
        for stream in capturing:
            stream.broken = True
        if capturing:
            raise Fault(CAPTURE_UNSUPPORTED, "not permitted while a stream is capturing")

    def allocate(self, size):
        self.forbid_in_capture()
        if size <= 0:
            raise Fault(INVALID_VALUE, "nothing to allocate")
        if self.used + size > self.capacity:
            raise Fault(OUT_OF_MEMORY, f"{size} bytes, {self.capacity - self.used} are free")
        address, self.next = self.next, self.next + -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self.blocks[address] = np.full(size, 0xA5, np.uint8)  # never zeros: nobody may count on them
        return address

    def free(self, address):
        """Waits for the device, as `cudaFree` does."""
        if address == 0:
            return
        self.forbid_in_capture()
        if address not in self.blocks:
            raise Fault(INVALID_VALUE, f"{address:#x} was not allocated, or was freed before")
        self.synchronize_all()
        del self.blocks[address]

    def view(self, address, size):
        """The bytes at an address; a fault when they are not all in one block of the device."""
        for base, block in self.blocks.items():
            if base <= address < base + block.nbytes:
                if address + size > base + block.nbytes:
                    raise Fault(ILLEGAL_ADDRESS, f"{size} bytes at {address:#x} run over its block")
                return block[address - base : address - base + size]
        raise Fault(ILLEGAL_ADDRESS, f"{address:#x} is no device memory: freed, or a host pointer")

    def is_device(self, address):
        return any(base <= address < base + block.nbytes for base, block in self.blocks.items())

    def enqueue(self, handle, work):
        stream = self.stream(handle)
        if stream.captured is not None:
            if stream.broken:
                raise Fault(CAPTURE_INVALIDATED, "the capture was invalidated before")
            stream.captured.append(work)
        else:
            stream.queue.append(work)

    def busy(self, handle):
        """Whether a stream has work that nobody has waited for."""
        return bool(self.stream(handle).queue)

    def synchronize(self, handle):
        stream = self.stream(handle)
        if stream.captured is not None:
            stream.broken = True
            raise Fault(CAPTURE_UNSUPPORTED, "a capturing stream cannot be waited for")
        while stream.queue:
            stream.queue.pop(0)()

    def synchronize_all(self):
        for handle in list(self.streams):
            if self.streams[handle].captured is None:
                self.synchronize(handle)

    def begin_capture(self, handle):
        stream = self.stream(handle)
        if stream.captured is not None:
            raise Fault(ILLEGAL_STATE, "the stream is capturing")
        stream.captured, stream.broken = [], False

    def end_capture(self, handle):
        stream = self.stream(handle)
        if stream.captured is None:
            raise Fault(ILLEGAL_STATE, "the stream is not capturing")
        work, stream.captured = stream.captured, None
        if stream.broken:
            raise Fault(CAPTURE_INVALIDATED, "the capture was invalidated")
        return self.new_handle(self.graphs, Graph(work))

    def graph(self, handle):
        if int(handle) not in self.graphs:
            raise Fault(INVALID_HANDLE, f"no graph {handle}")
        return self.graphs[int(handle)]

    def launch_graph(self, graph, handle):
        work = list(self.graph(graph).work)
        self.replays += 1
        if self.fault == ("graph", self.replays):
            raise Fault(OUT_OF_MEMORY, "no memory for the graph")
        self.enqueue(handle, lambda: [each() for each in work])

    def faulty(self, kind):
        """Whether the fault of this kind that was asked for is due now."""
        wanted, number = self.fault
        return wanted == kind and self.enqueues == number


def host_bytes(address, size):
    """The host's memory at an address, which must exist."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


device = Device()
contexts = weakref.WeakSet()
"""Every execution context that is alive."""


def reset():
    """A new GPU, as its environment says; for tests within one process."""
    device.__init__()
