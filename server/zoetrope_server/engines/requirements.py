"""What engines need installed, checked before anything is built or loaded: modules, oldest versions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope_server.engines import EngineError
from zoetrope_server.engines.gpu import CUDA_RUNTIME

Version = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The oldest version (major, minor) of a module, and what to hand to `pip install` for a newer one."""

    oldest: Version
    install: str


REQUIREMENTS: Mapping[str, Requirement] = {
    # The first whose parser has the `Attention` of opset 23.
    "tensorrt": Requirement(oldest=(10, 14), install="tensorrt>=10.14"),
    "tensorrt_rtx": Requirement(oldest=(1, 7), install="tensorrt-rtx-cu13>=1.7"),
    CUDA_RUNTIME: Requirement(oldest=(12, 8), install="cuda-python>=12.8"),
}


def load(name: str) -> Any:
    """Imports a module of `REQUIREMENTS`; raises EngineError when it is missing or too old."""
    needed = REQUIREMENTS[name]
    oldest = ".".join(map(str, needed.oldest))
    advice = f"pip install '{needed.install}'"
    try:
        module = importlib.import_module(name)
        installed = _version(name)
    except (ImportError, OSError) as error:
        raise EngineError(f"this engine needs {name} {oldest} or newer: {advice} ({error})") from error
    if parse_version(installed) < needed.oldest:
        raise EngineError(f"this engine needs {name} {oldest} or newer, here {installed}: {advice}")
    return module


def parse_version(text: str) -> Version:
    """The (major, minor) of a version; (0, 0) of anything else."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _version(name: str) -> str:
    """The version that the module says, or the package that it lies in."""
    said = getattr(importlib.import_module(name), "__version__", None)
    return str(said or importlib.import_module(name.rpartition(".")[0] or name).__version__)
