"""Which engines can run here: their libraries, each tried in a process of its own, and the GPU."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from zoetrope_server.doctor.findings import Finding, Level
from zoetrope_server.engines import ENGINES
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.requirements import parse_version
from zoetrope_server.launcher.workspace import GPU_DEVICES

MEDIA = "av"
"""What encodes the videos, whatever the engine."""
MODULES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "cuda.bindings.runtime"),
    "tensorrt-rtx": ("tensorrt_rtx", "cuda.bindings.runtime"),
    "aot-inductor": ("torch",),
}
"""The modules that each engine imports; the first is the one whose version counts."""
GPU_ENGINES = ("tensorrt", "tensorrt-rtx")
_INSTALL: Mapping[str, str] = {
    "onnxruntime": "pip install 'zoetrope[serve]'",
    "openvino": "pip install 'zoetrope[serve]'",
    "tensorrt": "pip install 'zoetrope[tensorrt]'",
    "tensorrt-rtx": "pip install 'tensorrt-rtx-cu13>=1.7' cuda-python",
    "aot-inductor": "pip install 'zoetrope[export]'",
}
_DRIVERS: Mapping[int, int] = {12: 525, 13: 580}
"""The oldest driver of each CUDA."""
_IMPORT = "import importlib, sys; print(getattr(importlib.import_module(sys.argv[1]), '__version__', ''))"
_TIMEOUT_S = 60.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One module: its version (empty when it does not say), or why it cannot be imported."""

    module: str
    version: str = ""
    problem: str = ""


def needed(engines: Iterable[str] = ENGINES) -> tuple[str, ...]:
    """The modules of the engines, each once, and the one for media."""
    return tuple(dict.fromkeys([MEDIA, *(module for engine in engines for module in MODULES[engine])]))


def probe(module: str, timeout_s: float = _TIMEOUT_S) -> Library:
    """Imports a module in a process of its own, as the stage processes will.

    torch is not imported, which takes seconds: its version lies in a file.
    """
    if module == "torch":
        return _torch()
    # -P: a folder that is called like a module is not mistaken for it.
    command = [sys.executable, "-P", "-c", _IMPORT, module]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Library(module=module, problem=f"its import takes longer than {timeout_s:.0f} s")
    if done.returncode < 0:
        return Library(module=module, problem=f"its import dies of {signal.Signals(-done.returncode).name}")
    if done.returncode > 0:
        said = done.stderr.strip().splitlines() or [f"its import ends with {done.returncode}"]
        return Library(module=module, problem=said[-1])
    return Library(module=module, version=(done.stdout.strip().splitlines() or [""])[-1])


def media(library: Library) -> Finding:
    """The codec."""
    if library.problem:
        found, advice = f"PyAV: {library.problem}", "pip install 'zoetrope[serve]'"
        return Finding(name="media", level=Level.ERROR, found=found, advice=advice)
    return Finding(name="media", level=Level.OK, found=f"PyAV {library.version}")


def engine(name: str, libraries: Mapping[str, Library], gpu: Gpu | None) -> Finding:
    """Whether an engine can run here; a note where it cannot, since others may.

    Args:
        name: a key of `ENGINES`.
        libraries: what `probe` said of each module that is `needed`.
        gpu: the GPU of this machine.
    """
    label = f"engine {name}"
    broken = [libraries[module] for module in MODULES[name] if libraries[module].problem]
    if broken:
        found = "; ".join(f"{library.module}: {library.problem}" for library in broken)
        return Finding(name=label, level=Level.NOTE, found=found, advice=_INSTALL[name])
    version = libraries[MODULES[name][0]].version
    if name in GPU_ENGINES and gpu is None:
        advice = "use it on a machine with an NVIDIA GPU"
        return Finding(name=label, level=Level.NOTE, found=f"{version}, but no GPU to run on", advice=advice)
    return Finding(name=label, level=Level.OK, found=f"{version}: {', '.join(ENGINES[name])}")


def any_engine(findings: Sequence[Finding]) -> Finding:
    """An error when no engine can run."""
    able = [finding.name.removeprefix("engine ") for finding in findings if finding.level is Level.OK]
    if not able:
        advice = _INSTALL["openvino"]
        return Finding(name="engines", level=Level.ERROR, found="none can run here", advice=advice)
    return Finding(name="engines", level=Level.OK, found=", ".join(able))


def gpu(found: Gpu | None, devices: Sequence[str] = GPU_DEVICES) -> Finding:
    """The GPU, or why there is none.

    Args:
        found: what the driver says.
        devices: files that only a machine with a GPU has.
    """
    if found is not None:
        memory = "memory not said"
        if found.free is not None and found.memory is not None:
            memory = f"{found.free // _MIB} of {found.memory // _MIB} MiB free"
        text = f"{found.name} ({found.target}), driver {found.driver}, {memory}"
        return Finding(name="gpu", level=Level.OK, found=text)
    if any(map(os.path.exists, devices)):
        advice = "see what nvidia-smi says; in a container, add the `utility` driver capability"
        text = "there is a device, but nvidia-smi does not describe it"
        return Finding(name="gpu", level=Level.WARNING, found=text, advice=advice)
    advice = "none needed for engines of the CPU; for a container: docker run --gpus all"
    return Finding(name="gpu", level=Level.NOTE, found="no NVIDIA GPU", advice=advice)


def driver(found: Gpu | None, cuda: str) -> Finding | None:
    """Whether the driver is new enough for cuda-python; None where neither is there.

    Args:
        found: the GPU.
        cuda: the version of cuda-python; empty without it.
    """
    if found is None or not found.driver or not cuda:
        return None
    major = parse_version(cuda)[0]
    oldest, text = _DRIVERS.get(major, 0), f"driver {found.driver}, cuda-python {cuda}"
    if parse_version(found.driver)[0] < oldest:
        advice = f"install driver {oldest} or newer, or pip install 'cuda-python<{major}'"
        return Finding(name="driver", level=Level.WARNING, found=text, advice=advice)
    return Finding(name="driver", level=Level.OK, found=text)


def cuda_version() -> str:
    """The version of cuda-python; empty without it."""
    try:
        return metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        return ""


def _torch() -> Library:
    spec = util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return Library(module="torch", problem="ModuleNotFoundError: No module named 'torch'")
    try:
        text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text()
    except OSError as error:
        return Library(module="torch", problem=str(error))
    match = re.search(r"__version__ = '([^']+)'", text)
    return Library(module="torch", version=match[1] if match else "")
