"""What a run is asked to do, as plain data: it is the first line of its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from zoetrope_bench.load import arrivals
from zoetrope_bench.load.arrivals import Segment
from zoetrope_bench.load.attack import Shot
from zoetrope_bench.load.mix import Draw, RequestClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run.

    Attributes:
        url: HOST:PORT of the server's gRPC endpoint.
        classes: what is asked for.
        segments: the rates of the open loop.
        kind: its gaps, see `arrivals.KINDS`.
        users: the users of a closed loop; None for the open loop.
        think_s: the mean of their thinking times.
        warmup_s: seconds before the schedule, at its first rate, that are left out of the figures.
        seed: of the arrivals, of the classes and of the thinking times.
        timeout_s: the gRPC deadline of a request; None for none.
        drain_s: seconds after the schedule until what still runs is cancelled.
        max_in_flight: what is due beyond that is not sent.
        lag_bound_s: a generator whose p99 of the lag is above is flagged.
        metrics: HOST:PORT of the server's metrics; None to leave them.
        metrics_every_s: seconds between two samples of them.
        headers: sent with every request.
    """

    url: str
    classes: tuple[RequestClass, ...]
    segments: tuple[Segment, ...]
    kind: str = arrivals.POISSON
    users: int | None = None
    think_s: float = 0.0
    warmup_s: float = 0.0
    seed: int = 0
    timeout_s: float | None = None
    drain_s: float = 60.0
    max_in_flight: int = 256
    lag_bound_s: float = 0.01
    metrics: str | None = None
    metrics_every_s: float = 1.0
    headers: Mapping[str, str] | None = None

    @property
    def duration_s(self) -> float:
        """Seconds of the schedule, without the warm-up."""
        return arrivals.seconds(self.segments)

    def shots(self) -> Iterator[Shot]:
        """The requests of the open loop, in the order in which they are due."""
        draw = Draw(self.classes, self.seed)
        for index, moment in enumerate(arrivals.times(self._all_segments(), self.kind, self.seed)):
            yield Shot(index=index, intended=moment, request_class=draw(), warmup=moment < self.warmup_s)

    def _all_segments(self) -> Sequence[Segment]:
        if not self.warmup_s:
            return self.segments
        first = self.segments[0].start or self.segments[0].end
        return tuple(chain((Segment(start=first, end=first, seconds=self.warmup_s),), self.segments))

    def draws(self) -> list[Draw]:
        """What each user of the closed loop asks for."""
        return [Draw(self.classes, f"{self.seed} {user}") for user in range(self.users or 0)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; a picture is its size in bytes, headers are their names."""
        classes = {
            one.name: {"weight": one.weight, "picture_bytes": len(one.picture), "request": dict(one.fields)}
            for one in self.classes
        }
        plain = {name: getattr(self, name) for name in ("url", "seed", "metrics", "metrics_every_s")}
        return {
            **plain,
            "loop": "open" if self.users is None else "closed",
            **self._load(),
            "classes": classes,
            "duration_s": self.duration_s,
            **{name: getattr(self, name) for name in ("warmup_s", "timeout_s", "drain_s", "lag_bound_s")},
            "headers": sorted(self.headers or ()),
        }

    def _load(self) -> dict[str, Any]:
        if self.users is not None:
            return {"users": self.users, "think_s": self.think_s}
        segments = [asdict(segment) for segment in self.segments]
        return {"arrivals": self.kind, "segments": segments, "max_in_flight": self.max_in_flight}
