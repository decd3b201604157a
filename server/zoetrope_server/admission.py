"""Admission: how many requests run, how many wait, and who is refused at once.

Triton's own queue before an async model is always empty, so the orchestrator owns the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from zoetrope_core.errors import DeadlineExceeded, Draining, Overloaded
from zoetrope_core.events import Progress
from zoetrope_server.forecast import finish_times

HEARTBEAT_SECONDS = 1.0
POLL_SECONDS = 0.1
"""How often a waiting request looks whether its client has gone."""
PRIORITIES = ("interactive", "batch")
"""Who waits goes by priority first, then by arrival."""

OnWait = Callable[[int, bool], Awaitable[None]]
"""Awaited while a request waits, with the number of requests before it and whether a heartbeat is due;
raising gives the place up."""


@dataclass(slots=True, kw_only=True, eq=False)
class Place:
    """One request's place: first in the queue, then among those that run.

    Attributes:
        priority: one of `PRIORITIES`.
        work: seconds of work as far as known, as if it ran alone.
        due: when the video must be complete, on the monotonic clock; None without a deadline.
        left: the share of the work that is still to do, 1..0.
        steps: denoising steps that are done.
    """

    priority: str = "interactive"
    work: float | None = None
    due: float | None = None
    left: float = 1.0
    steps: int = 0
    since: float = 0.0
    seconds: float = 0.0
    _turn: asyncio.Event = field(default_factory=asyncio.Event)

    def give_turn(self) -> None:
        """From now on the request may run."""
        self.since = time.monotonic()
        self._turn.set()

    def advance(self, progress: Progress) -> None:
        """Takes in how far the denoising is, which is most of the work."""
        if progress.stage == "denoise":
            self.left = 1.0 - progress.step / progress.steps
            self.steps = progress.step

    def served(self) -> None:
        """The request ended well: its time says how long the next ones will take."""
        self.seconds = time.monotonic() - self.since

    async def turn(self, before: Callable[[Place], int], on_wait: OnWait) -> None:
        """Waits until the request may run; see `OnWait`."""
        heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        while not self._turn.is_set():
            due = time.monotonic() >= heartbeat
            heartbeat += HEARTBEAT_SECONDS if due else 0.0
            await on_wait(before(self), due)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turn.wait(), POLL_SECONDS)


class Admission:
    """A queue by priority before a bounded number of running requests; used on one event loop."""

    def __init__(self, *, max_active: int, max_waiting: int) -> None:
        """Lets `max_active` requests run and `max_waiting` more wait."""
        self.max_active = max_active
        self.max_waiting = max_waiting
        self.draining = False
        self._running: list[Place] = []
        self._waiting: list[Place] = []
        self._mean_seconds = 0.0

    @property
    def active(self) -> int:
        """Requests that run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def hold(self, place: Place) -> AsyncIterator[None]:
        """Holds a place among those that run or wait, for the time of the context.

        Raises:
            Overloaded: the queue is full; raised at once.
            DeadlineExceeded: the place cannot be done by its deadline; raised at once.
            Draining: the server is shutting down; raised at once.
        """
        self._admit(place)
        try:
            yield
        finally:
            self._leave(place)

    def retry_after_s(self) -> float:
        """When a refused request may find room: the mean time of a request over those that run together."""
        return round(max(1.0, self._mean_seconds * (self.waiting + 1) / self.max_active), 1)

    def work_seconds(self) -> float:
        """Seconds of work of all that run and wait, as far as known: until all are finished."""
        return max(self._forecast(self._running, self._waiting), default=0.0)

    def queued_seconds(self) -> float:
        """By how much those that wait make `work_seconds` longer: what another server could take over.

        None while this one drains: what it has accepted stays with it.
        """
        if self.draining or not self._waiting:
            return 0.0
        return self.work_seconds() - max(self._forecast(self._running, []), default=0.0)

    def before(self, place: Place) -> int:
        """How many requests wait before this one."""
        return self._waiting.index(place) if place in self._waiting else 0

    def revise(self, place: Place, work: float | None) -> None:
        """Takes in the work of a place that is held already; raises DeadlineExceeded as `hold` does."""
        place.work = work
        if place in self._waiting:
            self._refuse_if_late(place, self._running, self._waiting[: self._waiting.index(place) + 1])
        else:
            others = [other for other in self._running if other is not place]
            self._refuse_if_late(place, [*others, place], [])

    def _admit(self, place: Place) -> None:
        if self.draining:
            raise Draining("the server is shutting down", retry_after_s=self.retry_after_s())
        # Together, since a request may be held back although there is room to run.
        if self.active + self.waiting >= self.max_active + self.max_waiting:
            raise Overloaded(
                f"{self.active} requests run and {self.waiting} wait, which is all this server takes",
                retry_after_s=self.retry_after_s(),
            )
        rank = PRIORITIES.index(place.priority)
        behind = [other for other in self._waiting if PRIORITIES.index(other.priority) > rank]
        position = len(self._waiting) - len(behind)
        self._refuse_if_late(place, self._running, [*self._waiting[:position], place])
        self._waiting.insert(position, place)
        self._dispatch()

    def _refuse_if_late(self, place: Place, running: list[Place], waiting: list[Place]) -> None:
        """Raises DeadlineExceeded where by the forecast the place, the last of these, cannot be in time."""
        now = time.monotonic()
        if place.due is None or place.work is None:
            return
        takes = self._forecast(running, waiting)[-1]
        # What follows may share the engine with it, but is held back where that would make it late.
        if now + takes > place.due:
            raise DeadlineExceeded(
                f"the video would be complete in {takes:.1f} s, the deadline is in {place.due - now:.1f} s",
                retry_after_s=round(max(1.0, takes - place.work), 1),
                earliest_finish_s=round(takes, 3),
            )

    def _dispatch(self) -> None:
        """Lets those who wait run, in order, as long as there is room and no deadline suffers."""
        while self._waiting and self.active < self.max_active and not self._would_delay(self._waiting[0]):
            place = self._waiting.pop(0)
            self._running.append(place)
            place.give_turn()

    def _would_delay(self, place: Place) -> bool:
        """Whether one of those that run would miss its deadline if this one shared the engine now."""
        now = time.monotonic()
        alone, shared = self._forecast(self._running, []), self._forecast([*self._running, place], [])
        return any(
            other.due is not None and now + before <= other.due < now + after
            for other, before, after in zip(self._running, alone, shared, strict=False)
        )

    def _forecast(self, running: list[Place], waiting: list[Place]) -> list[float]:
        """Seconds until each is finished; work that is not known yet counts as the mean."""
        usual = self._mean_seconds / self.max_active

        def left(place: Place) -> float:
            return (usual if place.work is None else place.work) * place.left

        run, wait = ([left(each) for each in group] for group in (running, waiting))
        return finish_times(run, wait, self.max_active)

    def _leave(self, place: Place) -> None:
        """Frees the slot for the first who waits."""
        if place in self._waiting:
            self._waiting.remove(place)
        else:
            self._running.remove(place)
        if place.seconds:
            weight = 0.2 if self._mean_seconds else 1.0
            self._mean_seconds += weight * (place.seconds - self._mean_seconds)
        self._dispatch()
