"""What there is: compiler, CUDA headers, a toy AOTInductor package, rates, and the torch-free unit tests."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.environment import ROOT
from zoetrope_bench.gpu.record import Record, Step

TORCH_FREE_TESTS = (
    "tests/unit/test_core_guidance.py",
    "tests/unit/test_core_image.py",
    "tests/unit/test_core_latents.py",
    "tests/unit/test_core_manifest.py",
    "tests/unit/test_core_schedules.py",
    "tests/unit/test_core_specs.py",
    "tests/unit/test_beside.py",
    "tests/unit/test_sharing.py",
    "tests/unit/test_watchdog.py",
    "tests/unit/test_device_loss.py",
    "tests/unit/test_pinned.py",
)
"""Unit tests that need numpy and pytest alone."""
_MODULES = ("triton", "diffusers", "transformers", "onnx", "cuda.bindings", "pytest", "av", "tritonclient")
_TESTS_S = 25.0


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    return [
        ("toolchain", lambda: _toolchain(record)),
        ("rates", lambda: _rates(record, device)),
        ("toy package", lambda: _toy_package(record, device, scratch)),
        ("torch-free unit tests", lambda: _tests(record)),
    ]


def _toolchain(record: Record) -> None:
    compilers = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name and shutil.which(name)]
    record.check("a C++ compiler", bool(compilers), ", ".join(compilers))
    for module in _MODULES:
        record.add(f"module {module}", _is_there(module))
    if torch.version.cuda is not None:
        from torch.utils.cpp_extension import CUDA_HOME

        headers = CUDA_HOME is not None and Path(CUDA_HOME, "include", "cuda_runtime_api.h").is_file()
        record.check("CUDA headers", headers, str(CUDA_HOME))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _rates(record: Record, device: Device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        name = f"matrix product, {str(dtype).removeprefix('torch.')}"
        record.add(name, device.matmul_tflops(dtype), "TFLOP/s")
    source = device.random(2**16 if device.toy else 2**31, dtype=torch.float16)
    target = torch.empty_like(source)
    ms = device.time_ms(lambda: target.copy_(source))
    record.add("copy on the device, read and write", 2 * source.nbytes / ms / 1e9, "TB/s")


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.linear(x).relu() * 2
        return doubled


def _toy_package(record: Record, device: Device, scratch: Path) -> None:
    """Whether AOTInductor compiles here, and whether what it compiles is right."""
    model, x = _Toy().to(device.name).eval(), device.random(4, 32, dtype=torch.float32)
    with torch.inference_mode():
        program = torch.export.export(model, (x,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(scratch / "toy.pt2"))
        error = (torch._inductor.aoti_load_package(path)(x) - model(x)).abs().max().item()
    record.check("the toy package computes what the module does", error < 1e-2, error)


def _tests(record: Record) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *TORCH_FREE_TESTS], cwd=ROOT, capture_output=True, text=True, timeout=_TESTS_S, check=False
    )
    said = (done.stdout.strip() or done.stderr.strip()).splitlines() or ["nothing"]
    record.check("the torch-free unit tests pass", done.returncode == 0, said[-1])
