"""The command `zoetrope bench compare`: what changed between two load reports beyond noise.

    zoetrope bench compare BEFORE.json AFTER.json [--json FILE]

Quantiles, and the shares of requests that were served in time, refused, failed or abandoned, are compared by
a moving-block bootstrap of what the reports hold of each request, in the order in which they were due:
neighbours in a queue share its length, and blocks keep them together. A share must also differ by the exact
test that conditions on the sum (Przyborowski, Wilenski, 1940), with as many events as independent ones would
say as much: of the few bursts of a rare event the bootstrap knows too little. The rates of the load itself
are compared by that test alone. The confidence is divided among all comparisons (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zoetrope_bench.load.folds import GOOD, MOMENTS, NOT_SERVED
from zoetrope_bench.load.mix import ALL
from zoetrope_bench.load.resampling import Statistic, at, independent, mean, resampled, rounds
from zoetrope_bench.load.slo import name
from zoetrope_bench.load.statistics import (
    CONFIDENCE,
    LEVELS,
    Floats,
    binomial,
    correlation_time,
    needed,
)
from zoetrope_bench.load.summary import BENCHMARK, TITLES

NOT_COMPARED, WORSE_FOUND = 1, 3
BETTER, WORSE, OTHER, SAME = "better", "worse", "different", "no difference shown"
_SAME_LOAD = ("loop", "arrivals", "segments", "users", "think_s", "classes", "warmup_s", "max_in_flight")
_MACHINE = ("processor", "gpu", "cores")


class NotComparable(ValueError):
    """A file is no report of `zoetrope bench load`; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One comparison.

    Attributes:
        name: what is compared.
        before: the value before.
        after: the value after.
        unit: of both.
        low: the lower end of the difference's interval; None where a test of counts took its place.
        high: the upper end; None likewise.
        verdict: `better`, `worse`, `different` (where neither is meant) or `no difference shown`.
    """

    name: str
    before: float
    after: float
    unit: str
    low: float | None
    high: float | None
    verdict: str


def compare(
    before: Annotated[Path, typer.Argument(help="a load report (JSON)", exists=True, dir_okay=False)],
    after: Annotated[Path, typer.Argument(help="another one", exists=True, dir_okay=False)],
    confidence: Annotated[
        float, typer.Option(help="of all comparisons together", min=0.5, max=0.999)
    ] = CONFIDENCE,
    seed: Annotated[int, typer.Option(help="of the resampling")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the comparison goes")] = None,
) -> None:
    """Says what changed between two load reports beyond noise.

    Exit codes: 0 nothing is shown to be worse; 1 a file is no load report; 2 wrong usage; 3 something is
    worse.
    """
    try:
        first, second = read_report(before), read_report(after)
        found, differing = changes(first, second, confidence, seed), unlike(first, second)
    except (NotComparable, OSError) as error:
        typer.echo(f"zoetrope bench compare: {error}", err=True)
        raise typer.Exit(NOT_COMPARED) from None
    except (KeyError, TypeError, AttributeError) as error:
        typer.echo(f"zoetrope bench compare: a report lacks something ({error!r})", err=True)
        raise typer.Exit(NOT_COMPARED) from None
    console = Console(stderr=True)
    console.print(_table(found))
    for line in differing:
        console.print(f"[yellow]note:[/yellow] {escape(line)}")
    if json_file is not None:
        body = {
            "confidence": confidence,
            "unlike": differing,
            "changes": [asdict(change) for change in found],
        }
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(body, indent=2) + "\n")
        except OSError as error:
            typer.echo(f"zoetrope bench compare: {error}", err=True)
            raise typer.Exit(NOT_COMPARED) from None
    if any(change.verdict == WORSE for change in found):
        raise typer.Exit(WORSE_FOUND)


def read_report(path: Path) -> dict[str, Any]:
    """A load report; raises NotComparable or OSError."""
    try:
        body = json.loads(path.read_bytes())
    except ValueError as error:
        raise NotComparable(f"{path} is not JSON: {error}") from error
    details = body.get("details") if isinstance(body, dict) and body.get("benchmark") == BENCHMARK else None
    if not isinstance(details, dict) or not {"classes", "offered", "achieved", "outcomes"} <= set(details):
        raise NotComparable(f"{path} is not a report of `zoetrope bench load`")
    return {str(key): value for key, value in body.items()}


def unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What was not the same in the two runs, where a change may come from, and what each said of itself."""
    asked = [report["parameters"] for report in (before, after)]
    found = [
        f"`{key}` was not the same: {_brief(asked[0].get(key))}, then {_brief(asked[1].get(key))}"
        for key in _SAME_LOAD
        if asked[0].get(key) != asked[1].get(key)
    ]
    machines = [report["details"].get("generator_machine", {}) for report in (before, after)]
    if any(machines[0].get(key) != machines[1].get(key) for key in _MACHINE):
        found.append("the load came from unlike machines")
    for label, report in (("before", before), ("after", after)):
        series = _samples(report["details"]["classes"], ALL, MOMENTS[0])
        if len(series):
            found.append(
                f"{label}: {len(series)} latencies say as much as {independent(series):.0f} independent ones"
            )
        found += [f"{label}: {flag}" for flag in report["details"].get("flags", ())]
    return found


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], confidence: float, seed: int = 0
) -> list[Change]:
    """All comparisons of two reports, each at its share of the confidence."""
    first, second = before["details"], after["details"]
    quantiles, shares = list(_quantiles(first["classes"], second["classes"])), list(_shares(first, second))
    rates = list(_rates(first, second))
    share = 1 - (1 - confidence) / max(1, len(quantiles) + len(shares) + len(rates))
    draw = np.random.default_rng(seed)
    return [
        *(difference(title, at(level), old, new, share, draw) for title, level, old, new in quantiles),
        *(counted(title, old, new, share, better=better) for title, old, new, better in rates),
        *(shared(title, old, new, share, draw, better=better) for title, old, new, better in shares),
    ]


def _quantiles(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, float, Floats, Floats]]:
    """The quantiles of which both runs have enough samples, counted as if they were independent."""
    for label in before:
        for moment in MOMENTS:
            samples = [_samples(side, label, moment) for side in (before, after)]
            for level in LEVELS:
                if min(map(independent, samples)) >= needed(level):
                    title = f"{TITLES[moment]}, {name(level)}"
                    yield title if label == ALL else f"{label}: {title}", level, samples[0], samples[1]


def _samples(classes: Mapping[str, Any], label: str, moment: str) -> Floats:
    return np.array(classes.get(label, {}).get("samples", {}).get(moment, ()), float)


def _rates(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, float], tuple[int, float], str]]:
    """What is counted, with its seconds, and which way is better."""
    seconds = [side["offered"]["seconds"] for side in (before, after)]
    if min(seconds) > 0:
        yield "offered rate", *_pairs(before, after, "offered", seconds), OTHER
        yield "achieved rate", *_pairs(before, after, "achieved", seconds), "more"


def _shares(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Floats, Floats, str]]:
    """What is 1 for some requests and 0 for others, in the order in which they were due."""
    sides = [
        {name: np.array(list(text), float) for name, text in side["series"].items()}
        for side in (before, after)
    ]
    objectives = [side.get("slo", {}).get("objective") for side in (before, after)]
    wanted = {name: (f"share that was {name}", "less") for name in NOT_SERVED}
    if objectives[0] is not None and objectives[0] == objectives[1]:
        wanted = {GOOD: (f"share that was served within {objectives[0]}", "more"), **wanted}
    for key, (title, better) in wanted.items():
        old, new = (side[key] for side in sides)
        if len(old) and len(new) and (key == GOOD or old.any() or new.any()):
            yield title, old, new, better


def _pairs(
    before: Mapping[str, Any], after: Mapping[str, Any], key: str, seconds: list[float]
) -> tuple[tuple[int, float], tuple[int, float]]:
    return (before[key]["count"], seconds[0]), (after[key]["count"], seconds[1])


def difference(
    title: str,
    figure: Statistic,
    before: Floats,
    after: Floats,
    confidence: float,
    draw: np.random.Generator,
    *,
    better: str = "less",
    unit: str = "s",
) -> Change:
    """Compares a figure of two series by the interval of its difference."""
    values = [float(figure(side[np.newaxis])[0]) for side in (before, after)]
    tail = (1 - confidence) / 2
    count = rounds(tail)
    drawn = resampled(after, figure, count, draw) - resampled(before, figure, count, draw)
    low, high = (float(value) for value in np.quantile(drawn, (tail, 1 - tail)))
    verdict = SAME if low <= 0 <= high else BETTER if (low > 0) == (better == "more") else WORSE
    return Change(
        name=title, before=values[0], after=values[1], unit=unit, low=low, high=high, verdict=verdict
    )


def shared(
    title: str, before: Floats, after: Floats, confidence: float, draw: np.random.Generator, *, better: str
) -> Change:
    """Compares the shares of ones in two series of 0 and 1, whose ones may come in bursts."""
    found = difference(title, mean, before, after, confidence, draw, better=better, unit="")
    burst = max(correlation_time(before), correlation_time(after))
    # Of the two outcomes the rarer one is counted: the test is one of rare events.
    events = [side if before.mean() + after.mean() <= 1 else 1 - side for side in (before, after)]
    old, new = ((round(side.sum() / burst), len(side) / burst) for side in events)
    exact = counted(title, old, new, confidence, better=OTHER)
    return replace(found, verdict=SAME) if exact.verdict == SAME else found


def counted(
    title: str, before: tuple[int, float], after: tuple[int, float], confidence: float, *, better: str
) -> Change:
    """Compares two rates of counted events.

    Args:
        title: what is counted.
        before: how many, and the seconds, or the requests, in which they were counted.
        after: likewise.
        confidence: of the test.
        better: `more`, `less`, or neither.
    """
    rates = [count / size for count, size in (before, after)]
    chance = binomial(before[0] + after[0], after[1] / (before[1] + after[1]))
    tail = min(chance[: after[0] + 1].sum(), chance[after[0] :].sum())
    verdict = SAME
    if tail < (1 - confidence) / 2:
        improved = (rates[1] > rates[0]) == (better == "more")
        verdict = OTHER if better == OTHER else BETTER if improved else WORSE
    return Change(
        name=title, before=rates[0], after=rates[1], unit="/s", low=None, high=None, verdict=verdict
    )


def _table(found: list[Change]) -> Table:
    colour = {BETTER: "green", WORSE: "red", OTHER: "yellow", SAME: "dim"}
    table = Table("figure", "before", "after", "difference", "", title="compare")
    for change in found:
        interval = "" if change.low is None else f"{change.low:+.4f} to {change.high:+.4f} {change.unit}"
        values = (f"{value:.4f} {change.unit}".strip() for value in (change.before, change.after))
        verdict = f"[{colour[change.verdict]}]{change.verdict}"
        table.add_row(escape(change.name), *values, interval, verdict)
    return table


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


if __name__ == "__main__":
    typer.run(compare)
