"""Sticky CUDA errors are told from errors that the next call survives."""

import pytest

from zoetrope_server.engines import EngineError
from zoetrope_server.engines.device_loss import device_is_lost, is_sticky


class Engine:
    """An engine without a device."""

    def run(self, inputs):
        return {}


class OnDevice(Engine):
    """An engine whose device answers, or not."""

    def __init__(self, lost):
        self.lost = lost

    def synchronize(self):
        if self.lost:
            raise EngineError("CUDA: unspecified launch failure")


STICKY_MESSAGES = [
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be",  # torch
    "CUDA: unspecified launch failure",  # ours
    "CUDA failure 716: misaligned address ; GPU=0 ; hostname=a ; file=cuda_call.cc",  # ONNX Runtime
    "Cuda Runtime (device-side assert triggered)",  # TensorRT
    "cudaErrorIllegalAddress",
]
PASSING_MESSAGES = [
    "CUDA: out of memory",
    "CUDA out of memory. Tried to allocate 20.00 GiB.",
    "CUDA: operation failed due to a previous error during capture",
    "unet: no profile of the engine takes B=1",
    "",
]


@pytest.mark.parametrize("message", STICKY_MESSAGES)
def test_sticky_errors_are_known_by_the_words_of_each_library(message):
    assert is_sticky(message) and device_is_lost(Engine(), RuntimeError(message))


@pytest.mark.parametrize("message", PASSING_MESSAGES)
def test_other_errors_are_answers(message):
    assert not is_sticky(message)
    assert not device_is_lost(Engine(), RuntimeError(message))
    assert not device_is_lost(OnDevice(lost=False), RuntimeError(message))


def test_an_error_without_cudas_words_is_checked_on_the_device():
    assert device_is_lost(OnDevice(lost=True), EngineError("the engine failed on {}"))
