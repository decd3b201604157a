"""Work beside other work: it overlaps, keeps its order and does not outlive its request."""

import asyncio
from contextlib import aclosing

import pytest

from zoetrope_server.beside import beside, one_ahead


class Log:
    """What began and what ended, in order; a call ends when it is let go."""

    def __init__(self):
        self.events, self.ends = [], {}

    def call(self, name):
        async def work():
            self.events.append(f"+{name}")
            self.ends[name] = asyncio.Event()
            try:
                await self.ends[name].wait()
            finally:
                self.events.append(f"-{name}")
            return name

        return work


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_call_is_under_way_ahead_and_no_more():
    log = Log()
    async with aclosing(one_ahead([log.call(name) for name in "abcd"])) as results:
        first = asyncio.create_task(anext(results))
        await settle()
        assert log.events == ["+a", "+b"], "b is asked for before a has been answered"
        log.ends["a"].set()
        assert await first == "a"
        await settle()
        assert log.events == ["+a", "+b", "-a"], "c waits until somebody asks for b"
        log.ends["b"].set()
        second = asyncio.create_task(anext(results))
        assert await second == "b"
        await settle()
        assert "+c" in log.events and "+d" not in log.events
    assert log.events[-1] == "-c", "what is under way ends with the generator"


async def test_results_come_in_order_whatever_ends_first():
    async def after(seconds):
        await asyncio.sleep(seconds)
        return seconds

    calls = [lambda seconds=seconds: after(seconds) for seconds in (0.02, 0.0, 0.01)]
    assert [result async for result in one_ahead(calls)] == [0.02, 0.0, 0.01]
    assert [result async for result in one_ahead([])] == []


async def test_an_error_ends_what_is_ahead():
    log = Log()

    async def fails():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        async for _ in one_ahead([fails, log.call("next"), log.call("never")]):
            pass
    assert log.events in ([], ["+next", "-next"])


async def test_work_beside_a_block_overlaps_it_and_its_error_is_the_blocks():
    log = Log()
    async with beside(log.call("noise")()) as noise:
        await settle()
        assert log.events == ["+noise"]
        log.ends["noise"].set()
        assert await noise == "noise"

    async def fails():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        async with beside(fails()) as work:
            await work


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_work_beside_a_block_ends_with_it(error):
    log = Log()
    with pytest.raises(error):
        async with beside(log.call("noise")()):
            await settle()
            raise error
    assert log.events == ["+noise", "-noise"]
