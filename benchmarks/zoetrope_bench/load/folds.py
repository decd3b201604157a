"""The figures of a run, each a fold over its records; pure, so that a file of records gives them again.

Figures are of the requests that were due after the warm-up. The latency counts from the intended time to
`done` and is that of served requests; what was not served is counted beside it, and counts as infinitely late
where an objective is judged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoetrope_bench.load.metrics import fold_metrics
from zoetrope_bench.load.mix import ALL
from zoetrope_bench.load.records import ABANDONED, OUTCOMES, SERVED, UNFINISHED, UNSENT, Record, Run
from zoetrope_bench.load.slo import Slo, name
from zoetrope_bench.load.statistics import LEVELS, Quantile, poisson_interval, quantile

FRAMES = ("first_preview", "first_frames", "first_fragment")
MOMENTS = ("latency", "first_event", "first_step", "first_frame")
"""What quantiles are given of: seconds from the intended time."""
GOOD = "good"
NOT_SERVED = tuple(kind for kind in OUTCOMES if kind != SERVED)


def fold(run: Run, slo: Slo | None = None) -> dict[str, Any]:
    """All figures of a run, JSON-ready; see docs/load-testing.md for the meaning of each."""
    measured = [record for record in run.records if not record.warmup]
    start, end = window(run)
    body = {
        "window_s": [start, end],
        "offered": rate(len(measured), end - start),
        "achieved": rate(sum(finished_within(record, start, end) for record in run.records), end - start),
        "outcomes": {kind: sum(record.outcome == kind for record in measured) for kind in OUTCOMES},
        "series": series(measured, slo),
        "ends": ends(measured),
        "classes": {label: describe(group) for label, group in by_class(measured).items()},
        "stages": stages(measured),
        "generator": generator(run, measured),
        "server": fold_metrics([one for one in run.samples if start <= one.at <= end]),
    }
    if slo is not None:
        body["slo"] = judge(measured, slo, end - start)
    return body | {"flags": flags(run, body)}


def window(run: Run) -> tuple[float, float]:
    """From the end of the warm-up to the end of the schedule, or to where the run was interrupted."""
    start = float(run.parameters["warmup_s"])
    end = start + float(run.parameters["duration_s"])
    return start, max(start, min(end, run.seconds) if run.interrupted else end)


def finished_within(record: Record, start: float, end: float) -> bool:
    """Whether a video was finished in the window, whenever it was asked for: what a steady server gives."""
    return record.outcome == SERVED and record.ended is not None and start <= record.ended <= end


def rate(count: int, seconds: float) -> dict[str, Any]:
    """A rate and its interval, as of a Poisson count."""
    if not seconds:
        return {"count": count, "seconds": 0.0, "per_s": None, "low": None, "high": None}
    low, high = poisson_interval(count)
    return {
        "count": count,
        "seconds": seconds,
        "per_s": count / seconds,
        "low": low / seconds,
        "high": high / seconds,
    }


def by_class(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each class; all of them first where there are several classes."""
    records = list(records)
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.request_class, []).append(record)
    ordered = dict(sorted(groups.items()))
    return ordered if set(ordered) == {ALL} else {ALL: records, **ordered}


def describe(records: Sequence[Record]) -> dict[str, Any]:
    """Counts, quantiles and the samples themselves, in the order in which the requests were due."""
    served = [record for record in records if record.outcome == SERVED]
    samples = {moment: found for moment in MOMENTS if (found := seconds(served, moment))}
    return {
        "count": len(records),
        "served": len(served),
        "sizes": dict(Counter("x".join(map(str, record.size)) for record in served if record.size)),
        "video_bytes": sum(record.video_bytes for record in served),
        "bytes": sum(record.bytes for record in records),
        **{moment: quantiles(values) for moment, values in samples.items()},
        "samples": {moment: [round(value, 6) for value in values] for moment, values in samples.items()},
    }


def series(records: Sequence[Record], slo: Slo | None) -> dict[str, str]:
    """A 0 or a 1 for each request, in the order in which they were due, by what it says of it.

    They are refused, failed, abandoned, and with an objective `good`, served within its limit.
    """
    found = {kind: [record.outcome == kind for record in records] for kind in NOT_SERVED}
    if slo is not None:
        found[GOOD] = [record.outcome == SERVED and slo.met(record.latency) for record in records]
    return {kind: "".join(str(int(value)) for value in values) for kind, values in found.items()}


def seconds(records: Iterable[Record], moment: str) -> list[float]:
    """Seconds from the intended time to a moment, of the records that have it."""
    found = (_moment(record, moment) for record in records)
    return [value for value in found if value is not None]


def _moment(record: Record, moment: str) -> float | None:
    if moment == "latency":
        return record.latency
    names = {"first_event": ("first_response",), "first_frame": FRAMES}.get(moment, (moment,))
    found = [value for value in map(record.since_intended, names) if value is not None]
    return min(found, default=None)


def quantiles(values: Sequence[float]) -> dict[str, Any]:
    """The quantiles of a sample by name, with its mean and its largest value."""
    found = {name(level): quantile(values, level).to_dict() for level in LEVELS}
    return {**found, "mean": math.fsum(values) / len(values), "max": max(values), "count": len(values)}


def ends(records: Iterable[Record]) -> list[dict[str, Any]]:
    """How requests ended: how many by outcome, gRPC status and code, most frequent first."""
    counts = Counter((record.outcome, record.status, record.code) for record in records)
    messages = {(record.outcome, record.status, record.code): record.message for record in records}
    return [
        {"outcome": key[0], "status": key[1], "code": key[2], "count": count, "message": messages[key]}
        for key, count in counts.most_common()
    ]


def stages(records: Iterable[Record]) -> dict[str, Any]:
    """Mean seconds of served requests by stage as the server says, and what is beside its total.

    `queue and way` is the latency less the server's own total: its queue, the way there and back, the lag.
    """
    served = [record for record in records if record.outcome == SERVED and record.timings]
    sums: dict[str, float] = {}
    for record in served:
        total = record.timings.get("total")
        outside = {} if total is None else {"queue and way": (record.latency or 0.0) - total}
        for stage, spent in {**record.timings, **outside}.items():
            sums[stage] = sums.get(stage, 0.0) + spent
    return {stage: {"mean_s": total / len(served), "count": len(served)} for stage, total in sums.items()}


def generator(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """How well the generator itself kept to the schedule."""
    lags = [record.lag for record in records if record.lag is not None]
    bound = float(run.parameters["lag_bound_s"])
    return {
        "lag": quantiles(lags) if lags else None,
        "lag_bound_s": bound,
        "late": sum(lag > bound for lag in lags),
        "unsent": sum(record.code == UNSENT for record in records),
        "unfinished": sum(record.code == UNFINISHED for record in records),
    }


def judge(records: Sequence[Record], slo: Slo, duration: float) -> dict[str, Any]:
    """An objective: its quantile over all requests, and the goodput, what was served within its limit."""
    latencies = [record.latency if record.outcome == SERVED else None for record in records]
    good = sum(slo.met(latency) for latency in latencies)
    found = verdict(latencies, slo)
    return {
        "objective": str(slo),
        "met": None if found is None else found.value < slo.limit,
        "quantile": None if found is None else found.to_dict(),
        "goodput": rate(good, duration),
        "share": good / len(records) if records else None,
    }


def verdict(latencies: Sequence[float | None], slo: Slo) -> Quantile | None:
    """The quantile of the objective over all requests, those not served infinitely late; None without any."""
    values = [math.inf if latency is None else latency for latency in latencies]
    return quantile(values, slo.level) if values else None


def flags(run: Run, body: Mapping[str, Any]) -> list[str]:
    """What keeps the figures from meaning what they seem to mean, in sentences; none for a sound run."""
    lag, bound = body["generator"]["lag"], body["generator"]["lag_bound_s"]
    outcomes, offered, achieved = body["outcomes"], body["offered"], body["achieved"]
    found = []
    if run.interrupted:
        found.append("the run was interrupted: the figures are of what there is")
    if lag and lag["p99"]["value"] > bound:
        found.append(
            f"the generator was late: p99 of its lag is {1000 * lag['p99']['value']:.1f} ms, the bound is "
            f"{1000 * bound:g} ms; latencies hold that lag, the server saw other gaps than the schedule's"
        )
    if body["generator"]["unsent"]:
        found.append(f"{body['generator']['unsent']} requests were not sent: too many were in flight")
    if body["generator"]["unfinished"]:
        found.append(
            f"{body['generator']['unfinished']} requests were given up at the end: "
            "the latencies lack the slowest"
        )
    if outcomes[SERVED] < sum(outcomes.values()) - outcomes[ABANDONED]:
        found.append("not every request was served: quantiles of the latency are of the served ones only")
    if achieved["high"] is not None and offered["low"] is not None and achieved["high"] < offered["low"]:
        found.append("fewer videos were finished than were asked for: in a longer run the latencies differ")
    return found + _too_few(body["classes"])


def _too_few(classes: Mapping[str, Any]) -> list[str]:
    found = []
    for label, group in classes.items():
        lacking = [
            f"{level} ({entry['needed']})"
            for level, entry in group.get("latency", {}).items()
            if isinstance(entry, dict) and entry["count"] < entry["needed"]
        ]
        if lacking:
            found.append(f"class {label}: {group['served']} samples are too few for " + ", ".join(lacking))
    return found
