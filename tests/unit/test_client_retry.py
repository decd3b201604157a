"""When the clients try again, and when they must not; a real gRPC server over a real socket."""

import asyncio
import io
import itertools
import logging
import math
import socket
import threading
import time

import grpc
import grpc_server as scripts
import pytest
from grpc_server import serving

from zoetrope_client import AsyncClient, Client, ConnectionLost, Retry, ServerUnavailable
from zoetrope_client.retry import Attempts
from zoetrope_core.errors import DeadlineExceeded, Draining, InvalidRequest, Overloaded, Refused, StageLost
from zoetrope_core.request import GenerateRequest

IMAGE = b"\x89PNG not decoded here"
QUICK = Retry(attempts=4, first_s=0.02, longest_s=0.1)
ACCEPTED = scripts.accepted(GenerateRequest())
PLAIN = scripts.aborting(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def by_turns(*scripts_in_turn):
    """A script for each request in turn; the last one for all that follow."""
    turns = itertools.chain(scripts_in_turn, itertools.repeat(scripts_in_turn[-1]))

    def script(*arguments):
        yield from next(turns)(*arguments)

    return script


def synchronous(url, call=None, **settings):
    with Client(url, **settings) as client:
        return client.generate(**{"image": IMAGE, **(call or {})})


def asynchronous(url, call=None, **settings):
    async def run():
        async with AsyncClient(url, **settings) as client:
            return await client.generate(**{"image": IMAGE, **(call or {})})

    return asyncio.run(run())


both = pytest.mark.parametrize("generate", [synchronous, asynchronous])


@both
def test_unavailable_without_a_code_is_tried_again(generate, caplog):
    caplog.set_level(logging.INFO, "zoetrope_client.retry")
    with serving(by_turns(PLAIN, PLAIN, scripts.normal)) as server:
        assert generate(server.url, {"seed": 5}, retry=QUICK).seed == 5
    assert [request.seed for _, request in server.requests] == [5, 5, 5]
    assert len(caplog.records) == 2


@both
def test_the_attempts_are_bounded(generate):
    with serving(PLAIN) as server, pytest.raises(ServerUnavailable, match="Socket closed"):
        generate(server.url, retry=QUICK)
    assert len(server.requests) == 4


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
    with serving(script) as server, pytest.raises(kind) as raised:
        generate(server.url, retry=QUICK)
    assert type(raised.value) is kind and len(server.requests) == 1


@both
def test_a_server_that_comes_late_is_reached(generate):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    arrived = threading.Event()

    def late():
        time.sleep(0.6)
        with serving(scripts.normal, port=port):
            arrived.wait(20)

    thread = threading.Thread(target=late)
    thread.start()
    try:
        patient = Retry(attempts=60, first_s=0.1, longest_s=0.2)
        assert generate(f"127.0.0.1:{port}", retry=patient).data
    finally:
        arrived.set()
        thread.join()


@both
def test_the_deadline_covers_all_attempts(generate):
    with serving(PLAIN) as server:
        began = time.monotonic()
        with pytest.raises((ServerUnavailable, DeadlineExceeded)):
            generate(
                server.url, {"deadline_s": 0.4}, retry=Retry(attempts=10_000, first_s=0.02, longest_s=0.05)
            )
        assert time.monotonic() - began < 2
    left = [request.deadline_s for _, request in server.requests]
    assert len(left) > 3 and 0 < left[0] < 0.4, "what came before the first attempt counts too"
    assert all(later < earlier for earlier, later in itertools.pairwise(left))


@both
def test_a_provider_of_headers_takes_its_time_from_the_deadline(generate):
    def headers():
        time.sleep(1)
        return {}

    with serving(scripts.endless) as server:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            generate(server.url, {"deadline_s": 1.6}, headers=headers)
        assert 1.5 < time.monotonic() - began < 2.5
        (asked,) = [request.deadline_s for _, request in server.requests]
        assert 0 < asked <= 0.6


@both
def test_nothing_is_sent_once_a_provider_has_used_the_deadline_up(generate):
    def headers():
        time.sleep(0.2)
        return {}

    with serving(scripts.normal) as server, pytest.raises(DeadlineExceeded, match="before the request was"):
        generate(server.url, {"deadline_s": 0.1}, headers=headers)
    assert server.metadata == []


class SlowFile(io.BytesIO):
    """A picture that takes a while to read."""

    seconds = 0.5

    def read(self, *size):
        time.sleep(self.seconds)
        return super().read(*size)


@both
def test_reading_the_picture_takes_its_time_from_the_deadline(generate):
    with serving(scripts.normal) as server:
        with Client(server.url) as client:
            assert client.generate(IMAGE, deadline_s=5).data
        generate(server.url, {"image": SlowFile(IMAGE), "deadline_s": 5})
        with pytest.raises(DeadlineExceeded):
            generate(server.url, {"image": SlowFile(IMAGE), "deadline_s": 0.1})
    quick, slow = (request.deadline_s for _, request in server.requests)
    assert 3 < slow <= 4.5 and slow < quick - 0.2


async def test_a_wait_of_the_asynchronous_client_ends_with_the_deadline():
    async def headers():
        await asyncio.sleep(60)
        return {}

    with serving(scripts.normal) as server:
        async with AsyncClient(server.url, headers=headers) as client:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await client.generate(IMAGE, deadline_s=0.2)
            with pytest.raises(DeadlineExceeded):
                await client.metadata(timeout_s=0.2)
            assert 0.4 <= time.monotonic() - began < 2
        assert server.metadata == []


async def test_a_timeout_of_a_provider_is_the_callers():
    async def headers():
        raise TimeoutError("the vault does not answer")

    async with AsyncClient("127.0.0.1:1", headers=headers) as client:
        with pytest.raises(TimeoutError, match="vault"):
            await client.generate(IMAGE, deadline_s=5)


async def test_the_clock_starts_when_the_first_event_is_asked_for():
    with serving(scripts.normal) as server:
        async with AsyncClient(server.url) as client:
            events = client.stream(IMAGE, deadline_s=1.5)
            await asyncio.sleep(1)
            assert [event async for event in events]
        with Client(server.url) as client:
            events = client.stream(IMAGE, deadline_s=1.5)
            time.sleep(1)
            assert list(events)
    assert all(0.6 < request.deadline_s < 1.5 for _, request in server.requests)


def refused(retry_after_s, kind=Overloaded):
    def script(servicer, image, request, context):
        error = kind("the queue is full", retry_after_s=retry_after_s)
        context.abort(grpc.StatusCode.UNAVAILABLE, error.status_message())
        yield

    return script


@both
@pytest.mark.parametrize("kind", [Overloaded, Draining])
def test_a_refusal_is_waited_out_for_who_has_patience(generate, kind):
    with serving(by_turns(refused(0.2, kind), refused(0.2, kind), scripts.normal)) as server:
        began = time.monotonic()
        assert generate(server.url, {"patience_s": 10}, retry=Retry(attempts=1)).data
        assert 0.4 <= time.monotonic() - began < 5


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
    with serving(script) as server:
        began = time.monotonic()
        with pytest.raises(Refused):
            generate(server.url, call)
        assert time.monotonic() - began < 3 and len(server.requests) == 1


@pytest.mark.parametrize("patience_s", [-1, math.nan, math.inf])
def test_patience_is_a_number_of_seconds(patience_s):
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match="patience_s"):
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

    attempts = Attempts(Retry(first_s=1, longest_s=8))
    for number, bound in enumerate((1, 2, 4, 8, 8), 1):
        State.attempt_number = number
        drawn = {attempts._pause_s(State) for _ in range(200)}
        assert len(drawn) > 100 and 0.7 * bound < max(drawn) <= bound


async def test_a_cancelled_task_does_not_try_again():
    with serving(PLAIN) as server:
        async with AsyncClient(server.url, retry=Retry(attempts=9, first_s=60, longest_s=60)) as client:
            task = asyncio.create_task(client.generate(IMAGE))
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert len(server.requests) == 1
