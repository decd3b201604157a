"""The highest rate at which an objective holds, by bisection; pure over a function that tries one rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from zoetrope_bench.load.folds import judge
from zoetrope_bench.load.records import Run
from zoetrope_bench.load.slo import Slo
from zoetrope_bench.load.statistics import needed

PASSED, FAILED, UNCLEAR = "passed", "failed", "within noise"
FACTOR = 2.0
"""While one side is open, the rate is doubled or halved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rate that was tried.

    Attributes:
        rate: requests per second.
        requests: how many were due after the warm-up.
        value: the objective's quantile in seconds; infinite where it is of requests that were not served.
        low: the lower end of its interval; None for none.
        high: the upper end; None for none.
        met: whether the quantile is below the limit.
        clear: whether its whole interval is on that side.
        sound: whether it ran to its end and to its schedule; one that did not says nothing of the server.
    """

    rate: float
    requests: int
    value: float
    low: float | None
    high: float | None
    met: bool
    clear: bool
    sound: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the search found.

    Attributes:
        passed: the highest rate at which the objective held, below any at which it did not; None for none.
        failed: the lowest rate at which it did not hold; None for none.
        trials: all rates, in the order in which they were tried.
        note: what keeps the bracket from being one; empty for none.
    """

    passed: float | None
    failed: float | None
    trials: tuple[Trial, ...]
    note: str = ""

    @property
    def bracketed(self) -> bool:
        """Whether the capacity lies between two rates that were tried."""
        return self.passed is not None and self.failed is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        trials = [asdict(trial) for trial in self.trials]
        for trial in trials:
            trial["value"] = trial["value"] if math.isfinite(trial["value"]) else None
        return {**asdict(self), "bracketed": self.bracketed, "trials": trials}


def find(attempt: Callable[[float], Trial], first: float, steps: int, tolerance: float = 0.1) -> Capacity:
    """Doubles or halves the rate until the capacity is between two, then bisects, on a scale of ratios.

    Args:
        attempt: tries a rate.
        first: the first rate.
        steps: the most rates that are tried.
        tolerance: ends the search when the bracket is narrower than that share of its lower end.
    """
    trials: list[Trial] = []
    passed: float | None = None
    failed: float | None = None
    rate = first
    while len(trials) < steps:
        trials.append(attempt(rate))
        if not trials[-1].sound:
            note = f"at {rate:.4g}/s the run was interrupted, the generator late or the server gone"
            return Capacity(passed=passed, failed=failed, trials=tuple(trials), note=note)
        if trials[-1].met:
            passed = rate
        else:
            failed = rate
        if passed is not None and failed is not None and failed <= passed * (1 + tolerance):
            break
        rate = _next(passed, failed)
    return Capacity(passed=passed, failed=failed, trials=tuple(trials), note=_note(passed, failed, trials))


def _next(passed: float | None, failed: float | None) -> float:
    if passed is None:
        return (failed or 1.0) / FACTOR
    return passed * FACTOR if failed is None else math.sqrt(passed * failed)


def _note(passed: float | None, failed: float | None, trials: list[Trial]) -> str:
    if passed is None:
        return "not bracketed: the objective held at no rate that was tried"
    if failed is None:
        return "not bracketed: the objective held at every rate that was tried"
    unclear = [f"{trial.rate:.4g}" for trial in trials if not trial.clear and trial.rate in (passed, failed)]
    if unclear:
        rates = " and ".join(unclear)
        return f"at {rates}/s the limit is within the quantile's interval: longer steps would tell"
    return ""


def trial(run: Run, rate: float, slo: Slo) -> Trial:
    """What a run at one rate says of the objective."""
    records = [record for record in run.records if not record.warmup]
    found = judge(records, slo, float(run.parameters["duration_s"]))["quantile"]
    lags = sorted(record.lag for record in records if record.lag is not None)
    late = sum(lag > float(run.parameters["lag_bound_s"]) for lag in lags)
    value = math.inf if found is None or found["value"] is None else found["value"]
    low, high = (None, None) if found is None else (found["low"], found["high"])
    met = value < slo.limit
    return Trial(
        rate=rate,
        requests=len(records),
        value=value,
        low=low,
        high=high,
        met=met,
        clear=(high is not None and high < slo.limit) if met else (low is None or low >= slo.limit),
        sound=late <= 0.01 * len(lags) and not run.interrupted,
    )


def lost(rate: float) -> Trial:
    """A rate at which nothing was measured."""
    return Trial(
        rate=rate, requests=0, value=math.inf, low=None, high=None, met=False, clear=False, sound=False
    )


def step_seconds(rate: float, seconds: float, slo: Slo) -> float:
    """How long a step takes: at least until there are 1.5 times the samples that the quantile needs."""
    return max(seconds, 1.5 * needed(slo.level) / rate)
