"""The watchdog: a stage hangs when it has been silent for far longer than its answers take."""

import asyncio

import pytest

from zoetrope_server import watchdog
from zoetrope_server.watchdog import LEAST_S, MARGIN, Watchdog

START_S = 600.0


class Clock:
    """A clock that tests set."""

    now = 1000.0

    def __call__(self):
        return self.now


class Lab:
    """A watchdog over one stage whose answers the test gives."""

    def __init__(self):
        self.clock, self.reports = Clock(), []
        self.dog = Watchdog(self.reports.append, start_timeout_s=START_S, clock=self.clock)

    async def call(self, shape="a", stage="unet"):
        """Calls the stage; the result of the future is its answer."""
        answer = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self.dog.watch(stage, shape, answer))
        await asyncio.sleep(0)
        return answer, task

    async def answered(self, seconds, shape="a"):
        """A call that is answered after a time."""
        answer, task = await self.call(shape)
        self.clock.now += seconds
        answer.set_result(shape)
        assert await task == shape

    def silent_for(self, seconds):
        """What hangs when the time has passed."""
        self.clock.now += seconds
        return self.dog.hanging()


@pytest.fixture
async def lab():
    return Lab()


async def test_a_shape_that_was_never_measured_has_the_start_timeout(lab):
    await lab.call()
    assert lab.silent_for(START_S - 1) is None
    assert "unet" in lab.silent_for(2)


async def test_the_first_answer_is_no_measure_since_it_may_hold_a_compilation(lab):
    await lab.answered(500.0)
    await lab.answered(0.2)
    await lab.call()
    assert lab.silent_for(LEAST_S - 1) is None
    assert lab.silent_for(2) is not None


@pytest.mark.parametrize(("slowest", "limit"), [(0.2, LEAST_S), (8.0, MARGIN * 8.0)])
async def test_a_measured_shape_has_a_multiple_of_its_slowest_answer(lab, slowest, limit):
    for seconds in (0.1, slowest, 0.1):
        await lab.answered(seconds)
    await lab.call()
    assert lab.silent_for(limit - 1) is None
    assert lab.silent_for(2) is not None


async def test_calls_that_wait_behind_others_do_not_hang(lab):
    for _ in range(3):
        await lab.answered(10.0)
    calls = [await lab.call() for _ in range(16)]
    for answer, task in calls:
        assert lab.silent_for(99.0) is None, "the last one has waited for 26 minutes by now"
        answer.set_result(None)
        await task
    assert lab.silent_for(START_S * 10) is None, "nobody waits for an idle stage"
    await lab.call()
    assert lab.silent_for(99.0) is None and lab.silent_for(999.0) is not None


async def test_a_compilation_holds_up_measured_shapes_too(lab):
    for _ in range(2):
        await lab.answered(0.1)
    _, compiling = await lab.call("new")
    await lab.call("a")
    compiling.cancel()
    await asyncio.sleep(0)
    assert lab.silent_for(START_S - 1) is None, "the stage still compiles, though its request is gone"
    assert lab.silent_for(2) is not None


async def test_the_time_in_the_queue_is_no_measure(lab):
    for _ in range(2):
        await lab.answered(5.0)
    calls = [await lab.call() for _ in range(4)]
    for answer, task in calls:
        lab.clock.now += 5.0
        answer.set_result(None)
        await task
    await lab.call()
    assert lab.silent_for(51.0) is not None, "10 x 5 s, not 10 x 20 s"


async def test_an_error_is_an_answer_but_no_measure(lab):
    for _ in range(2):
        await lab.answered(0.1)
    answer, task = await lab.call()
    lab.clock.now += 20.0
    answer.set_exception(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError):
        await task
    await lab.call()
    assert lab.silent_for(LEAST_S - 1) is None and lab.silent_for(2) is not None


async def test_a_hang_is_reported_once(lab, monkeypatch):
    monkeypatch.setattr(watchdog, "_CHECK_S", 0.005)
    monkeypatch.setattr(watchdog, "_LATE_S", 1e9)
    await lab.call()
    lab.clock.now += START_S + 1
    async with asyncio.timeout(2):
        while not lab.reports:
            await asyncio.sleep(0.005)
    lab.dog.report("another")
    (reason,) = lab.reports
    assert "stage unet has not answered for 601 s" in reason


async def test_a_server_that_was_stopped_for_a_while_is_given_time(lab, monkeypatch):
    monkeypatch.setattr(watchdog, "_CHECK_S", 0.005)
    await lab.call()
    lab.clock.now += START_S + 1
    async with asyncio.timeout(2):
        while lab.dog.hanging():
            await asyncio.sleep(0.005)
    assert not lab.reports


async def test_shapes_are_remembered_within_a_bound(lab, monkeypatch):
    monkeypatch.setattr(watchdog, "_MOST_SHAPES", 3)
    for shape in range(5):
        await lab.answered(0.1, shape)
    assert len(lab.dog._slowest) == 3
