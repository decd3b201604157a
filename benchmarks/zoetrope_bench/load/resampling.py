"""The moving-block bootstrap of a series whose neighbours depend on each other (Kunsch, 1989)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from zoetrope_bench.load.statistics import Floats, correlation_time, rank

Statistic = Callable[[Floats], Floats]
"""The figure of each row."""
_AT_ONCE = 1 << 20
"""Values that are drawn at once: 8 MiB."""


def at(level: float) -> Statistic:
    """The quantile of each row."""

    def figure(rows: Floats) -> Floats:
        wanted = rank(rows.shape[1], level) - 1
        return np.asarray(np.partition(rows, wanted, axis=1)[:, wanted])

    return figure


def mean(rows: Floats) -> Floats:
    """The mean of each row."""
    return np.asarray(rows.mean(axis=1))


def resampled(values: Floats, figure: Statistic, rounds: int, draw: np.random.Generator) -> Floats:
    """The figure of `rounds` samples, each put together from blocks of the series; see `block_length`.

    Args:
        values: the series, of shape [count], at least one value.
        figure: of a sample, such as `mean`.
        rounds: how many samples.
        draw: where the blocks' beginnings come from.

    Returns:
        Of shape [rounds].
    """
    count, length = len(values), block_length(values)
    blocks, steps = math.ceil(count / length), np.arange(length)
    found = []
    for first in range(0, rounds, rows := max(1, _AT_ONCE // count)):
        # Circular, so that the ends weigh as much as the middle.
        starts = draw.integers(0, count, (min(rows, rounds - first), blocks, 1))
        drawn = values[(starts + steps) % count].reshape(len(starts), -1)
        found.append(figure(drawn[:, :count]))
    return np.concatenate(found)


def rounds(tail: float) -> int:
    """Samples enough for about twenty to lie beyond an interval that leaves out `tail` on each side."""
    return max(2000, math.ceil(20 / tail))


def independent(values: Floats) -> float:
    """How many independent values say as much as the series."""
    return len(values) / correlation_time(values) if len(values) else 0.0


def block_length(values: Floats) -> int:
    """Values a block: the root of their number, or several times as many as depend on each other."""
    count = len(values)
    return min(max(1, count // 5), max(round(math.sqrt(count)), math.ceil(3 * correlation_time(values))))
