"""When the clients try again, and when they must not, by a clock that does not wait."""

import asyncio
import io
import itertools
import logging
import math
import socket
import threading

import grpc
import grpc_server as scripts
import pytest
from grpc_server import Mocked, serving

from zoetrope_client import AsyncClient, Client, ConnectionLost, Retry, ServerUnavailable, Transport
from zoetrope_client.retry import Attempts, Clock
from zoetrope_core.errors import DeadlineExceeded, Draining, InvalidRequest, Overloaded, Refused, StageLost
from zoetrope_core.request import GenerateRequest

IMAGE = b"\x89PNG not decoded here"
ACCEPTED = scripts.accepted(GenerateRequest())
PLAIN = scripts.aborting(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def by_turns(*scripts_in_turn):
    """A script for each request in turn; the last one for all that follow."""
    turns = itertools.chain(scripts_in_turn, itertools.repeat(scripts_in_turn[-1]))

    def script(*arguments):
        yield from next(turns)(*arguments)

    return script


def synchronous(transport, call=None, **settings):
    with Client(transport=transport, **settings) as client:
        return client.generate(**{"image": IMAGE, **(call or {})})


def asynchronous(transport, call=None, **settings):
    async def run():
        async with AsyncClient(transport=transport, **settings) as client:
            return await client.generate(**{"image": IMAGE, **(call or {})})

    return asyncio.run(run())


both = pytest.mark.parametrize("generate", [synchronous, asynchronous])


@both
def test_unavailable_without_a_code_is_tried_again(generate, caplog):
    caplog.set_level(logging.INFO, "zoetrope_client.retry")
    server = Mocked(by_turns(PLAIN, PLAIN, scripts.normal))
    assert generate(server, {"seed": 5}).seed == 5
    assert [request.seed for _, request in server.requests] == [5, 5, 5]
    assert len(caplog.records) == len(server.clock.pauses) == 2


@both
def test_the_attempts_are_bounded(generate):
    server = Mocked(PLAIN)
    with pytest.raises(ServerUnavailable, match="Socket closed"):
        generate(server)
    assert len(server.requests) == Retry().attempts == 4 and len(server.clock.pauses) == 3


@both
@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (scripts.aborting(grpc.StatusCode.UNAVAILABLE, "gone", [ACCEPTED]), ConnectionLost),
        (scripts.aborting(grpc.StatusCode.UNKNOWN, "what?"), ServerUnavailable),
        (scripts.aborting(grpc.StatusCode.INVALID_ARGUMENT, "no"), InvalidRequest),
        (scripts.cutting, ConnectionLost),
        (scripts.refusing, Overloaded),
        (scripts.failing(StageLost("died")), StageLost),
    ],
    ids=["after a response", "UNKNOWN", "INVALID_ARGUMENT", "cut off", "refused", "stage lost"],
)  # fmt: skip
def test_nothing_else_is_tried_again(generate, script, kind):
    server = Mocked(script)
    with pytest.raises(kind) as raised:
        generate(server)
    assert type(raised.value) is kind and len(server.requests) == 1


class Paused(Clock):
    """Says when the first pause begins."""

    def __init__(self):
        self.begun = threading.Event()

    def sleep(self, seconds):
        self.begun.set()
        super().sleep(seconds)

    async def sleep_async(self, seconds):
        self.begun.set()
        await super().sleep_async(seconds)


@both
def test_a_server_that_comes_late_is_reached(generate):
    """Over a real socket: gRPC's own pause before it connects again must not outlast ours."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    transport = Transport(f"127.0.0.1:{port}")
    transport.clock, arrived = Paused(), threading.Event()

    def late():
        assert transport.clock.begun.wait(20)
        with serving(scripts.normal, port=port):
            arrived.wait(20)

    thread = threading.Thread(target=late)
    thread.start()
    try:
        assert generate(transport, retry=Retry(attempts=200, first_s=0.05, longest_s=0.05)).data
    finally:
        arrived.set()
        thread.join()
    assert transport.clock.begun.is_set(), "the first attempt found no server"


@both
def test_the_deadline_covers_all_attempts(generate):
    server = Mocked(PLAIN)
    retry = Retry(attempts=10_000, first_s=0.02, longest_s=0.05)
    with pytest.raises((ServerUnavailable, DeadlineExceeded)):
        generate(server, {"image": SlowFile(server), "deadline_s": 0.9}, retry=retry)
    assert 0.8 < server.clock.now() < 0.9
    left = [request.deadline_s for _, request in server.requests]
    assert len(left) > 3 and 0 < left[0] < 0.5, "what came before the first attempt counts too"
    assert all(later < earlier for earlier, later in itertools.pairwise(left))
    assert [call.timeout_s for call in server.calls] == left


def waiting(server, seconds):
    """A provider of headers that takes its time."""

    def headers():
        server.clock.sleep(seconds)
        return {}

    return headers


@both
def test_a_provider_of_headers_takes_its_time_from_the_deadline(generate):
    def script(servicer, image, request, context):
        yield ACCEPTED
        servicer.clock.sleep(0.7)
        yield ACCEPTED

    server = Mocked(script)
    with pytest.raises(DeadlineExceeded, match="before the video was complete"):
        generate(server, {"deadline_s": 1.6}, headers=waiting(server, 1))
    assert [request.deadline_s for _, request in server.requests] == pytest.approx([0.6])


@both
def test_nothing_is_sent_once_a_provider_has_used_the_deadline_up(generate):
    server = Mocked(scripts.normal)
    with pytest.raises(DeadlineExceeded, match="before the request was"):
        generate(server, {"deadline_s": 0.1}, headers=waiting(server, 0.2))
    assert server.headers == []


class SlowFile(io.BytesIO):
    """A picture that takes half a second to read."""

    def __init__(self, server):
        super().__init__(IMAGE)
        self._clock = server.clock

    def read(self, *size):
        self._clock.sleep(0.5)
        return super().read(*size)


@both
def test_reading_the_picture_takes_its_time_from_the_deadline(generate):
    server = Mocked(scripts.normal)
    assert generate(server, {"deadline_s": 5}).data
    generate(server, {"image": SlowFile(server), "deadline_s": 5})
    with pytest.raises(DeadlineExceeded):
        generate(server, {"image": SlowFile(server), "deadline_s": 0.1})
    assert [request.deadline_s for _, request in server.requests] == pytest.approx([5, 4.5])


async def test_a_wait_of_the_asynchronous_client_ends_with_the_deadline():
    async def headers():
        await asyncio.sleep(60)
        return {}

    server, now = Mocked(scripts.normal, clock=Clock()), asyncio.get_running_loop().time
    async with AsyncClient(transport=server, headers=headers) as client:
        began = now()
        with pytest.raises(DeadlineExceeded):
            await client.generate(IMAGE, deadline_s=0.1)
        with pytest.raises(DeadlineExceeded):
            await client.metadata(timeout_s=0.1)
        assert 0.2 <= now() - began < 2
    assert server.headers == []


async def test_a_timeout_of_a_provider_is_the_callers():
    async def headers():
        raise TimeoutError("the vault does not answer")

    async with AsyncClient(transport=Mocked(scripts.normal), headers=headers) as client:
        with pytest.raises(TimeoutError, match="vault"):
            await client.generate(IMAGE, deadline_s=5)


async def test_the_clock_starts_when_the_first_event_is_asked_for():
    server = Mocked(scripts.normal)
    async with AsyncClient(transport=server) as client:
        events = client.stream(IMAGE, deadline_s=1.5)
        server.clock.sleep(1)
        assert [event async for event in events]
    with Client(transport=server) as client:
        events = client.stream(SlowFile(server), deadline_s=1.5)
        server.clock.sleep(1)
        assert list(events)
    assert [request.deadline_s for _, request in server.requests] == pytest.approx([1.5, 1])


def refused(retry_after_s, kind=Overloaded):
    def script(servicer, image, request, context):
        error = kind("the queue is full", retry_after_s=retry_after_s)
        context.abort(grpc.StatusCode.UNAVAILABLE, error.status_message())
        yield

    return script


@both
@pytest.mark.parametrize("kind", [Overloaded, Draining])
def test_a_refusal_is_waited_out_for_who_has_patience(generate, kind):
    server = Mocked(by_turns(refused(4, kind), refused(2, kind), scripts.normal))
    assert generate(server, {"patience_s": 10}, retry=Retry(attempts=1)).data
    first, second = server.clock.pauses
    assert 4 < first <= 5 and 2 < second <= 2.5, "not before it is asked for, and by chance a little later"


@both
@pytest.mark.parametrize(
    ("script", "call"),
    [
        (refused(0.2), {"patience_s": 0.1}),
        (refused(30), {"patience_s": 5}),
        (refused(30), {"patience_s": 500, "deadline_s": 10}),
        (refused(None), {"patience_s": 500}),
        (refused("soon"), {"patience_s": 500}),
        (refused(-1), {"patience_s": 500}),
        (refused(0.1, DeadlineExceeded), {"patience_s": 500}),
    ],
)
def test_a_refusal_is_raised_where_waiting_is_of_no_use(generate, script, call):
    server = Mocked(script)
    with pytest.raises(Refused):
        generate(server, call)
    assert server.clock.pauses == [] and len(server.requests) == 1


@pytest.mark.parametrize("patience_s", [-1, math.nan, math.inf])
def test_patience_is_a_number_of_seconds(patience_s):
    with Client(transport=Mocked(PLAIN)) as client, pytest.raises(InvalidRequest, match="patience_s"):
        client.stream(IMAGE, patience_s=patience_s)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"first_s": -1}, {"first_s": 3, "longest_s": 2}, {"longest_s": math.inf}]
)
def test_a_retry_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="retry"):
        Retry(**wrong)


def test_pauses_are_drawn_at_random_below_a_bound_that_doubles():
    class State:
        outcome = None

    attempts = Attempts(Retry(first_s=1, longest_s=8), clock=Clock())
    for number, bound in enumerate((1, 2, 4, 8, 8), 1):
        State.attempt_number = number
        drawn = {attempts._pause_s(State) for _ in range(200)}
        assert len(drawn) > 100 and 0.7 * bound < max(drawn) <= bound


class Stopped(Clock):
    """A pause that does not end."""

    def __init__(self):
        self.begun = asyncio.Event()

    async def sleep_async(self, seconds):
        self.begun.set()
        await asyncio.Event().wait()


async def test_a_cancelled_task_does_not_try_again():
    server = Mocked(PLAIN, clock=Stopped())
    async with AsyncClient(transport=server) as client:
        task = asyncio.create_task(client.generate(IMAGE))
        await asyncio.wait_for(server.clock.begun.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(server.requests) == 1
