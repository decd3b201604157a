"""One request on its way through the pipeline, and the client's end of it as the pipeline sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from zoetrope_core.contract import Response
from zoetrope_core.events import Progress
from zoetrope_core.request import ValidRequest


class Stream(Protocol):
    """The client's end of one request."""

    def check(self) -> None:
        """Raises when the request must not go on: Cancelled, DeadlineExceeded."""
        ...

    async def send(self, response: Response) -> None:
        """Sends one response."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One validated request on its way.

    Attributes:
        id: its name in the log and the events.
        request: what to generate.
        stream: where responses go.
        timings: seconds by stage, growing.
        text: whether the client speaks JSON and gets the video as base64.
    """

    id: str
    request: ValidRequest
    stream: Stream
    timings: dict[str, float] = field(default_factory=dict)
    text: bool = False

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to the stage, and ends the job first if it must not go on."""
        self.stream.check()
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began

    async def progress(self, stage: str, step: int, steps: int, eta: float | None = None) -> None:
        """Tells the client how far the job is."""
        event = Progress(stage=stage, step=step, steps=steps, eta_seconds=eta)
        await self.stream.send(Response(event=event))
