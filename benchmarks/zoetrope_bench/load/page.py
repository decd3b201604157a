"""The report of a run as one page of HTML: no script, nothing fetched, for light and dark screens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from zoetrope_bench.load import plots
from zoetrope_bench.load.folds import MOMENTS
from zoetrope_bench.load.mix import ALL
from zoetrope_bench.load.records import Run
from zoetrope_bench.load.slo import Slo, name
from zoetrope_bench.load.slo import parse as parse_slo
from zoetrope_bench.load.statistics import LEVELS
from zoetrope_bench.load.summary import TITLES
from zoetrope_bench.report import Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5a6675; --paper: #f5f6f8; --card: #fff;
  --grid: #d9dee5; --warn: #8a5300; --warn-paper: #fff4e0; --good: #14724f; --bad: #b3264a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa6b5; --paper: #10151c;
  --card: #18202a; --grid: #334050; --warn: #f0b460; --warn-paper: #2c2314; --good: #58cfa0;
  --bad: #ff7f9d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; } h2 { font-size: 16px; margin: 0 0 10px; }
p { margin: 4px 0 0; } .soft { color: var(--soft); }
.grid { display: grid; gap: 14px; margin-top: 18px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--grid); border-radius: 8px; padding: 14px 16px;
  min-width: 0; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 600; }
.tile .good { color: var(--good); } .tile .bad { color: var(--bad); }
.flags { background: var(--warn-paper); border-color: var(--warn); margin-top: 18px; }
.flags h2 { color: var(--warn); } .flags ul { margin: 0; padding-left: 20px; }
svg { width: 100%; height: auto; display: block; } svg text { font-family: inherit !important; }
.wide { overflow-x: auto; margin-top: 14px; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
td.text, th.text { text-align: left; } th { font-weight: 600; color: var(--soft); }
tr:last-child td { border-bottom: 0; } td small { color: var(--soft); display: block; font-size: 12px; }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font-size: 12.5px; margin: 10px 0 0; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""


def page(run: Run, report: Report) -> str:
    """The whole page.

    Args:
        run: for the plots.
        report: its report, see `summary.report`.
    """
    body = report.details
    slo = parse_slo(body["slo"]["objective"]) if "slo" in body else None
    parts = (
        _head(run, body),
        f'<div class="grid tiles">{"".join(_tiles(body))}</div>',
        _flags(body["flags"]),
        f'<div class="grid plots">{"".join(_plots(run, body, slo))}</div>',
        _quantiles(body["classes"]),
        _ends(body["ends"]),
        _details("How it was run", run.parameters),
        _details("The machine that sent the load", run.machine),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Load report, {escape(run.began_at)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(run: Run, body: Mapping[str, Any]) -> str:
    asked = run.parameters
    start, end = body["window_s"]
    if asked["loop"] == "closed":
        load = f"closed loop, {asked['users']} users who think {asked['think_s']:g} s in the mean"
    else:
        load = f"open loop, {asked['arrivals'].capitalize()} arrivals"
    about = (
        f"{load}; {end - start:.0f} s after {start:.0f} s of warm-up; seed {asked['seed']}; {run.began_at}"
    )
    return (
        f'<h1>Load on {escape(str(asked["url"]))}</h1><p class="soft">{escape(about)}</p>'
        '<p class="soft">Latencies count from the time at which a request was due, to <code>done</code>.</p>'
    )


def _tiles(body: Mapping[str, Any]) -> Iterator[str]:
    for label in ("offered", "achieved"):
        yield _tile(label, _number(body[label]["per_s"], "/s", 2), f"{body[label]['count']} requests")
    group: Mapping[str, Any] = body["classes"].get(ALL) or next(iter(body["classes"].values()), {})
    for level in ("p50", "p95", "p99"):
        if entry := group.get("latency", {}).get(level):
            yield _tile(f"latency {level}", _number(entry["value"], " s"), _interval(entry))
    if "slo" in body:
        slo = body["slo"]
        verdict = {True: ("met", "good"), False: ("missed", "bad"), None: ("no requests", "")}[slo["met"]]
        yield _tile(slo["objective"], verdict[0], "of all requests", verdict[1])
        share = "" if slo["share"] is None else f"{100 * slo['share']:.1f} % of the offered"
        yield _tile("goodput", _number(slo["goodput"]["per_s"], "/s", 2), share)
    if lag := body["generator"]["lag"]:
        good = lag["p99"]["value"] <= body["generator"]["lag_bound_s"]
        value = f"{1000 * lag['p99']['value']:.1f} ms"
        yield _tile("generator's lag, p99", value, f"{body['generator']['late']} late", "" if good else "bad")


def _tile(label: str, value: str, below: str, kind: str = "") -> str:
    return (
        f'<div class="card tile"><span class="soft">{escape(label)}</span>'
        f'<b class="{kind}">{escape(value)}</b><span class="soft">{escape(below)}</span></div>'
    )


def _number(value: float | None, unit: str, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}{unit}"


def _interval(entry: Mapping[str, Any]) -> str:
    if entry["count"] < entry["needed"]:
        return f"{entry['count']} samples; needs {entry['needed']}"
    return f"{entry['low']:.3f} to {entry['high']:.3f}"


def _flags(flags: Sequence[str]) -> str:
    if not flags:
        return ""
    items = "".join(f"<li>{escape(flag)}</li>" for flag in flags)
    return f'<div class="card flags"><h2>Before you trust these figures</h2><ul>{items}</ul></div>'


def _plots(run: Run, body: Mapping[str, Any], slo: Slo | None) -> Iterator[str]:
    if not run.records:
        return
    yield _plot("Latency over time", plots.over_time(run, slo))
    yield _plot("Offered and achieved", plots.rates(run))
    if any(group["served"] for group in body["classes"].values()):
        yield _plot("Latency by percentile", plots.percentiles(run, slo))
    beside = ("total", "encoder")  # not stages one after the other
    means = {stage: entry["mean_s"] for stage, entry in body["stages"].items() if stage not in beside}
    if means:
        yield _plot("Where the time went", plots.stages(means))
    series = body["server"].get("series", ())
    if series:
        yield _plot("The server's queue", plots.queue(series))
    if any(sample.get("videos_per_execution") for sample in series):
        yield _plot("Videos per execution of the UNet", plots.executions(series))


def _plot(title: str, svg: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{svg}</section>'


def _quantiles(classes: Mapping[str, Any]) -> str:
    rows = [
        [label, TITLES[moment], str(entry["count"]), *(_cell(entry[name(level)]) for level in LEVELS)]
        for label, group in classes.items()
        for moment in MOMENTS
        if (entry := group.get(moment))
    ]
    heads = ("class", "seconds, from the intended time", "samples", *(name(level) for level in LEVELS))
    return _table("Percentiles", "With distribution-free 95 % intervals below.", heads, rows)


def _cell(entry: Mapping[str, Any]) -> str:
    return f"{entry['value']:.3f}\n{_interval(entry) if entry['low'] is not None else 'too few'}"


def _ends(ends: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            entry["outcome"],
            f"{entry['status']} / {entry['code']}",
            str(entry["count"]),
            entry["message"][:120],
        ]
        for entry in ends
    ]
    heads = ("outcome", "status / code", "requests", "the last one's message")
    return _table("How requests ended", "", heads, rows)


def _table(title: str, caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th{_kind(index)} scope="col">{escape(head)}</th>' for index, head in enumerate(heads))
    lines = "".join(f"<tr>{''.join(_field(row, index) for index in range(len(row)))}</tr>" for row in rows)
    return (
        f'<div class="card wide"><h2>{escape(title)}</h2><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _field(row: Sequence[str], index: int) -> str:
    first, _, rest = row[index].partition("\n")
    small = f"<small>{escape(rest)}</small>" if rest else ""
    return f"<td{_kind(index)}>{escape(first)}{small}</td>"


def _kind(index: int) -> str:
    return ' class="text"' if index < 2 else ""


def _details(title: str, body: Mapping[str, Any]) -> str:
    text = escape(json.dumps(body, indent=2))
    return f'<details class="card"><summary>{escape(title)}</summary><pre>{text}</pre></details>'
