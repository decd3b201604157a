"""When videos will be finished: costs learned from served requests, and a forecast over shared engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from zoetrope_core.request import ValidRequest

NEWEST = 0.3
"""The weight of the newest measurement in the mean."""
MOST_SHAPES = 1000
"""The most shapes whose costs are kept, since clients may choose among many; the least recent gives way."""

_Shape = tuple[int, int, int]


@dataclass(slots=True)
class Costs:
    """Seconds of work by shape, as if a request were alone: a call of the UNet, and all the rest.

    The engines are shared, so what a request measures while n run together is divided by n.
    """

    _rows: dict[tuple[_Shape, int], float] = field(default_factory=dict)
    _rest: dict[_Shape, float] = field(default_factory=dict)

    def learn(self, request: ValidRequest, denoise_s: float, total_s: float, sharing: float) -> None:
        """Takes in one served request.

        Args:
            request: what was served.
            denoise_s: seconds of its denoising.
            total_s: seconds of everything, from its turn on.
            sharing: the mean number of requests that ran meanwhile, itself included.
        """
        shape, rows = _shape(request), _rows(request)
        each = denoise_s / sharing / _calls(request)
        rest = (total_s - denoise_s) / sharing
        self._rows[shape, rows] = _mean(self._rows.get((shape, rows)), each)
        self._rest[shape] = _mean(self._rest.pop(shape, None), rest)
        while len(self._rest) > MOST_SHAPES:
            oldest = next(iter(self._rest))
            del self._rest[oldest]
            self._rows.pop((oldest, 1), None)
            self._rows.pop((oldest, 2), None)

    def seconds(self, request: ValidRequest) -> float | None:
        """The work of a request; None while its shape has not been measured."""
        shape = _shape(request)
        each, rest = self._rows.get((shape, _rows(request))), self._rest.get(shape)
        return None if each is None or rest is None else each * _calls(request) + rest


def finish_times(running: Sequence[float], waiting: Sequence[float], slots: int) -> list[float]:
    """Seconds until each of the jobs is finished, the running ones first.

    Args:
        running: seconds of work left; these share the engine equally.
        waiting: seconds of work of those that follow, in order, as soon as one of `slots` is free.
        slots: how many run at once.
    """
    left = dict(enumerate([*running, *waiting]))
    active, queue = list(range(len(running))), list(range(len(running), len(left)))
    finished, now = [0.0] * len(left), 0.0
    while active or queue:
        while queue and len(active) < slots:
            active.append(queue.pop(0))
        first = min(active, key=lambda job: left[job])
        share = left[first]
        now += share * len(active)
        for job in active:
            left[job] -= share
        finished[first] = now
        active.remove(first)
    return finished


def _shape(request: ValidRequest) -> _Shape:
    return request.height, request.width, request.num_frames


def _rows(request: ValidRequest) -> int:
    return 1 if request.max_guidance_scale <= 1 else 2


def _calls(request: ValidRequest) -> int:
    """How often the UNet is called."""
    steps = request.num_inference_steps
    return 2 * steps - 1 if request.sampler == "heun" else steps


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + NEWEST * (new - old)
