"""What a sample can say: quantiles with intervals that assume no distribution, and rates of counted events.

An interval of a quantile lies between two order statistics whose ranks are binomial (David and Nagaraja,
Order Statistics, 2003, 7.1). It has an upper end only where the sample is large enough: at 95 %, from 368
values on for a p99. Both kinds of interval take the values as independent. Latencies in a queue are not:
`compare` resamples whole blocks for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
LEVELS = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A quantile of a sample.

    Attributes:
        value: the smallest value that at least that share of the sample does not exceed; infinite where those
            are requests that were not served.
        low: the lower end of the interval; None where the sample is too small for one.
        high: the upper end, likewise.
        count: the size of the sample.
        needed: the smallest sample that has both ends.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    needed: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: None for what is infinite or unknown."""
        body = asdict(self)
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in body.items()
        }


def quantile(values: Sequence[float] | Floats, level: float, confidence: float = CONFIDENCE) -> Quantile:
    """A quantile and its interval; raises ValueError for an empty sample."""
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    if not count:
        raise ValueError("no quantile of nothing")
    low, high = ranks(count, level, confidence)
    return Quantile(
        value=float(ordered[rank(count, level) - 1]),
        low=None if low is None else float(ordered[low - 1]),
        high=None if high is None else float(ordered[high - 1]),
        count=count,
        needed=needed(level, confidence),
    )


def rank(count: int, level: float) -> int:
    """The order statistic, from 1 on, that is the quantile of a sample; 0.95 * 20 is 19, not 20."""
    return min(count, max(1, math.ceil(count * level - 1e-9)))


def ranks(count: int, level: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """The ranks, from 1 on, between which the quantile lies with that confidence; None without one."""
    tail = (1 - confidence) / 2
    below = np.cumsum(binomial(count, level))  # P(B <= k) for B values below the quantile
    low = int(np.searchsorted(below, tail, side="right"))  # P(B < low) <= tail
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1  # P(B >= high) <= tail
    return (low if low >= 1 else None), (high if high <= count else None)


def needed(level: float, confidence: float = CONFIDENCE) -> int:
    """The smallest sample whose interval of the quantile has both ends."""
    extreme = max(level, 1 - level)
    return math.ceil(math.log((1 - confidence) / 2) / math.log(extreme))


def binomial(count: int, share: float) -> Floats:
    """The probabilities of 0 to `count` successes in as many trials."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    k = np.arange(count + 1)
    if share in (0.0, 1.0):
        return np.asarray(k == count * share, float)
    exponents = logs[count] - logs - logs[::-1] + k * math.log(share) + (count - k) * math.log1p(-share)
    return np.asarray(np.exp(exponents))


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the mean of a Poisson count (Garwood, 1936), by bisection on its tails."""
    tail = (1 - confidence) / 2
    low = 0.0 if not count else _solve(lambda mean: _poisson_below(count - 1, mean) - (1 - tail), 0.0, count)
    top = count + 10 * math.sqrt(count + 1) + 10
    return low, _solve(lambda mean: _poisson_below(count, mean) - tail, count, top)


def _poisson_below(count: int, mean: float) -> float:
    """P(N <= count)."""
    if not mean:
        return 1.0
    k = np.arange(count + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return float(np.exp(k * math.log(mean) - mean - logs).sum())


def _solve(falling: Any, low: float, high: float) -> float:
    """Where a falling function is 0."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def batch_means(values: Sequence[float] | Floats, batches: int = 20) -> tuple[float, float]:
    """The mean of a stationary series, and half its 95 % interval (Law, Simulation Modeling, 9.5.3).

    Neighbours in the series may depend on each other; the means of long batches hardly do.

    Raises:
        ValueError: fewer values than batches, or a number of batches that is not 10, 20 or 30.
    """
    student = {10: 2.262, 20: 2.093, 30: 2.045}  # 97.5 % of Student's t with one degree of freedom less
    if batches not in student or len(values) < batches:
        raise ValueError(f"got {len(values)} values in {batches} batches, allowed are 10, 20 or 30 batches")
    series = np.asarray(values, float)
    means = np.array([batch.mean() for batch in np.array_split(series, batches)])
    return float(series.mean()), student[batches] * float(means.std(ddof=1)) / math.sqrt(batches)


def correlation_time(values: Sequence[float] | Floats) -> float:
    """How many values of a series say as much as one independent value (Geyer, 1992, by pairs of lags)."""
    series = np.asarray(values, float) - np.mean(values)
    count, variance = len(series), float(np.mean(series**2))
    if count < 4 or not variance:
        return 1.0
    power = np.abs(np.fft.rfft(series, 2 * count)) ** 2
    correlation = np.fft.irfft(power)[:count] / (count * variance)
    pairs = correlation[: count // 2 * 2].reshape(-1, 2).sum(1)
    ends = np.flatnonzero(pairs <= 0)
    return max(1.0, 2 * float(pairs[: ends[0] if len(ends) else None].sum()) - 1)
