"""Encoding beside decoding: whatever is cancelled, the codec is freed only when its thread has left it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from zoetrope_core.errors import Cancelled, MediaFailed
from zoetrope_server.media.overlap import OverlappedEncoder


class SlowEncoder:
    """An encoder whose calls last until `go` is set; closing it during a call is the mistake to be seen."""

    def __init__(self):
        self.go, self.inside, self.events = threading.Event(), threading.Event(), []

    def _work(self, name):
        self.events.append(f"{name} begins")
        self.inside.set()
        assert self.go.wait(5)
        self.events.append(f"{name} ends")
        return b"video"

    def add(self, frames):
        self._work("add")

    def take(self):
        return b"part"

    def finish(self):
        return self._work("finish")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.events.append("close")


async def nowhere(part):
    pass


async def encode(encoder, executor, call, on_part=nowhere):
    async with OverlappedEncoder(encoder, executor, on_part) as overlapped:
        if call == "finish":
            return await overlapped.finish()
        await overlapped.add(None)
        await overlapped.add(None)


@pytest.mark.parametrize("call", ["add", "finish"])
async def test_cancelling_twice_waits_for_the_thread(call):
    encoder = SlowEncoder()
    with ThreadPoolExecutor(1) as executor:
        task = asyncio.create_task(encode(encoder, executor, call))
        await asyncio.to_thread(encoder.inside.wait, 5)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.02)
        assert encoder.events == [f"{call} begins"]
        encoder.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert encoder.events == [f"{call} begins", f"{call} ends", "close"]


async def test_the_video_comes_out():
    encoder = SlowEncoder()
    encoder.go.set()
    with ThreadPoolExecutor(1) as executor:
        assert await encode(encoder, executor, "finish") == b"video"
    assert encoder.events[-1] == "close"


async def test_a_part_is_passed_on_while_the_next_chunk_is_still_to_come():
    encoder, parts = SlowEncoder(), asyncio.Queue()
    encoder.go.set()
    with ThreadPoolExecutor(1) as executor:
        async with OverlappedEncoder(encoder, executor, parts.put) as overlapped:
            await overlapped.add(None)
            assert await asyncio.wait_for(parts.get(), 5) == b"part"
            assert await overlapped.finish() == b"video"
    assert parts.empty(), "the end is returned, not passed on"


@pytest.mark.parametrize("kind", [MediaFailed, Cancelled])
async def test_a_part_that_cannot_be_passed_on_ends_the_encoding(kind):
    encoder = SlowEncoder()
    encoder.go.set()

    async def refuse(part):
        raise kind("no more")

    with ThreadPoolExecutor(1) as executor, pytest.raises(kind, match="no more"):
        await encode(encoder, executor, "add", refuse)
    assert encoder.events == ["add begins", "add ends", "close"]


async def test_an_error_elsewhere_stops_a_part_on_its_way():
    encoder, sending = SlowEncoder(), asyncio.Event()
    encoder.go.set()

    async def hang(part):
        sending.set()
        await asyncio.sleep(3600)

    async def fail():
        async with OverlappedEncoder(encoder, executor, hang) as overlapped:
            await overlapped.add(None)
            await sending.wait()
            raise KeyError("the engine is gone")

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyError):
        await asyncio.wait_for(fail(), 5)
    assert encoder.events[-1] == "close"
