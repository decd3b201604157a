"""What a benchmark says: figures with targets, the machine, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from zoetrope_server.engines.gpu import Gpu, detect_gpu

PACKAGES = (
    "zoetrope",
    "nvidia-pytriton",
    "numpy",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "av",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        measured: its value.
        unit: the unit of the value.
        target: the value to reach, if there is one.
        at_most: whether the target is an upper bound rather than a lower one.
    """

    name: str
    measured: float
    unit: str = ""
    target: float | None = None
    at_most: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON-ready data; one with a target says whether it was reached."""
        body = {"name": self.name, "measured": round(self.measured, 4), "unit": self.unit}
        if self.target is None:
            return body
        return {**body, "target": self.target, "at_most": self.at_most, "passed": self.passed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of one benchmark.

    Attributes:
        benchmark: its name, as after `python -m zoetrope_bench.`.
        figures: what was measured.
        parameters: what it was run with.
        details: raw values and breakdowns, JSON-ready.
    """

    benchmark: str
    figures: Sequence[Figure]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Writes the report with the machine and the versions."""
        body = asdict(self) | {
            "figures": [figure.to_dict() for figure in self.figures],
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Prints the figures as a table."""
        table = Table("figure", "measured", "target", "", title=self.benchmark)
        for figure in self.figures:
            sign = "<=" if figure.at_most else ">="
            target = "" if figure.target is None else f"{sign} {figure.target:g} {figure.unit}"
            verdict = {None: "", True: "[green]passed", False: "[red]missed"}[figure.passed]
            table.add_row(figure.name, f"{figure.measured:.3f} {figure.unit}", target, verdict)
        console.print(table)


def machine() -> dict[str, Any]:
    """The processor, its cores, the GPU if there is one, and the versions of what was measured."""
    return {
        "processor": _processor(),
        "gpu": _gpu(detect_gpu()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _gpu(gpu: Gpu | None) -> dict[str, Any] | None:
    """What a figure of this GPU depends on; `cuda` is the version that torch was built for."""
    if gpu is None:
        return None
    return {
        "name": gpu.name,
        "compute_capability": gpu.target,
        "driver": gpu.driver,
        "memory_mib": None if gpu.memory is None else gpu.memory >> 20,
        "cuda": _cuda(),
    }


def _cuda() -> str | None:
    """The version of CUDA that torch was built for; None without torch, or for a build without CUDA."""
    try:
        import torch
    except ImportError:
        return None
    return torch.version.cuda


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "avx512f") if unit in facts.get("flags", "")]
    return f"{facts.get('model name', platform.processor())} ({', '.join(units)})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
