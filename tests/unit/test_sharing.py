"""Steps of several videos share executions; a video that is alone waits for nobody."""

import asyncio
import time

import pytest
from waiting import wait_until_async

from zoetrope_server import sharing
from zoetrope_server.sharing import Sharing


class Engine:
    """Doubles numbers; takes no time, or until `release` is set."""

    def __init__(self, max_batch=4):
        self.batches, self.release = [], None
        self.calls = Sharing(self.execute, max_batch=max_batch)

    async def execute(self, contents):
        self.batches.append(list(contents))
        if self.release is not None:
            await self.release.wait()
        await asyncio.sleep(0)
        if "bad" in contents:
            raise RuntimeError("bad")
        return [content * 2 for content in contents]

    async def video(self, name, steps, shape="a"):
        for step in range(steps):
            assert await self.calls.call(name, shape, step) == 2 * step


async def test_a_lone_video_never_waits(monkeypatch):
    monkeypatch.setattr(sharing, "WINDOW_S", 3600.0)
    engine = Engine()
    await asyncio.wait_for(engine.video("a", 50), 2)
    assert engine.batches == [[step] for step in range(50)]


@pytest.mark.parametrize("videos", [2, 3, 4])
async def test_videos_in_step_share_every_execution_but_the_first(videos):
    engine = Engine()
    await asyncio.gather(*(engine.video(name, 20) for name in range(videos)))
    assert [len(batch) for batch in engine.batches[1:-1]] == [videos] * (len(engine.batches) - 2)
    assert sum(map(len, engine.batches)) == 20 * videos and len(engine.batches) <= 22


async def test_no_execution_is_larger_than_the_largest_batch():
    engine = Engine(max_batch=2)
    await asyncio.gather(*(engine.video(name, 5) for name in range(5)))
    assert max(map(len, engine.batches)) == 2 and sum(map(len, engine.batches)) == 25


async def test_shapes_are_not_mixed_and_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(sharing, "WINDOW_S", 3600.0)
    engine = Engine()
    await asyncio.wait_for(
        asyncio.gather(engine.video("a", 5, shape="guided"), engine.video("b", 5, shape="plain")), 2
    )
    assert all(len(batch) == 1 for batch in engine.batches)


async def test_a_video_that_joins_is_taken_along_with_the_next_step():
    engine = Engine()
    engine.release = asyncio.Event()
    first = asyncio.create_task(engine.video("a", 3))
    await wait_until_async(lambda: engine.batches)
    second = asyncio.create_task(engine.video("b", 2))
    await asyncio.sleep(0)
    engine.release.set()
    await asyncio.gather(first, second)
    assert [len(batch) for batch in engine.batches] == [1, 2, 2]


async def test_a_video_that_has_left_is_waited_for_once_and_not_for_long(monkeypatch):
    monkeypatch.setattr(sharing, "WINDOW_S", 0.05)
    engine = Engine()
    began = time.monotonic()
    await asyncio.gather(engine.video("short", 2), engine.video("long", 40))
    assert 0.05 <= time.monotonic() - began < 0.5, "one window, not forty"


async def test_a_cancelled_call_is_not_computed_and_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(sharing, "WINDOW_S", 0.02)
    engine = Engine()
    engine.release = asyncio.Event()
    running, waiting, other = (
        asyncio.create_task(engine.calls.call(name, "a", number)) for number, name in enumerate("abc")
    )
    await wait_until_async(lambda: engine.batches)
    for task in (running, waiting):
        task.cancel()
    engine.release.set()
    assert await asyncio.wait_for(other, 2) == 4
    assert engine.batches == [[0], [2]]


async def test_an_error_is_the_error_of_each_that_shared_and_of_nobody_else():
    engine = Engine()
    engine.release = asyncio.Event()
    first = asyncio.create_task(engine.video("first", 1))
    await wait_until_async(lambda: engine.batches)
    bad = [asyncio.create_task(engine.calls.call(name, "a", "bad")) for name in "xy"]
    await asyncio.sleep(0)
    engine.release.set()
    await first
    for task in bad:
        with pytest.raises(RuntimeError, match="bad"):
            await task
    await asyncio.wait_for(engine.video("first", 3), 2)


async def test_nothing_is_kept_of_shapes_that_are_over(monkeypatch):
    monkeypatch.setattr(sharing, "WINDOW_S", 0.001)
    engine = Engine()
    for shape in range(5):
        await engine.video("a", 2, shape=shape)
    await wait_until_async(lambda: not engine.calls._groups)
