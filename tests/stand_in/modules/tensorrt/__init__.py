"""A stand-in for `tensorrt`: what builds is the real `tensorrt_rtx`, what runs is `running`."""

import importlib

from tensorrt.running import (
    ExecutionContextAllocationStrategy,
    ICudaEngine,
    IErrorRecorder,
    IExecutionContext,
    Logger,
    Runtime,
)

__version__ = "11.4.0.106"
__all__ = [
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "Logger",
    "Runtime",
]


def __getattr__(name):
    """Whatever only a builder needs; a process that runs engines never asks."""
    if name in ("Builder", "OnnxParser"):
        return getattr(importlib.import_module("tensorrt.building"), name)
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(importlib.import_module("tensorrt_rtx"), name)
