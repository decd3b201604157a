"""The calls of `cuda.bindings.runtime` over a stand-in for the GPU: a status and values each."""

import functools
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import stand_in_device as gpu
from stand_in_device import Fault


class cudaError_t(IntEnum):  # noqa: N801
    cudaSuccess = gpu.SUCCESS
    cudaErrorInvalidValue = gpu.INVALID_VALUE
    cudaErrorMemoryAllocation = gpu.OUT_OF_MEMORY
    cudaErrorInsufficientDriver = gpu.INSUFFICIENT_DRIVER
    cudaErrorNoDevice = gpu.NO_DEVICE
    cudaErrorInvalidResourceHandle = gpu.INVALID_HANDLE
    cudaErrorIllegalState = gpu.ILLEGAL_STATE
    cudaErrorIllegalAddress = gpu.ILLEGAL_ADDRESS
    cudaErrorLaunchFailure = gpu.LAUNCH_FAILURE
    cudaErrorStreamCaptureUnsupported = gpu.CAPTURE_UNSUPPORTED
    cudaErrorStreamCaptureInvalidated = gpu.CAPTURE_INVALIDATED


class cudaMemcpyKind(IntEnum):  # noqa: N801
    cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice = range(4)


class cudaStreamCaptureMode(IntEnum):  # noqa: N801
    cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed = range(3)


_SAID = {
    gpu.OUT_OF_MEMORY: b"out of memory",
    gpu.ILLEGAL_ADDRESS: b"an illegal memory access was encountered",
    gpu.LAUNCH_FAILURE: b"unspecified launch failure",
    gpu.CAPTURE_UNSUPPORTED: b"operation not permitted when stream is capturing",
    gpu.CAPTURE_INVALIDATED: b"operation failed due to a previous error during capture",
    gpu.INVALID_VALUE: b"invalid argument",
    gpu.INSUFFICIENT_DRIVER: b"CUDA driver version is insufficient for CUDA runtime version",
}
cudaHostAllocDefault = 0
cudaDeviceScheduleBlockingSync = 4


def _call(values=0):
    """A call with so many values; after a sticky error each call returns that, and nothing else happens."""

    def decorate(function):
        @functools.wraps(function)
        def call(*arguments):
            device = gpu.device
            nothing = (None,) * values
            if device.sticky:
                return (cudaError_t(device.sticky), *nothing)
            try:
                result = function(device, *arguments)
            except Fault as fault:
                device.last = fault.code
                if fault.code in gpu.STICKY:
                    device.sticky = fault.code
                return (cudaError_t(fault.code), *nothing)
            got = result if values > 1 else (result,) * values
            return (cudaError_t.cudaSuccess, *got)

        return call

    return decorate


def cudaGetErrorString(status):  # noqa: N802
    return cudaError_t.cudaSuccess, _SAID.get(int(status), cudaError_t(status).name.encode())


def cudaGetLastError():  # noqa: N802
    """Returns the last error and forgets it, but for a sticky one."""
    last, gpu.device.last = gpu.device.last, gpu.device.sticky
    return (cudaError_t(last),)


def cudaPeekAtLastError():  # noqa: N802
    return (cudaError_t(gpu.device.last),)


@_call(1)
def cudaGetDeviceCount(device):  # noqa: N802
    return 1


@_call(1)
def cudaGetDeviceProperties(device, number):  # noqa: N802
    if number:
        raise Fault(gpu.INVALID_VALUE, "one GPU")
    name = device.name.encode().ljust(256, b"\0")
    return SimpleNamespace(name=name, major=device.major, minor=device.minor, totalGlobalMem=device.capacity)


@_call(2)
def cudaMemGetInfo(device):  # noqa: N802
    return device.capacity - device.used, device.capacity


@_call()
def cudaSetDevice(device, number):  # noqa: N802
    pass


@_call()
def cudaSetDeviceFlags(device, flags):  # noqa: N802
    pass


@_call(1)
def cudaMalloc(device, size):  # noqa: N802
    return device.allocate(int(size))


@_call()
def cudaFree(device, address):  # noqa: N802
    device.free(int(address))


@_call(1)
def cudaHostAlloc(device, size, flags):  # noqa: N802
    device.forbid_in_capture()
    memory = np.full(int(size), 0xA5, np.uint8)
    device.pinned[memory.ctypes.data] = memory
    return memory.ctypes.data


@_call(1)
def cudaMallocHost(device, size):  # noqa: N802
    return cudaHostAlloc(size, 0)[1]


@_call()
def cudaFreeHost(device, address):  # noqa: N802
    device.forbid_in_capture()
    device.synchronize_all()
    if device.pinned.pop(int(address), None) is None:
        raise Fault(gpu.INVALID_VALUE, "no pinned memory")


@_call(1)
def cudaStreamCreate(device):  # noqa: N802
    device.forbid_in_capture()
    return device.new_handle(device.streams, gpu.Stream())


@_call(1)
def cudaStreamCreateWithFlags(device, flags):  # noqa: N802
    return device.new_handle(device.streams, gpu.Stream())


@_call()
def cudaStreamDestroy(device, stream):  # noqa: N802
    device.synchronize(stream)
    del device.streams[int(stream)]


@_call()
def cudaStreamSynchronize(device, stream):  # noqa: N802
    device.synchronize(stream)


@_call()
def cudaDeviceSynchronize(device):  # noqa: N802
    device.synchronize_all()


@_call()
def cudaMemcpyAsync(device, target, source, size, kind, stream):  # noqa: N802
    """From memory that is not pinned the bytes are taken at once, as CUDA stages them before it returns."""
    target, source, size = int(target), int(source), int(size)
    to_device = kind in (cudaMemcpyKind.cudaMemcpyHostToDevice, cudaMemcpyKind.cudaMemcpyDeviceToDevice)
    from_device = kind in (cudaMemcpyKind.cudaMemcpyDeviceToHost, cudaMemcpyKind.cudaMemcpyDeviceToDevice)
    for address, expected in ((target, to_device), (source, from_device)):
        if not address or device.is_device(address) != expected:
            raise Fault(gpu.INVALID_VALUE, f"{address:#x} is on the wrong side of the copy")
    pinned = any(base <= source < base + memory.nbytes for base, memory in device.pinned.items())
    staged = None if from_device or pinned else gpu.host_bytes(source, size).copy()

    def copy():
        if from_device:
            data = device.view(source, size)
        else:
            data = gpu.host_bytes(source, size) if staged is None else staged
        place = device.view(target, size) if to_device else gpu.host_bytes(target, size)
        place[:] = data

    device.enqueue(stream, copy)


@_call()
def cudaStreamBeginCapture(device, stream, mode):  # noqa: N802
    device.begin_capture(stream)


@_call(1)
def cudaStreamEndCapture(device, stream):  # noqa: N802
    return device.end_capture(stream)


@_call(1)
def cudaGraphInstantiate(device, graph, flags):  # noqa: N802
    return device.new_handle(device.graphs, gpu.Graph(device.graph(graph).work))


@_call()
def cudaGraphDestroy(device, graph):  # noqa: N802
    device.graph(graph)
    del device.graphs[int(graph)]


cudaGraphExecDestroy = cudaGraphDestroy  # noqa: N816


@_call()
def cudaGraphLaunch(device, graph, stream):  # noqa: N802
    device.launch_graph(graph, stream)


@_call(1)
def cudaEventCreate(device):  # noqa: N802
    return device.new_handle(device.graphs, SimpleNamespace(done=False))


@_call()
def cudaEventRecord(device, event, stream):  # noqa: N802
    device.graph(event).stream = stream
    device.enqueue(stream, lambda: None)


@_call()
def cudaEventSynchronize(device, event):  # noqa: N802
    device.synchronize(device.graph(event).stream)
