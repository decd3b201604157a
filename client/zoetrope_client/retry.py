"""When a call is tried again: only where that cannot make two videos, and never beyond the deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from dataclasses import dataclass, replace
from typing import Any

import tenacity

from zoetrope_client.errors import ServerUnavailable
from zoetrope_core.errors import DeadlineExceeded, InvalidRequest, Refused
from zoetrope_core.request import GenerateRequest

_logger = logging.getLogger(__name__)
_LEAST_S = 0.001
"""The shortest deadline that a request can name."""


class Clock:
    """The time that a client's deadlines and pauses go by."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Waits in an event loop."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How a call is tried again that found no server (connection refused, UNAVAILABLE without a code).

    The pauses are drawn at random from 0 to a bound that doubles with each attempt: clients that lost one
    server together do not come back together.

    Attributes:
        attempts: how often in all; 1 tries once.
        first_s: the longest pause after the first attempt.
        longest_s: the longest pause after any.
    """

    attempts: int = 4
    first_s: float = 0.2
    longest_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.longest_s < math.inf:
            raise ValueError("retry: attempts must be at least 1, and 0 <= first_s <= longest_s")


USUAL = Retry()
"""What a client does that is told nothing else."""


class Attempts:
    """The attempts of one call, and what they may still take: one clock for all that the call waits for."""

    def __init__(
        self,
        retry: Retry,
        *,
        clock: Clock,
        deadline_s: float | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Starts the clock.

        Args:
            retry: how often and after which pauses.
            clock: what the seconds are measured by.
            deadline_s: seconds from now for all attempts together.
            patience_s: seconds from now for which refusals are waited out.

        Raises:
            InvalidRequest: the patience is no number of seconds.
        """
        if not 0 <= patience_s < math.inf:
            allowed, got = "a number from 0", repr(patience_s)
            message = f"patience_s: got {got}, allowed is {allowed}"
            raise InvalidRequest(message, field="patience_s", value=got, allowed=allowed)
        self._retry, self._clock, self._patience_s = retry, clock, patience_s
        self._deadline_s = math.inf if deadline_s is None else deadline_s
        self._began = self._held = clock.now()
        self._unanswered = 0
        self._backoff = tenacity.wait_random_exponential(retry.first_s, retry.longest_s)

    def hold(self) -> None:
        """Stops the clock: nobody waits yet."""
        self._held = self._clock.now()

    def resume(self) -> None:
        """Lets the clock go on from where `hold` stopped it."""
        self._began += self._clock.now() - self._held

    def rest(self, request: GenerateRequest) -> GenerateRequest:
        """The request with what is left of its deadline; raises DeadlineExceeded where that is nothing."""
        if request.deadline_s is None:
            return request
        if self._spent_s() + _LEAST_S > self._deadline_s:
            raise self.too_late()
        return replace(request, deadline_s=self.left_s())

    def left_s(self) -> float:
        """What is left of the deadline in seconds; never nothing, and infinity without one."""
        return max(self._deadline_s - self._spent_s(), _LEAST_S)

    def too_late(self) -> DeadlineExceeded:
        """The error of a deadline that passed on this side, between attempts or before the first."""
        return DeadlineExceeded("the deadline passed before the request was sent")

    def _spent_s(self) -> float:
        return self._clock.now() - self._began

    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's `Retrying` or `AsyncRetrying` but `sleep`; the last error is raised."""
        return {
            "retry": tenacity.retry_if_exception(self._is_safe),
            "wait": self._pause_s,
            "stop": self._stops,
            "before_sleep": tenacity.before_sleep_log(_logger, logging.INFO),
            "reraise": True,
        }

    def _is_safe(self, error: BaseException) -> bool:
        if isinstance(error, ServerUnavailable):
            self._unanswered += 1
            return error.details.get("grpc_status") == "UNAVAILABLE"
        return _asked_pause_s(error) is not None

    def _pause_s(self, state: tenacity.RetryCallState) -> float:
        asked = _asked_pause_s(_error_of(state))
        # Later than asked, by chance: who was refused together must not come back together.
        return float(self._backoff(state)) if asked is None else asked * (1 + random.random() / 4)

    def _stops(self, state: tenacity.RetryCallState) -> bool:
        waits = isinstance(_error_of(state), Refused)
        limit = min(self._deadline_s, self._patience_s) if waits else self._deadline_s
        spent = not waits and self._unanswered >= self._retry.attempts
        return spent or self._spent_s() + state.upcoming_sleep >= limit


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def _asked_pause_s(error: BaseException | None) -> float | None:
    """After how many seconds a refusal may be tried again; None where it says nothing of use."""
    if not isinstance(error, Refused) or isinstance(error, DeadlineExceeded):
        return None
    asked = error.details.get("retry_after_s")
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 <= asked < math.inf:
        return None
    return float(asked)
