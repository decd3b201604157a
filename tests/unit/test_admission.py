"""Admission: order, deadlines that cannot be met, and those that others must not break."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from waiting import wait_until_async

from zoetrope_core.errors import DeadlineExceeded, Overloaded
from zoetrope_server.admission import Admission, Place


def place(work=None, within=None, priority="interactive"):
    due = None if within is None else time.monotonic() + within
    return Place(work=work, due=due, priority=priority)


async def runs(place):
    """Whether the place has its turn."""

    async def on_wait(before, due):
        raise TimeoutError

    try:
        await place.turn(lambda _: 0, on_wait)
    except TimeoutError:
        return False
    return True


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


async def test_interactive_requests_go_before_batch_requests_and_each_in_order(stack):
    admission = Admission(max_active=1, max_waiting=9)
    first = stack.enter_async_context
    await first(admission.hold(place()))
    waiting = [place(priority=name) for name in ("batch", "interactive", "batch", "interactive")]
    for each in waiting:
        await first(admission.hold(each))
    assert [admission.before(each) for each in waiting] == [2, 0, 3, 1]


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(stack):
    admission = Admission(max_active=1, max_waiting=9)
    await stack.enter_async_context(admission.hold(place(work=10.0)))
    with pytest.raises(DeadlineExceeded) as raised:
        await stack.enter_async_context(admission.hold(place(work=5.0, within=14.0)))
    assert raised.value.details["earliest_finish_s"] == pytest.approx(15.0, abs=0.1)
    assert raised.value.details["retry_after_s"] == pytest.approx(10.0, abs=0.1)
    assert (admission.active, admission.waiting) == (1, 0)
    await stack.enter_async_context(admission.hold(place(work=5.0, within=16.0)))
    assert admission.waiting == 1


@pytest.mark.parametrize(("work", "late"), [(3.0, False), (5.0, True), (None, False)])
async def test_work_that_becomes_known_in_the_queue_may_be_too_late(stack, work, late):
    admission, held = Admission(max_active=1, max_waiting=9), place(within=14.0)
    await stack.enter_async_context(admission.hold(place(work=10.0)))
    await stack.enter_async_context(admission.hold(held))
    await stack.enter_async_context(admission.hold(place(work=100.0)))
    if not late:
        admission.revise(held, work)
        return
    with pytest.raises(DeadlineExceeded) as raised:
        admission.revise(held, work)
    assert raised.value.details["earliest_finish_s"] == pytest.approx(15.0, abs=0.1)


@pytest.mark.parametrize(("within", "late"), [(9.0, True), (11.0, False)])
async def test_work_that_becomes_known_while_others_run_is_forecast_beside_them(stack, within, late):
    admission, held = Admission(max_active=2, max_waiting=9), place(within=within)
    await stack.enter_async_context(admission.hold(held))
    await stack.enter_async_context(admission.hold(place(work=5.0)))
    await stack.enter_async_context(admission.hold(place(work=50.0)))
    if late:
        with pytest.raises(DeadlineExceeded):
            admission.revise(held, 5.0)
    else:
        admission.revise(held, 5.0)


async def test_progress_shortens_the_forecast(stack):
    admission, running = Admission(max_active=1, max_waiting=9), place(work=10.0)
    await stack.enter_async_context(admission.hold(running))
    running.left = 0.1
    await stack.enter_async_context(admission.hold(place(work=5.0, within=7.0)))
    assert admission.waiting == 1


async def test_a_newcomer_waits_where_it_would_make_an_accepted_deadline_late(stack):
    admission = Admission(max_active=2, max_waiting=9)
    urgent, careless = place(work=5.0, within=6.0), place(work=5.0)
    async with admission.hold(urgent):
        await stack.enter_async_context(admission.hold(careless))
        assert await runs(urgent) and not await runs(careless)
    assert await runs(careless)


async def test_those_held_back_for_a_deadline_are_bounded_too(stack):
    admission = Admission(max_active=2, max_waiting=1)
    await stack.enter_async_context(admission.hold(place(work=5.0, within=6.0)))
    for _ in range(2):
        await stack.enter_async_context(admission.hold(place(work=5.0)))
    assert (admission.active, admission.waiting) == (1, 2)
    with pytest.raises(Overloaded):
        await stack.enter_async_context(admission.hold(place(work=5.0)))


async def test_without_a_conflict_both_run(stack):
    admission = Admission(max_active=2, max_waiting=9)
    places = place(work=5.0, within=11.0), place(work=5.0)
    for each in places:
        await stack.enter_async_context(admission.hold(each))
    assert await runs(places[0]) and await runs(places[1])


async def test_what_has_not_been_measured_is_not_refused(stack):
    admission = Admission(max_active=1, max_waiting=1)
    await stack.enter_async_context(admission.hold(place(within=0.5)))
    await stack.enter_async_context(admission.hold(place(within=0.5)))
    with pytest.raises(Overloaded):
        await stack.enter_async_context(admission.hold(place()))


async def test_a_place_given_up_in_the_queue_frees_it():
    admission = Admission(max_active=1, max_waiting=1)
    async with admission.hold(place()):
        task = asyncio.create_task(_wait(admission))
        await wait_until_async(lambda: admission.waiting == 1)
        task.cancel()
        await asyncio.wait([task])
        assert (admission.active, admission.waiting) == (1, 0)
    assert admission.active == 0


async def _wait(admission):
    async def on_wait(before, due):
        return None

    mine = place()
    async with admission.hold(mine):
        await mine.turn(admission.before, on_wait)
