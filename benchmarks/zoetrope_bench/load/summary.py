"""What a run says in the end: the report as JSON, and a page of tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoetrope_bench.load.folds import MOMENTS, fold
from zoetrope_bench.load.mix import ALL
from zoetrope_bench.load.records import Run
from zoetrope_bench.load.slo import Slo, name
from zoetrope_bench.load.statistics import LEVELS
from zoetrope_bench.report import Figure, Report

BENCHMARK = "load"
TITLES = {
    "latency": "latency, to done",
    "first_event": "to the first event",
    "first_step": "to the first step's end",
    "first_frame": "to the first frame",
}
"""What each moment is called, for people."""


def report(run: Run, slo: Slo | None = None) -> Report:
    """The report of a run; an objective becomes the target of the share served in time."""
    body = fold(run, slo)
    return Report(
        benchmark=BENCHMARK,
        figures=list(_figures(body, slo)),
        parameters=run.parameters,
        details={
            "began_at": run.began_at,
            "generator_machine": run.machine,
            "interrupted": run.interrupted,
            **body,
        },
    )


def _figures(body: Mapping[str, Any], slo: Slo | None) -> Iterator[Figure]:
    for label in ("offered", "achieved"):
        if body[label]["per_s"] is not None:
            yield Figure(name=f"{label} rate", measured=body[label]["per_s"], unit="/s")
    group: Mapping[str, Any] = body["classes"].get(ALL) or next(iter(body["classes"].values()), {})
    for level in LEVELS:
        if found := group.get("latency", {}).get(name(level)):
            yield Figure(name=f"latency {name(level)}", measured=found["value"], unit="s")
    if slo is not None and body["slo"]["share"] is not None and body["slo"]["goodput"]["per_s"] is not None:
        # Not the quantile: it is infinite, and no figure, where too many were not served.
        yield Figure(name=f"share within {slo.limit:g}s", measured=body["slo"]["share"], target=slo.level)
        yield Figure(name=f"goodput under {slo}", measured=body["slo"]["goodput"]["per_s"], unit="/s")
    if body["generator"]["lag"]:
        lag = body["generator"]["lag"]["p99"]["value"]
        bound = body["generator"]["lag_bound_s"]
        yield Figure(name="generator's lag p99", measured=lag, unit="s", target=bound, at_most=True)
    if body["server"].get("videos_per_execution"):
        yield Figure(name="videos per execution", measured=body["server"]["videos_per_execution"])


def show(report: Report, console: Console) -> None:
    """Prints rates, quantiles with their intervals, how requests ended, the stages, and every flag."""
    body = report.details
    console.print(_rates(body), _quantiles(body), _ends(body), _stages(body))
    for flag in body["flags"]:
        console.print(f"[yellow]note:[/yellow] {escape(flag)}")


def _rates(body: Mapping[str, Any]) -> Table:
    table = Table("rate", "per second", "95 % interval", "requests", title="load")
    rows = [("offered", body["offered"]), ("achieved", body["achieved"])]
    if "slo" in body:
        rows.append((f"goodput under {body['slo']['objective']}", body["slo"]["goodput"]))
    for label, entry in rows:
        if entry["per_s"] is not None:
            interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
            table.add_row(label, f"{entry['per_s']:.3f}", interval, str(entry["count"]))
    return table


def _quantiles(body: Mapping[str, Any]) -> Table:
    levels = [name(level) for level in LEVELS]
    table = Table("class", "seconds", "samples", *levels, title="from the intended time; (too few samples)")
    for label, group in body["classes"].items():
        for moment in MOMENTS:
            if entry := group.get(moment):
                cells = [cell(entry[level]) for level in levels]
                table.add_row(escape(label), TITLES[moment], str(entry["count"]), *cells)
    return table


def cell(entry: Mapping[str, Any]) -> str:
    """A quantile, in brackets where there are too few samples for its interval."""
    value = f"{entry['value']:.3f}"
    return f"({value})" if entry["count"] < entry["needed"] else value


def _ends(body: Mapping[str, Any]) -> Table:
    table = Table("outcome", "status", "code", "requests", title="how requests ended")
    for entry in body["ends"]:
        table.add_row(entry["outcome"], entry["status"], escape(entry["code"]), str(entry["count"]))
    return table


def _stages(body: Mapping[str, Any]) -> Table:
    table = Table("stage", "mean, s", title="where the time of served requests went")
    for stage, entry in body["stages"].items():
        table.add_row(escape(stage), f"{entry['mean_s']:.4f}")
    return table
