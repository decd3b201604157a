"""Previews beside the steps: which steps have one, and that nobody waits for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fakes import COLOURS, MANIFEST
from waiting import wait_until_async

from zoetrope_core.request import GenerateRequest
from zoetrope_core.sampling import Step
from zoetrope_server import previews as module
from zoetrope_server.previews import Previews

COLOURED = replace(MANIFEST, latent_rgb=COLOURS)


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as pool:
        yield pool


def step(number):
    shape = (3, 4, 4, 6)
    return Step(
        number=number,
        count=9,
        sigma=1.0,
        x=np.full(shape, 99.0, np.float32),
        denoised=np.full(shape, number / 10, np.float32),
    )


def previews(executor, send, every=1, manifest=COLOURED):
    request = GenerateRequest(preview_every=every).validate(COLOURED)
    return Previews(request, manifest, executor, send)


class Slow:
    """Makes a preview that is the value of the latents, when it is let go."""

    def __init__(self, monkeypatch):
        self.go, self.began = threading.Event(), threading.Event()
        monkeypatch.setattr(module, "_make", self.make)

    def make(self, denoised, **facts):
        self.began.set()
        assert self.go.wait(5)
        return float(denoised[0, 0, 0, 0])


async def offered(executor, numbers, every):
    sent = []

    async def send(webp):
        sent.append(webp)

    async with previews(executor, send, every) as made:
        for number in numbers:
            made.offer(step(number))
            await wait_until_async(lambda: made._making is None or made._making.done())
    return sent


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (7, [])])
async def test_every_nth_step_has_a_preview_of_the_clean_latents(executor, monkeypatch, every, due):
    Slow(monkeypatch).go.set()
    sent = await offered(executor, range(1, 7), every)
    assert sent == pytest.approx([number / 10 for number in due]), "never of x"


async def test_it_is_webp_of_the_size_of_the_latents(executor):
    (webp,) = await offered(executor, [1], 1)
    assert webp[:4] == b"RIFF" and webp[8:12] == b"WEBP"


async def test_no_step_waits_and_what_is_due_meanwhile_is_skipped(executor, monkeypatch):
    slow, sent = Slow(monkeypatch), asyncio.Queue()
    async with previews(executor, sent.put) as made:
        made.offer(step(1))
        await asyncio.to_thread(slow.began.wait, 5)
        made.offer(step(2))
        made.offer(step(3))
        assert sent.empty()
        slow.go.set()
        assert await asyncio.wait_for(sent.get(), 5) == pytest.approx(0.1)
        await wait_until_async(made._making.done)
        made.offer(step(4))
    assert sent.get_nowait() == pytest.approx(0.4), "leaving waits for the one that is being made"
    assert sent.empty()


async def test_after_an_error_nothing_more_is_sent(executor, monkeypatch):
    slow, sent = Slow(monkeypatch), asyncio.Queue()
    with pytest.raises(KeyError):
        async with previews(executor, sent.put) as made:
            made.offer(step(1))
            await asyncio.to_thread(slow.began.wait, 5)
            raise KeyError("the engine is gone")
    slow.go.set()
    await asyncio.sleep(0.05)
    assert sent.empty()


async def test_a_cancelled_wait_for_the_last_preview_sends_none(executor, monkeypatch):
    slow, sent = Slow(monkeypatch), asyncio.Queue()

    async def run():
        async with previews(executor, sent.put) as made:
            made.offer(step(1))

    task = asyncio.create_task(run())
    await asyncio.to_thread(slow.began.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)
    slow.go.set()
    await asyncio.sleep(0.05)
    assert sent.empty()


async def test_a_preview_that_cannot_be_made_is_only_logged(executor, monkeypatch, caplog):
    def fail(denoised, **facts):
        raise ValueError("no WebP here")

    monkeypatch.setattr(module, "_make", fail)
    assert await offered(executor, [1, 2], 1) == []
    assert "a preview could not be made" in caplog.text
