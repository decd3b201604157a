"""Admission: how many requests run, how many wait, and who is refused at once.

Triton's own queue before an async model is always empty, so the orchestrator owns the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from zoetrope_core.errors import Draining, Overloaded

HEARTBEAT_SECONDS = 1.0
POLL_SECONDS = 0.1
"""How often a waiting request looks whether its client has gone."""

OnWait = Callable[[int, bool], Awaitable[None]]
"""Awaited while a request waits, with the number of requests before it and whether a heartbeat is due;
raising gives the place up."""


class Admission:
    """A first-in-first-out queue before a bounded number of running requests; used on one event loop."""

    def __init__(self, *, max_active: int, max_waiting: int) -> None:
        """Lets `max_active` requests run and `max_waiting` more wait."""
        self.max_active = max_active
        self.max_waiting = max_waiting
        self.active = 0
        self.draining = False
        self._waiting: deque[Place] = deque()
        self._mean_seconds = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """A place among those that run or wait, held for the time of the context.

        Raises:
            Overloaded: the queue is full; raised at once.
            Draining: the server is shutting down; raised at once.
        """
        place = self._admit()
        try:
            yield place
        finally:
            self._leave(place)

    def retry_after_s(self) -> float:
        """When a refused request may find room: the mean time of a request over those that run together."""
        return round(max(1.0, self._mean_seconds * (self.waiting + 1) / self.max_active), 1)

    def before(self, place: Place) -> int:
        """How many requests wait before this one."""
        return self._waiting.index(place) if place in self._waiting else 0

    def _admit(self) -> Place:
        if self.draining:
            raise Draining("the server is shutting down", retry_after_s=self.retry_after_s())
        place = Place(self)
        if self.active < self.max_active:
            self.active += 1
            place.give_turn()
        elif self.waiting < self.max_waiting:
            self._waiting.append(place)
        else:
            raise Overloaded(
                f"{self.active} requests run and {self.waiting} wait, which is all this server takes",
                retry_after_s=self.retry_after_s(),
            )
        return place

    def _leave(self, place: Place) -> None:
        """Gives the slot to the first who waits, or frees it."""
        if place in self._waiting:
            self._waiting.remove(place)
            return
        if place.seconds:
            weight = 0.2 if self._mean_seconds else 1.0
            self._mean_seconds += weight * (place.seconds - self._mean_seconds)
        if self._waiting:
            self._waiting.popleft().give_turn()
        else:
            self.active -= 1


class Place:
    """One request's place: first in the queue, then among those that run."""

    def __init__(self, admission: Admission) -> None:
        """Made by `Admission.place`."""
        self._admission = admission
        self._turn = asyncio.Event()
        self._since = 0.0
        self.seconds = 0.0

    def give_turn(self) -> None:
        """From now on the request may run."""
        self._since = time.monotonic()
        self._turn.set()

    def served(self) -> None:
        """The request ended well: its time says how long the next ones will take."""
        self.seconds = time.monotonic() - self._since

    async def turn(self, on_wait: OnWait) -> None:
        """Waits until the request may run; see `OnWait`."""
        heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        while not self._turn.is_set():
            due = time.monotonic() >= heartbeat
            heartbeat += HEARTBEAT_SECONDS if due else 0.0
            await on_wait(self._admission.before(self), due)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._turn.wait(), POLL_SECONDS)
