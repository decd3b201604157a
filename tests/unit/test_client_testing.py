"""The mock transport: what a client sees of it is what it sees of a real server."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc_server as scripts
import numpy as np
import pytest
from grpc_server import METADATA, Mocked, serving
from tritonclient.grpc import service_pb2, service_pb2_grpc

from zoetrope_client import (
    AsyncClient,
    Client,
    Done,
    Fragment,
    Frames,
    Preview,
    Progress,
    Transport,
    Warned,
    codec,
)
from zoetrope_client.errors import NotServed
from zoetrope_client.testing import MockTransport, StatusError, answer
from zoetrope_client.video import collect
from zoetrope_core.contract import Response
from zoetrope_core.errors import Cancelled, DeadlineExceeded, Overloaded, StageFailed, ZoetropeError
from zoetrope_core.events import Failed

ROOT = Path(__file__).parents[2]
IMAGE = b"\x89PNG not decoded here"
BROKEN = scripts.aborting(grpc.StatusCode.UNAVAILABLE, "broken", [scripts.accepted(scripts.REQUEST)])


def synchronous(transport):
    with Client(transport=transport, headers={"X-Tenant": "t"}) as client:
        yield from client.stream(IMAGE, seed=3, preview_every=1)


def asynchronous(transport):
    async def run():
        async with AsyncClient(transport=transport, headers={"X-Tenant": "t"}) as client:
            try:
                async for event in client.stream(IMAGE, seed=3, preview_every=1):
                    seen.append(event)
            except ZoetropeError as error:
                return error

    seen = []
    failure = asyncio.run(run())
    yield from seen
    if failure is not None:
        raise failure


def seen(stream, transport):
    """All events and the error, comparable."""
    found = []
    try:
        found += [repr(event) for event in stream(transport)]
    except ZoetropeError as error:
        found.append((type(error), error.message.replace(transport.url, "URL"), error.details))
    return found


def going_on_after_an_error(servicer, image, request, context):
    yield Response(event=Failed(code="stage_failed", status="INTERNAL", message="boom"))
    yield scripts.accepted(request)
    servicer.closing.wait(10)


both = pytest.mark.parametrize("stream", [synchronous, asynchronous])


@both
@pytest.mark.parametrize(
    "script",
    [
        scripts.normal,
        scripts.warning,
        scripts.failing(Overloaded("full", retry_after_s=3.5)),
        scripts.failing(StageFailed("boom", stage="unet")),
        scripts.refusing,
        scripts.cutting,
        BROKEN,
        scripts.aborting(grpc.StatusCode.NOT_FOUND, "no such model"),
        scripts.ending_after_an_error,
        going_on_after_an_error,
    ],
)
def test_a_script_is_seen_as_over_a_socket(stream, script, monkeypatch):
    if script is going_on_after_an_error:
        monkeypatch.setattr(codec, "END_SECONDS", 0.1)
    mocked = Mocked(script)
    with serving(script) as server:
        real = seen(stream, Transport(server.url))
        assert script is not going_on_after_an_error or server.cancelled.wait(5)
    assert seen(stream, mocked) == real
    assert mocked.requests == server.requests
    assert mocked.headers[0]["x-tenant"] == server.metadata[0]["x-tenant"] == "t"
    assert mocked.calls[0].cancelled.is_set() is server.cancelled.is_set()
    assert server.cancelled.is_set() is (script is going_on_after_an_error)


@both
def test_a_handler_answers_with_events(stream):
    def handler(call):
        assert (call.image, call.request.seed, call.headers) == (IMAGE, 3, {"x-tenant": "t"})
        yield from sent

    done = Done(id="a", seed=3, parameters={"fps": 7}, timings={"total": 1.5}, video_bytes=4)
    frames = Frames(array=np.zeros((1, 2, 2, 3), np.uint8))
    step = Progress(stage="denoise", step=1, steps=1)
    sent = [
        step,
        Warned(code="c", field="fps", message="m"),
        Preview(image=b"RIFF"),
        frames,
        Fragment(data=b"data"),
        done,
    ]
    assert list(map(repr, stream(MockTransport(handler)))) == list(map(repr, sent))


@both
def test_without_a_handler_each_call_has_a_video(stream):
    transport = MockTransport()
    assert collect(stream(transport)).data == b"video"
    assert [call.request.seed for call in transport.calls] == [3]


@both
def test_what_else_a_handler_raises_goes_through(stream):
    def handler(call):
        yield Progress(stage="denoise", step=0, steps=1)
        raise LookupError("a mistake in the test")

    with pytest.raises(LookupError, match="mistake"):
        list(stream(MockTransport(handler)))


def test_patience_is_waited_out_at_once():
    def handler(call):
        if len(transport.calls) < 3:
            raise Overloaded("full", retry_after_s=100)
        return answer(call)

    transport = MockTransport(handler)
    with Client(transport=transport) as client:
        assert client.generate(IMAGE, patience_s=1000).data == b"video"
    assert len(transport.clock.pauses) == 2 and 200 <= transport.clock.now() <= 250


@pytest.mark.parametrize("more", [0, 1], ids=["before the end", "before a response"])
def test_a_deadline_passes_by_the_clock_of_the_transport(more):
    def handler(call):
        assert call.timeout_s == call.request.deadline_s == 5
        transport.clock.sleep(6)
        yield from [Progress(stage="denoise", step=1, steps=1)] * more

    transport = MockTransport(handler)
    with Client(transport=transport) as client, pytest.raises(DeadlineExceeded, match="^mock: "):
        next(client.stream(IMAGE, deadline_s=5))


def endless(call):
    while True:
        yield Progress(stage="denoise", step=1, steps=2)


def test_leaving_a_stream_cancels_its_call_alone():
    transport = MockTransport(endless)
    with Client(transport=transport) as client:
        one, other = client.stream(IMAGE), client.stream(IMAGE)
        next(one), next(other)
        one.close()
        assert [call.cancelled.is_set() for call in transport.calls] == [True, False]
        client.close()
        assert transport.calls[1].cancelled.is_set()
        with pytest.raises(Cancelled):
            next(other)


async def test_cancelling_a_task_and_closing_the_client_cancel_calls():
    transport = MockTransport(endless)
    client = AsyncClient(transport=transport)
    one, other = (asyncio.create_task(client.generate(IMAGE)) for _ in range(2))
    while len(transport.calls) < 2:
        await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert [call.cancelled.is_set() for call in transport.calls] == [True, False]
    await client.close()
    with pytest.raises(Cancelled):
        await asyncio.wait_for(other, 5)
    assert transport.calls[1].cancelled.is_set()
    with pytest.raises(Cancelled, match="the client was closed"):
        await client.generate(IMAGE)


def test_a_handler_that_waits_in_another_thread_sees_that_it_is_cancelled():
    def handler(call):
        begun.set()
        ended.append(call.cancelled.wait(10))
        yield Progress(stage="denoise", step=1, steps=2)

    def use():
        with pytest.raises(Cancelled):
            client.generate(IMAGE)

    begun, ended = threading.Event(), []
    with Client(transport=MockTransport(handler)) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(use)
        assert begun.wait(10)
        client.close()
        waiting.result(10)
    assert ended == [True]


@pytest.mark.parametrize("mock", [True, False])
def test_a_closed_client_is_of_no_use(mock):
    with serving(scripts.normal) as server:
        client = Client(transport=MockTransport() if mock else Transport(server.url))
        client.close()
        for call in (client.health, client.metadata, lambda: client.generate(IMAGE)):
            with pytest.raises(ValueError, match="closed"):
                call()


def test_readiness_and_metadata_are_as_told():
    transport = MockTransport(metadata=METADATA, ready=False)
    with Client(transport=transport) as client:
        assert client.metadata() == METADATA and not client.health()
        transport.ready, transport.metadata = True, None
        assert client.health()
        with pytest.raises(NotServed):
            client.metadata()


def test_what_the_mock_does_not_answer_is_unimplemented():
    stub = service_pb2_grpc.GRPCInferenceServiceStub(MockTransport().channel(grpc))
    with pytest.raises(StatusError) as raised:
        stub.ModelMetadata(service_pb2.ModelMetadataRequest())
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED and raised.value.details() == "ModelMetadata"


def test_the_example_of_the_docs_runs():
    page = (ROOT / "docs" / "clients.md").read_text()
    (snippet,) = re.findall(r"^```python\n([^`]*MockTransport[^`]*)^```", page, re.MULTILINE)
    command = [sys.executable, "-W", "error", "-c", snippet]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    pauses = json.loads(ran.stdout)
    assert len(pauses) == 2 and all(30 <= pause <= 37.5 for pause in pauses)
