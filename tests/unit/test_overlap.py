"""Encoding beside decoding: whatever is cancelled, the codec is freed only when its thread has left it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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

    def finish(self):
        return self._work("finish")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.events.append("close")


async def encode(encoder, executor, call):
    async with OverlappedEncoder(encoder, executor) as overlapped:
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
