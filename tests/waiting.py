"""Waiting in tests: ask until it is so, with a deadline."""

import asyncio
import time

INTERVAL_S = 0.02


def wait_until(condition, seconds=10.0):
    """The first true value of `condition()`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(INTERVAL_S)
    return value


async def wait_until_async(condition, seconds=10.0):
    """`wait_until` on an event loop that goes on."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(INTERVAL_S)
    return value
