"""The async client, mostly against a real gRPC server over a real socket."""

import asyncio
import inspect
import socket
import time
from contextlib import aclosing

import grpc
import grpc_server as scripts
import pytest
from grpc_server import Mocked, serving
from waiting import wait_until_async

from zoetrope_client import AsyncClient, Client, ConnectionLost, Retry, ServerUnavailable, Transport, codec
from zoetrope_client.events import Accepted, Done, Fragment, Frames, Progress
from zoetrope_client.retry import Clock
from zoetrope_core.errors import Cancelled, DeadlineExceeded, InvalidRequest, Overloaded, StageFailed
from zoetrope_core.request import GenerateRequest

IMAGE = b"\x89PNG not decoded here"
KINDS = [Accepted, Progress, Progress, Progress, Frames, Done]


async def cancelled(server):
    return await asyncio.to_thread(server.cancelled.wait, 5)


async def test_generate():
    with serving(scripts.normal) as server:
        async with AsyncClient(server.url, headers={"x-tenant": "t"}) as client:
            video = await client.generate(IMAGE, GenerateRequest(seed=7), fps=12)
    assert server.requests == [(IMAGE, GenerateRequest(seed=7, fps=12))]
    assert video.data == scripts.video_of(*server.requests[0])
    assert (video.id, video.seed) == ("r1", 7)
    assert server.metadata[0]["x-tenant"] == "t"


async def test_stream_yields_every_part_in_order():
    server = Mocked(scripts.normal)
    async with AsyncClient(transport=server) as client:
        kinds = [type(event) async for event in client.stream(IMAGE)]
    assert [kind for kind in kinds if kind is not Fragment] == KINDS
    assert kinds[-2] is Fragment


async def test_one_client_runs_many_streams_at_once():
    with serving(scripts.normal) as server:
        async with AsyncClient(server.url) as client:
            videos = await asyncio.gather(*(client.generate(IMAGE, seed=seed) for seed in range(6)))
    assert [video.seed for video in videos] == list(range(6))


async def test_an_invalid_request_is_found_before_anything_is_sent():
    server = Mocked(scripts.normal)
    async with AsyncClient(transport=server) as client:
        with pytest.raises(InvalidRequest, match="motion_bucket_id"):
            client.stream(IMAGE, motion_bucket=3)
    assert server.requests == []


@pytest.mark.parametrize("script", [scripts.refusing, scripts.failing(Overloaded("full", retry_after_s=3.5))])
async def test_a_refusal_has_its_class_and_details(script):
    server = Mocked(script)
    async with AsyncClient(transport=server) as client:
        with pytest.raises(Overloaded) as raised:
            await client.generate(IMAGE)
    assert raised.value.details == {"retry_after_s": 3.5}


async def test_a_stream_that_ends_without_done_is_a_lost_connection():
    server = Mocked(scripts.cutting)
    async with AsyncClient(transport=server) as client:
        with pytest.raises(ConnectionLost, match=server.url):
            await client.generate(IMAGE)
        with pytest.raises(ConnectionLost, match=server.url):
            async for _ in client.stream(IMAGE):
                pass


async def test_cancelling_the_task_cancels_on_the_server():
    with serving(scripts.endless) as server:
        async with AsyncClient(server.url) as client:
            task = asyncio.create_task(client.generate(IMAGE))
            await wait_until_async(lambda: server.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await cancelled(server)


async def test_closing_the_client_cancels_what_runs_and_not_the_tasks():
    with serving(scripts.endless) as server:
        client = AsyncClient(server.url)
        tasks = [asyncio.create_task(client.generate(IMAGE)) for _ in range(2)]
        await wait_until_async(lambda: len(server.requests) == 2)
        await client.close()
        for task in tasks:
            with pytest.raises(Cancelled, match="the client was closed"):
                await asyncio.wait_for(task, 5)
        assert await cancelled(server)


async def test_closing_the_client_ends_questions_as_well(monkeypatch):
    def silent(servicer, message, context):
        asked.append(message)
        servicer.closing.wait(20)

    asked = []
    monkeypatch.setattr(scripts.Servicer, "ServerReady", silent)
    monkeypatch.setattr(scripts.Servicer, "ModelConfig", silent)
    with serving(scripts.normal) as server:
        client = AsyncClient(server.url)
        ready = asyncio.create_task(client.health(timeout_s=60))
        told = asyncio.create_task(client.metadata(timeout_s=60))
        await wait_until_async(lambda: len(asked) == 2)
        await client.close()
        assert await asyncio.wait_for(ready, 5) is False
        with pytest.raises(Cancelled, match="the client was closed"):
            await asyncio.wait_for(told, 5)


async def test_closing_the_client_ends_the_pause_before_another_attempt():
    class Closing(Clock):
        async def sleep_async(self, seconds):
            await client.close()

    unavailable = scripts.aborting(grpc.StatusCode.UNAVAILABLE, "not yet")
    with serving(unavailable) as server:
        transport = Transport(server.url)
        transport.clock = Closing()
        client = AsyncClient(transport=transport)
        with pytest.raises(Cancelled, match="the client was closed"):
            await asyncio.wait_for(client.generate(IMAGE), 5)
    assert len(server.requests) == 1


async def test_leaving_the_loop_cancels_on_the_server():
    with serving(scripts.endless) as server:
        async with AsyncClient(server.url) as client:
            async with aclosing(client.stream(IMAGE)) as responses:
                async for _ in responses:
                    break
            assert await cancelled(server)


async def test_a_deadline_ends_the_wait_and_cancels_on_the_server():
    with serving(scripts.silent) as server:
        async with AsyncClient(server.url) as client:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await client.generate(IMAGE, deadline_s=0.3)
            assert 0.2 < time.monotonic() - began < 3
            assert await cancelled(server)


async def test_the_server_dies_in_the_middle():
    with serving(scripts.endless) as server:
        client = AsyncClient(server.url)
        responses = client.stream(IMAGE)
        await anext(responses)
    with pytest.raises((ConnectionLost, Cancelled)):
        async for _ in responses:
            pass
    await client.close()


async def test_no_server_there():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{held.getsockname()[1]}"
        async with AsyncClient(url, retry=Retry(attempts=2, first_s=0)) as client:
            assert await client.health(timeout_s=2) is False
            with pytest.raises(ServerUnavailable, match=url):
                await client.generate(IMAGE)


async def test_health_is_the_servers_readiness():
    with serving(scripts.normal) as server:
        async with AsyncClient(server.url) as client:
            assert await client.health() is True
            server.ready = False
            assert await client.health() is False


def test_a_client_made_outside_a_loop_works_in_one():
    async def use(client):
        async with client:
            return await client.generate(IMAGE)

    with serving(scripts.normal) as server:
        client = AsyncClient(server.url)
        assert asyncio.run(use(client)).data


@pytest.mark.parametrize("name", ["__init__", "generate", "stream", "health", "close"])
def test_both_clients_take_the_same_arguments(name):
    signatures = [inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient)]
    assert signatures[0].parameters == signatures[1].parameters


@pytest.mark.parametrize(
    ("script", "cancels"), [(scripts.ending_after_an_error, False), (scripts.hanging_after_an_error, True)]
)
async def test_a_stream_is_cancelled_after_its_error_only_if_it_goes_on(script, cancels, monkeypatch):
    if cancels:
        monkeypatch.setattr(codec, "END_SECONDS", 0.1)
    with serving(script) as server:
        async with AsyncClient(server.url) as client:
            with pytest.raises(StageFailed):
                await client.generate(IMAGE)
            assert not cancels or await asyncio.to_thread(server.cancelled.wait, 5)
    assert server.cancelled.is_set() is cancels
