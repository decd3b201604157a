"""What the stage benchmark says: one row a stage and contender, a table for each stage, a report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from zoetrope_bench.report import Figure, Report
from zoetrope_bench.stage_tasks import COMPILED, EAGER, ENGINE, RESIDENT, Task

_MIB = 1 << 20
_TERA = 1e12
_HEADINGS = ("contender", "ms", "spread", "TFLOP/s", "of peak", "MiB", "speed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender of one stage.

    Attributes:
        task: what was measured.
        seconds: the median of the calls of each turn; empty when it failed.
        flops: floating point operations of the call, as diffusers' graph has them.
        memory: the most memory while it ran, in bytes.
        setup_seconds, setup_memory: the same of loading, compiling and warming up.
        failure: why there are no times.
    """

    task: Task
    seconds: tuple[float, ...] = ()
    flops: int = 0
    memory: int = 0
    setup_seconds: float = 0.0
    setup_memory: int = 0
    failure: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is an engine of this project."""
        return self.task.kind in (ENGINE, RESIDENT)

    @property
    def median(self) -> float | None:
        """Seconds of one call."""
        return statistics.median(self.seconds) if self.seconds and not self.failure else None

    @property
    def rate(self) -> float | None:
        """Useful floating point operations a second."""
        return None if self.median is None else self.flops / self.median


Peaks = Mapping[str, float]
"""Floating point operations a second of the machine, by precision."""


def row_facts(row: Row, rows: Sequence[Row], peaks: Peaks) -> dict[str, Any]:
    """A row as JSON-ready data; what it lacks is null.

    Args:
        row: the row.
        rows: all rows, for the ratios to the baselines of its stage.
        peaks: the peak at each precision.
    """
    peak = peaks.get(row.task.precision)
    facts = {
        "stage": row.task.stage,
        "contender": row.task.contender,
        "ours": row.ours,
        "precision": row.task.precision,
        "device": row.task.device,
        "failure": row.failure,
    }
    if row.median is None or row.rate is None:
        return facts
    return facts | {
        "median_ms": round(row.median * 1e3, 3),
        "fastest_ms": round(min(row.seconds) * 1e3, 3),
        "slowest_ms": round(max(row.seconds) * 1e3, 3),
        "turns_ms": [round(each * 1e3, 3) for each in row.seconds],
        "useful_gflop": round(row.flops / 1e9, 3),
        "useful_tflops": round(row.rate / _TERA, 5),
        "share_of_peak": round(row.rate / peak, 4) if peak else None,
        "memory_mib": round(row.memory / _MIB, 1),
        "setup_s": round(row.setup_seconds, 2),
        "setup_memory_mib": round(row.setup_memory / _MIB, 1),
        "speed_against_eager": _speed(row, rows, EAGER),
        "speed_against_compile": _speed(row, rows, COMPILED),
    }


def _speed(row: Row, rows: Sequence[Row], kind: str) -> float | None:
    """How many times as fast as the baseline of its stage; None without one."""
    base = next((each for each in rows if each.task.stage == row.task.stage and each.task.kind == kind), None)
    if base is None or base.median is None or row.median is None:
        return None
    return round(base.median / row.median, 3)


def report(rows: Sequence[Row], peaks: Peaks, parameters: Mapping[str, Any]) -> Report:
    """The median of each row, the speed of our engines against the baselines, and all else as details."""
    facts = [row_facts(row, rows, peaks) for row in rows]
    figures = [
        Figure(name=f"matrix product {precision}, best", measured=peak / _TERA, unit="TFLOP/s")
        for precision, peak in peaks.items()
    ]
    for each in facts:
        if each["failure"]:
            continue
        label = f"{each['stage']}: {each['contender']} {each['precision']}"
        figures.append(Figure(name=f"{label}, median", measured=each["median_ms"], unit="ms"))
        for baseline in (EAGER, COMPILED):
            speed = each[f"speed_against_{'eager' if baseline == EAGER else 'compile'}"]
            if each["ours"] and speed is not None:
                figures.append(Figure(name=f"{label}, speed against {baseline}", measured=speed, unit="x"))
    details = {"rows": facts, "peak_tflops": {name: peak / _TERA for name, peak in peaks.items()}}
    return Report(benchmark="stages", figures=figures, parameters=dict(parameters), details=details)


def show(outcome: Report, console: Console) -> None:
    """Prints a table for each stage; a contender that failed has its reason below."""
    rows = outcome.details["rows"]
    for stage in dict.fromkeys(each["stage"] for each in rows):
        mine = [each for each in rows if each["stage"] == stage]
        table = Table(title=stage, box=SIMPLE, pad_edge=False, collapse_padding=True)
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
        for each in mine:
            table.add_row(f"{each['contender']} {each['precision']}", *cells(each))
        console.print(table)
        for each in mine:
            if each["failure"]:
                console.print(f"{each['contender']} failed: {each['failure']}", markup=False, highlight=False)
    peaks = outcome.details["peak_tflops"].items()
    console.print("speed is against diffusers eager; spread, the fastest and the slowest turn")
    console.print("peak: " + ", ".join(f"{name} {value:.3g} TFLOP/s" for name, value in peaks))


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of a saved report as lines of a Markdown table."""
    named = ((each["stage"], each["contender"], each["precision"], *cells(each)) for each in rows)
    return [f"| {' | '.join(columns)} |" for columns in named]


def _digits(value: float) -> str:
    """Three digits, and all of a whole number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cells(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures of a row as they are printed."""
    if facts["failure"]:
        return ("failed", *[""] * (len(_HEADINGS) - 2))
    share, speed = facts["share_of_peak"], facts["speed_against_eager"]
    return (
        _digits(facts["median_ms"]),
        f"{_digits(facts['fastest_ms'])}-{_digits(facts['slowest_ms'])}",
        f"{facts['useful_tflops']:.3g}",
        "" if share is None else f"{share:.1%}",
        f"{facts['memory_mib']:.0f}",
        "" if speed is None else f"{speed:.2f}",
    )
