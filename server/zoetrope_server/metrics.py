"""What the orchestrator counts, beside Triton's own metrics, on the same endpoint.

A request costs a handful of updates and a few more every other second, whatever the number of its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from zoetrope_server.admission import Admission

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric family.

    Attributes:
        kind: counter, gauge or histogram.
        help: what it says, with its unit.
        label: the name of its label; empty for none.
        buckets: upper bounds of a histogram's buckets.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""
    buckets: tuple[float, ...] = ()


METRICS: Mapping[str, Metric] = {
    "zoetrope_requests_total": Metric(
        kind="counter", help="Requests by outcome: done, or the error's code", label="outcome"
    ),
    "zoetrope_request_seconds": Metric(
        kind="histogram", help="Seconds from arrival to the end, of served requests", buckets=_SECONDS
    ),
    "zoetrope_stage_seconds": Metric(
        kind="histogram", help="Seconds of a request in each stage", label="stage", buckets=_SECONDS
    ),
    "zoetrope_encoder_seconds": Metric(
        kind="histogram", help="Seconds that the video encoder worked, beside the decoding", buckets=_SECONDS
    ),
    "zoetrope_queue_seconds": Metric(
        kind="histogram", help="Seconds that a request waited for its turn", buckets=_SECONDS
    ),
    "zoetrope_steps_total": Metric(kind="counter", help="Denoising steps, those of failed requests too"),
    "zoetrope_frames_total": Metric(kind="counter", help="Frames of served requests"),
    "zoetrope_active_requests": Metric(kind="gauge", help="Requests that run"),
    "zoetrope_waiting_requests": Metric(kind="gauge", help="Requests that wait for their turn"),
    "zoetrope_work_seconds": Metric(
        kind="gauge", help="Estimated seconds of work of the requests that run and wait"
    ),
    "zoetrope_queued_seconds": Metric(
        kind="gauge", help="The part of it that is due to requests that wait; none while the server drains"
    ),
}
"""The metrics of the orchestrator by name."""
STAGE_METRICS: Mapping[str, Metric] = {
    "zoetrope_execution_videos": Metric(
        kind="histogram",
        help="Videos that shared an execution of a stage, where more than one may",
        label="stage",
        buckets=(1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    ),
}
"""The metrics of the stages that Python hosts."""


class Metrics(Protocol):
    """Where metrics go; a value with a label is given the label's value."""

    def add(self, name: str, value: float = 1.0, label: str = "") -> None:
        """Adds to a counter."""
        ...

    def set(self, name: str, value: float) -> None:
        """Sets a gauge."""
        ...

    def observe(self, name: str, value: float, label: str = "") -> None:
        """Adds an observation to a histogram."""
        ...


class NoMetrics:
    """Metrics that nobody reads."""

    def add(self, name: str, value: float = 1.0, label: str = "") -> None:
        """Nothing."""

    def set(self, name: str, value: float) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, label: str = "") -> None:
        """Nothing."""


def record_queue(metrics: Metrics, admission: Admission) -> None:
    """Sets the gauges of the queue."""
    metrics.set("zoetrope_active_requests", admission.active)
    metrics.set("zoetrope_waiting_requests", admission.waiting)
    metrics.set("zoetrope_work_seconds", round(admission.work_seconds(), 3))
    metrics.set("zoetrope_queued_seconds", round(admission.queued_seconds(), 3))


def record_end(metrics: Metrics, outcome: str, seconds: float, timings: Mapping[str, float]) -> None:
    """Counts a request that has ended.

    Args:
        metrics: where to.
        outcome: `done`, or the error's code.
        seconds: from its arrival.
        timings: seconds by stage, as far as it came; `total` is left out, and `encoder` is not a stage.
    """
    metrics.add("zoetrope_requests_total", label=outcome)
    for stage, spent in timings.items():
        if stage == "encoder":
            metrics.observe("zoetrope_encoder_seconds", spent)
        elif stage != "total":
            metrics.observe("zoetrope_stage_seconds", spent, stage)
    if outcome == "done":
        metrics.observe("zoetrope_request_seconds", seconds)
