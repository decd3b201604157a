"""Decode workers: an image that kills its decoder hurts only its own request."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
from PIL import Image
from waiting import wait_until_async

from zoetrope_core.errors import InvalidImage, MediaFailed
from zoetrope_server.media import answers
from zoetrope_server.media.decode import ImageLimits
from zoetrope_server.media.workers import DecodeWorkers

HOSTILE = "media_hostile:decode"
LIMITS = ImageLimits(timeout_s=2.0)

Start = Callable[..., DecodeWorkers]


@pytest_asyncio.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts workers that decode as media_hostile does; afterwards no process and no socket may be left."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    started: list[DecodeWorkers] = []

    def start(limits: ImageLimits = LIMITS, *, workers: int = 2, function: str = HOSTILE) -> DecodeWorkers:
        started.append(DecodeWorkers(limits, workers=workers, function=function))
        return started[-1]

    children = set(psutil.Process().children())
    descriptors = set(os.listdir("/proc/self/fd"))
    yield start
    for pool in started:
        pool.close()
    await wait_until_async(lambda: set(psutil.Process().children()) <= children)
    assert set(os.listdir("/proc/self/fd")) <= descriptors


async def worker_pid(pool: DecodeWorkers) -> int:
    return int.from_bytes((await pool.decode(b"pid"))[0, 0].tobytes(), "little")


def picture(width: int = 48, height: int = 32) -> tuple[bytes, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue(), pixels


async def test_a_picture_comes_back() -> None:
    data, pixels = picture()
    pool = DecodeWorkers()
    try:
        result = await pool.decode(data)
        assert result.dtype == np.uint8 and result.flags.writeable
        assert np.array_equal(result, pixels)
        results = await asyncio.gather(*(pool.decode(data) for _ in range(8)))
        assert all(np.array_equal(result, pixels) for result in results)
        with pytest.raises(InvalidImage, match="GIF is not supported") as caught:
            await pool.decode(b"GIF89a")
        assert caught.value.details == {"field": "image", "allowed": ["JPEG", "PNG", "WEBP"]}
    finally:
        pool.close()
    result[0, 0] = 0  # the pixels outlive their worker
    assert np.array_equal(result[1:], pixels[1:])


async def test_a_large_picture_comes_back_whole(start: Start) -> None:
    data, pixels = picture(1500, 1111)
    pool = start(ImageLimits(), function="zoetrope_server.media.decode:decode_image")
    assert np.array_equal(await pool.decode(data), pixels)


async def test_a_picture_is_measured_in_a_worker_beside_decoding(start: Start) -> None:
    data, pixels = picture(70, 50)
    pool = start(workers=1, function="zoetrope_server.media.decode:decode_image")
    for _ in range(2):
        assert await pool.measure(data) == (50, 70)
        assert np.array_equal(await pool.decode(data), pixels)
        with pytest.raises(InvalidImage, match="GIF is not supported"):
            await pool.measure(b"GIF89a")
        with pytest.raises(InvalidImage, match="empty"):
            await pool.measure(b"")


@pytest.mark.parametrize(
    "reply",
    [
        {"size": [0, 5]},
        {"size": [9000, 9000]},
        {"size": [5]},
        {"size": "ab"},
        {"size": 5},
        {},
        {"size": [1, None]},
    ],
    ids=str,
)
def test_a_size_that_no_picture_has_is_no_answer(reply: dict[str, object]) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        answers.size(reply, [], LIMITS)


FATAL = {
    "sleep": "took longer than 2 s",
    "lock": "took longer than 2 s",
    "exit": "crashed",
    "kill": "crashed",
    "crash": "crashed",
    "shape": "crashed",
    "allocate": "more memory",
    "fail": "cannot be decoded",
    "refuse": "no such picture",
}


@pytest.mark.parametrize("command", FATAL)
async def test_a_hostile_image_hurts_only_itself(start: Start, command: str) -> None:
    pool = start()
    images = [b"fine" + b"." * number for number in range(3)]
    results = await asyncio.gather(
        pool.decode(images[0]),
        pool.decode(command.encode()),
        pool.decode(images[1]),
        pool.decode(images[2]),
        return_exceptions=True,
    )
    error = results.pop(1)
    assert isinstance(error, InvalidImage) and FATAL[command] in error.message
    assert error.details["field"] == "image"
    assert [int(result[0, 0, 0]) for result in results] == [4, 5, 6]  # type: ignore[index]
    for _ in range(2):  # both workers, the replaced one and the other
        with pytest.raises(InvalidImage, match=FATAL[command]):
            await pool.decode(command.encode())
        assert (await pool.decode(b"fine"))[0, 0, 0] == 4


async def test_a_refusal_does_not_cost_a_worker(start: Start) -> None:
    pool = start(workers=1)
    first = await worker_pid(pool)
    for command in (b"refuse", b"fail", b"refuse"):
        with pytest.raises(InvalidImage):
            await pool.decode(command)
    assert await worker_pid(pool) == first
    with pytest.raises(InvalidImage):
        await pool.decode(b"exit")
    assert await worker_pid(pool) != first


async def test_details_of_a_refusal_survive(start: Start) -> None:
    with pytest.raises(InvalidImage) as caught:
        await start().decode(b"refuse")
    assert caught.value.details == {"field": "image", "value": 7}


async def test_time_spent_waiting_does_not_count(start: Start) -> None:
    """Eight images of 0.3 s take a single worker longer than its limit of 2 s an image."""
    pool = start(workers=1)
    results = await asyncio.gather(*(pool.decode(b"brief") for _ in range(8)))
    assert len(results) == 8


@pytest.mark.serial
async def test_workers_work_at_the_same_time(start: Start) -> None:
    pool = start(ImageLimits(timeout_s=20), workers=3)
    await asyncio.gather(*(pool.decode(b"brief") for _ in range(3)))  # all are ready now
    began = time.monotonic()
    await asyncio.gather(*(pool.decode(b"second") for _ in range(3)))
    assert time.monotonic() - began < 2.2


async def test_a_blocked_event_loop_is_not_a_slow_image(start: Start) -> None:
    pool = start()
    await pool.decode(b"fine")
    task = asyncio.ensure_future(pool.decode(b"brief"))
    await asyncio.sleep(0.01)
    time.sleep(2.2)
    assert (await task)[0, 0, 0] == 5


async def test_memory_is_counted_from_the_idle_worker(start: Start) -> None:
    data, pixels = picture(2000, 1000)
    function = "zoetrope_server.media.decode:decode_image"
    tight = start(ImageLimits(memory_bytes=8 * 2**20), function=function, workers=1)
    for _ in range(3):
        with pytest.raises(InvalidImage, match="memory"):
            await tight.decode(data)
        small, expected = picture()
        assert np.array_equal(await tight.decode(small), expected)
    wide = start(ImageLimits(memory_bytes=64 * 2**20), function=function, workers=1)
    assert np.array_equal(await wide.decode(data), pixels)


async def test_bytes_are_counted_before_anything_else(start: Start) -> None:
    pool = start(ImageLimits(max_bytes=10))
    with pytest.raises(InvalidImage, match="at most 10"):
        await pool.decode(b"eleven bytes")
    with pytest.raises(InvalidImage, match="empty"):
        await pool.decode(b"")


async def test_cancelling_ends_the_work(start: Start) -> None:
    pool = start(ImageLimits(timeout_s=50), workers=1)
    pid = await worker_pid(pool)
    task = asyncio.ensure_future(pool.decode(b"sleep"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until_async(lambda: not psutil.pid_exists(pid))
    assert (await pool.decode(b"fine"))[0, 0, 0] == 4


async def test_cancelling_while_waiting_loses_no_worker(start: Start) -> None:
    pool = start(workers=1)
    pid = await worker_pid(pool)
    busy = asyncio.ensure_future(pool.decode(b"brief"))
    await asyncio.sleep(0)  # it has the worker
    waiting = [asyncio.ensure_future(pool.decode(b"fine")) for _ in range(5)]
    await asyncio.sleep(0)  # they wait for it
    for task in waiting:
        task.cancel()
    await busy
    assert all(
        isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*waiting, return_exceptions=True)
    )
    assert await worker_pid(pool) == pid


async def test_cancelling_before_the_worker_is_ready(start: Start) -> None:
    pool = start(workers=1)
    task = asyncio.ensure_future(pool.decode(b"fine"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.decode(b"fine"))[0, 0, 0] == 4


async def test_a_worker_killed_while_idle_is_replaced_unnoticed(start: Start) -> None:
    pool = start(workers=1)
    pid = await worker_pid(pool)
    os.kill(pid, signal.SIGKILL)
    # All of its threads: the process can only be waited for once the last one has gone.
    await wait_until_async(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    await wait_until_async(lambda: len(os.listdir(f"/proc/{pid}/task")) == 1)
    assert (await pool.decode(b"fine"))[0, 0, 0] == 4


async def test_signals_for_the_group_do_not_reach_the_workers(start: Start) -> None:
    """A terminal's Ctrl-C, or an orderly stop that drains first, is the parent's business."""
    pool = start(workers=1)
    pid = await worker_pid(pool)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    await asyncio.sleep(0.1)
    assert await worker_pid(pool) == pid


async def test_closing(start: Start) -> None:
    pool = start(ImageLimits(timeout_s=50))
    idle = start()
    busy = asyncio.ensure_future(pool.decode(b"sleep"))
    waiting = [asyncio.ensure_future(pool.decode(b"sleep")) for _ in range(3)]
    await asyncio.sleep(0.5)
    pool.close()
    idle.close()
    pool.close()
    for result in await asyncio.gather(busy, *waiting, return_exceptions=True):
        assert isinstance(result, MediaFailed) and "shut down" in result.message
    with pytest.raises(MediaFailed, match="shut down"):
        await pool.decode(b"fine")


async def test_a_worker_that_cannot_start_is_the_servers_fault(start: Start) -> None:
    pool = start(workers=1, function="no_such_module:decode")
    for _ in range(2):
        with pytest.raises(MediaFailed, match="could not be started"):
            await pool.decode(b"fine")


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MediaFailed, match="no python3"):
        DecodeWorkers()


def test_workers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DecodeWorkers(workers=0)


async def test_a_worker_sees_no_secrets(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    pid = await worker_pid(start())
    assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_a_worker_imports_little(start: Start) -> None:
    pid = await worker_pid(start())
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "numpy" in maps and "PIL" in maps
    for heavy in ("torch", "grpc", "libav", "onnx", "openvino"):
        assert f"/{heavy}" not in maps


async def test_many_images_leave_nothing_behind(start: Start) -> None:
    others = set(psutil.Process().children())
    pool = start(function="zoetrope_server.media.decode:decode_image", workers=1)
    (child,) = set(psutil.Process().children()) - others
    data, _ = picture(400, 300)
    sizes, descriptors = [], []
    for _ in range(3):
        for _ in range(40):
            await pool.decode(data)
            with contextlib.suppress(InvalidImage):
                await pool.decode(data[:-20])
        sizes.append(child.memory_info().vms)
        descriptors.append(child.num_fds())
    assert sizes[-1] <= sizes[0] + 4 * 2**20
    assert len(set(descriptors)) == 1


# ---- a reply from a worker that its image has taken over


def memfd(content: bytes, *, sealable: bool = True) -> int:
    descriptor = os.memfd_create("reply", os.MFD_ALLOW_SEALING if sealable else 0)
    os.write(descriptor, content)
    return descriptor


@pytest.mark.parametrize(
    ("reply", "size", "sealable"),
    [
        ({"shape": [16, 16, 3]}, 16 * 16 * 3 - 1, True),
        ({"shape": [16, 16, 3]}, 16 * 16 * 3, False),
        ({"shape": [-16, -16, 3]}, 16 * 16 * 3, True),
        ({"shape": [16, 16, 4]}, 16 * 16 * 4, True),
        ({"shape": [0, 16, 3]}, 0, True),
        ({"shape": [64, 64, 3]}, 64 * 64 * 3, True),
        ({"shape": ["16", 16, 3]}, 16 * 16 * 3, True),
        ({"shape": 5}, 10, True),
        ({"error": "x"}, 0, True),
        ({"error": "x", "details": {"message": 1}}, 0, True),
        ({}, 0, True),
        ([], 0, True),
    ],
)
def test_a_reply_that_makes_no_sense(reply: object, size: int, sealable: bool) -> None:
    descriptor = memfd(bytes(size), sealable=sealable)
    with pytest.raises((OSError, ValueError, LookupError, TypeError)):
        answers.pixels(reply, [descriptor], ImageLimits(max_pixels=1000))  # type: ignore[arg-type]
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_pixels_cannot_be_changed_or_cut_afterwards() -> None:
    descriptor = memfd(bytes(16 * 16 * 3))
    keep = os.dup(descriptor)
    pixels = answers.pixels({"shape": [16, 16, 3]}, [descriptor], LIMITS)
    for attack in (lambda: os.ftruncate(keep, 0), lambda: os.pwrite(keep, b"x", 0)):
        with pytest.raises(OSError):
            attack()
    os.close(keep)
    assert (pixels == 0).all()


# ---- parents of other kinds


def parent(body: str) -> str:
    return (
        textwrap.dedent(
            """
        import asyncio, os, sys
        from zoetrope_server.media.workers import DecodeWorkers
        from zoetrope_server.media.decode import ImageLimits
        async def main():
        """
        )
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\nasyncio.run(main())\n"
    )


@pytest.mark.parametrize("command", ["sleep", "lock", "idle"])
def test_workers_die_with_a_killed_parent(command: str) -> None:
    script = parent(
        f"""
        limits = ImageLimits(timeout_s=1.0 if {command!r} == "lock" else 50)
        pool = DecodeWorkers(limits, function={HOSTILE!r})
        await pool.decode(b"fine")
        task = asyncio.ensure_future(pool.decode({command.encode()!r}))
        await asyncio.sleep(0.3)
        print("busy", flush=True)
        import time; time.sleep(60)
        """,
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"busy\n"
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.kill()
    gone, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert not alive


def test_a_parent_that_is_no_script(tmp_path: Path) -> None:
    """As in a Triton stub: embedded, so that __main__ has no file and sys.executable misleads."""
    data, _ = picture()
    script = parent(
        f"""
        assert not hasattr(sys.modules["__main__"], "__file__")
        sys.executable = "/no/such/stub"
        pool = DecodeWorkers()
        print((await pool.decode({data!r})).shape)
        pool.close()
        """,
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, cwd=tmp_path, timeout=60
    )
    assert result.stdout == b"(32, 48, 3)\n" and result.stderr == b""


def test_a_loop_in_another_thread() -> None:
    """As in a Triton stub: made in one thread, used by a loop in another."""
    data, _ = picture()
    pool = DecodeWorkers()
    with asyncio.Runner() as runner:
        results: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: results.append(runner.run(pool.decode(data))))
        thread.start()
        thread.join()
    pool.close()
    assert results[0].shape == (32, 48, 3)
