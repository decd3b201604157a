"""The GPU of this machine: the one that CUDA gives this process, or else the first of the driver's tool.

CUDA counts the fastest first and honours CUDA_VISIBLE_DEVICES, `nvidia-smi` does neither: where both are
there CUDA is right, since it is what runs the engines.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUDA_RUNTIME = "cuda.bindings.runtime"
"""cuda-python's module."""
_QUERY = "name,compute_cap,driver_version,memory.total,memory.free"
_TIMEOUT_S = 20.0
_MIB = 1 << 20
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: the product's name.
        target: its compute capability, such as `sm90`.
        driver: the driver's version; empty where it is not said.
        memory: its memory in bytes; None where it has none of its own, or does not say.
        free: what of it is free, in bytes; None likewise.
    """

    name: str
    target: str
    driver: str
    memory: int | None
    free: int | None


def detect_gpu() -> Gpu | None:
    """The NVIDIA GPU that engines would run on; None when there is none, or no driver that answers."""
    return cuda_gpu() or smi_gpu()


def cuda_gpu() -> Gpu | None:
    """CUDA's first device in this process; None without cuda-python, a GPU or a driver that is new enough."""
    try:
        cuda = importlib.import_module(CUDA_RUNTIME)
        (count,) = _values(cuda, cuda.cudaGetDeviceCount())
        if not count:
            return None
        (device,) = _values(cuda, cuda.cudaGetDeviceProperties(0))
        free, memory = _values(cuda, cuda.cudaMemGetInfo())
    except (ImportError, OSError, RuntimeError):
        return None
    return Gpu(
        name=device.name.decode().rstrip("\0"),
        target=f"sm{device.major}{device.minor}",
        driver=kernel_driver(),
        memory=int(memory),
        free=int(free),
    )


def kernel_driver(description: Path = _KERNEL_MODULE) -> str:
    """The version of the driver that the kernel has loaded; empty when it does not say."""
    try:
        match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", description.read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def smi_gpu() -> Gpu | None:
    """The first GPU of `nvidia-smi`; None when it is not there or finds none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpu(done.stdout)


def parse_gpu(table: str) -> Gpu | None:
    """The first GPU of what `nvidia-smi` prints; None for anything else.

    GPUs that share the machine's memory, and slices of a GPU, have `[N/A]` for theirs.
    """
    fields = [field.strip() for field in table.strip().partition("\n")[0].split(",")]
    try:
        name, capability, driver, memory, free = fields
        major, minor = map(int, capability.split("."))
    except ValueError:
        return None
    return Gpu(
        name=name, target=f"sm{major}{minor}", driver=driver, memory=_mebibytes(memory), free=_mebibytes(free)
    )


def _mebibytes(text: str) -> int | None:
    return int(text) * _MIB if text.isdecimal() else None


def _values(cuda: Any, result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a CUDA call; raises RuntimeError."""
    status, *values = result
    if status != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(str(status))
    return tuple(values)
