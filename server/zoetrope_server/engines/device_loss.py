"""CUDA's sticky errors: after one, every call of the process fails until the process ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from zoetrope_server.engines import Engine

STICKY: Mapping[str, str] = {
    "cudaErrorECCUncorrectable": "uncorrectable ECC error encountered",
    "cudaErrorNvlinkUncorrectable": "uncorrectable NVLink error detected during the execution",
    "cudaErrorContained": "Invalid access of peer GPU memory over nvlink or a hardware error",
    "cudaErrorIllegalAddress": "an illegal memory access was encountered",
    "cudaErrorLaunchTimeout": "the launch timed out and was terminated",
    "cudaErrorContextIsDestroyed": "context is destroyed",
    "cudaErrorAssert": "device-side assert triggered",
    "cudaErrorHardwareStackError": "hardware stack error",
    "cudaErrorIllegalInstruction": "an illegal instruction was encountered",
    "cudaErrorMisalignedAddress": "misaligned address",
    "cudaErrorInvalidAddressSpace": "operation not supported on global/shared address space",
    "cudaErrorInvalidPc": "invalid program counter",
    "cudaErrorLaunchFailure": "unspecified launch failure",
    "cudaErrorTensorMemoryLeak": "tensor memory not completely freed",
    "cudaErrorMpsClientTerminated": "the MPS client has been terminated by the server",
    "cudaErrorExternalDevice": "an async error has occured in external entity outside of CUDA",
}
"""The errors after which, by driver_types.h, a process must end, with `cudaGetErrorString`'s words.

cuda-python, torch, ONNX Runtime and TensorRT all repeat the words or the name in their own errors.
"""


@runtime_checkable
class OnDevice(Protocol):
    """An engine that can tell whether its device still answers."""

    def synchronize(self) -> None:
        """Waits until the device is idle; raises when it is lost."""
        ...


def is_sticky(message: str) -> bool:
    """Whether an error message is that of a sticky error."""
    return any(name in message or words in message for name, words in STICKY.items())


def device_is_lost(engine: Engine, error: BaseException) -> bool:
    """Whether an error of an engine has cost the process its device.

    What the error says may be the consequence alone ("the engine failed"), so an engine on a device is asked
    too: a sticky error is the answer to every later call.
    """
    return is_sticky(str(error)) or (isinstance(engine, OnDevice) and _fails_to_answer(engine))


def _fails_to_answer(engine: OnDevice) -> bool:
    try:
        engine.synchronize()
    except Exception:
        return True
    return False
