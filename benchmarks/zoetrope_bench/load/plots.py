"""The plots of a run, each an SVG element that takes its ink from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoetrope_bench.load.folds import by_class, window
from zoetrope_bench.load.mix import ALL
from zoetrope_bench.load.records import ABANDONED, FAILED, OUTCOMES, REFUSED, SERVED, Run
from zoetrope_bench.load.slo import Slo

_INK, _GRID = "#010203", "#040506"
"""Colours that nothing else has, replaced by those of the page, light or dark."""
COLOURS = ("#2f81d6", "#d9730d", "#1f9d80", "#a95fd0", "#b08a00", "#d6456b")
"""Told apart with any colour vision, and readable on white and on black."""
_STYLES = {
    SERVED: (COLOURS[0], "o"),
    REFUSED: (COLOURS[1], "^"),
    FAILED: (COLOURS[5], "X"),
    ABANDONED: (COLOURS[3], "s"),
}
_LOOK: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "savefig.transparent": True,
}
_BINS = 40


def over_time(run: Run, slo: Slo | None) -> str:
    """The latency of each request by the time at which it was due, one mark for each outcome."""

    def draw(axes: Axes) -> None:
        start, _ = window(run)
        for outcome in OUTCOMES:
            found = [record for record in run.records if record.outcome == outcome]
            colour, marker = _STYLES[outcome]
            if found:
                x, y = [record.intended for record in found], [record.latency or 0.0 for record in found]
                dots = axes.scatter(x, y, s=22, c=colour, marker=marker, alpha=0.75, linewidths=0)
                dots.set(label=f"{outcome} ({len(found)})", rasterized=True)
        if start:
            axes.axvspan(0, start, color=_GRID, alpha=0.5, linewidth=0, zorder=0, label="warm-up")
        _limit(axes, slo, horizontal=True)
        axes.set(xlabel="due, seconds after the beginning", ylabel="latency, s", xlim=(0, None))
        _legend(axes)

    return _svg(draw, "over-time")


def percentiles(run: Run, slo: Slo | None) -> str:
    """The share of served requests within each latency, for each class."""

    def draw(axes: Axes) -> None:
        measured = [record for record in run.records if not record.warmup and record.outcome == SERVED]
        for colour, (label, group) in zip(COLOURS * 9, by_class(measured).items(), strict=False):
            values = np.sort([record.latency or 0.0 for record in group])
            shares = 100 * np.arange(1, len(values) + 1) / len(values)
            width = 2.4 if label == ALL else 1.5
            axes.step(
                values, shares, where="post", color=colour, linewidth=width, label=f"{label} ({len(values)})"
            )
        _limit(axes, slo, horizontal=False)
        axes.set(xlabel="latency, s", ylabel="served within, %", ylim=(0, 101), xlim=(0, None))
        _legend(axes)

    return _svg(draw, "percentiles")


def rates(run: Run) -> str:
    """Requests that were due and videos that were finished, per second, over time."""

    def draw(axes: Axes) -> None:
        _, end = window(run)
        edges = np.linspace(0, max(end, 1e-9), min(_BINS, max(2, int(end))) + 1)
        due = [record.intended for record in run.records]
        done = [
            record.ended for record in run.records if record.outcome == SERVED and record.ended is not None
        ]
        for values, label, colour, dash in (
            (due, "offered", COLOURS[1], "--"),
            (done, "achieved", COLOURS[0], "-"),
        ):
            heights = np.histogram(values, edges)[0] / np.diff(edges)
            axes.stairs(heights, edges, color=colour, linewidth=1.8, linestyle=dash, label=label)
        axes.set(xlabel="seconds after the beginning", ylabel="per second", ylim=(0, None), xlim=(0, None))
        _legend(axes)

    return _svg(draw, "rates")


def queue(series: Sequence[Mapping[str, Any]]) -> str:
    """Requests that wait and that run, over time."""

    def draw(axes: Axes) -> None:
        at = [sample["at"] for sample in series]
        for name, colour, dash in (("waiting", COLOURS[1], "-"), ("active", COLOURS[0], "--")):
            values = [np.nan if sample[name] is None else sample[name] for sample in series]
            axes.step(at, values, where="post", color=colour, linestyle=dash, linewidth=1.8, label=name)
        axes.set(xlabel="seconds after the beginning", ylabel="requests", ylim=(0, None))
        _legend(axes)

    return _svg(draw, "queue")


def executions(series: Sequence[Mapping[str, Any]]) -> str:
    """Videos that share an execution of the UNet, over time."""

    def draw(axes: Axes) -> None:
        known = [(sample["at"], sample.get("videos_per_execution")) for sample in series]
        known = [(at, value) for at, value in known if value is not None]
        axes.plot(*zip(*known, strict=True), color=COLOURS[2], linewidth=1.8, marker="o", markersize=3)
        axes.set(xlabel="seconds after the beginning", ylabel="videos per execution", ylim=(0, None))

    return _svg(draw, "executions")


def stages(means: Mapping[str, float]) -> str:
    """Mean seconds of a served request in each stage."""

    def draw(axes: Axes) -> None:
        names = [name.replace("_", " ") for name in means]
        bars = axes.barh(names, list(means.values()), color=COLOURS[0], height=0.65)
        axes.bar_label(bars, fmt="%.3f", padding=4)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.14)
        axes.set(xlabel="mean seconds of a served request")

    return _svg(draw, "stages")


def _limit(axes: Axes, slo: Slo | None, *, horizontal: bool) -> None:
    if slo is not None:
        line = axes.axhline if horizontal else axes.axvline
        line(slo.limit, color=COLOURS[5], linewidth=1.3, linestyle=":", label=f"limit {slo.limit:g} s")
        if not horizontal:
            axes.axhline(100 * slo.level, color=COLOURS[5], linewidth=0.8, linestyle=":")


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(labels)))


def _svg(draw: Callable[[Axes], None], name: str) -> str:
    """What `draw` draws, as an element of a page; `name` keeps the identifiers of several apart."""
    with matplotlib.rc_context({**_LOOK, "svg.hashsalt": name}):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, count=1, flags=re.DOTALL)
    return re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", element)
