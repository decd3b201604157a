"""`zoetrope serve` over the packages of part a: one video, two at once, and one that is cancelled."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from zoetrope_bench.gpu.device import Device
from zoetrope_bench.gpu.engines import repository
from zoetrope_bench.gpu.record import Record, Step

_STEPS = 10
_END_S = 20.0


def steps(record: Record, device: Device, scratch: Path) -> list[Step]:
    """See the module."""
    return [("a server", lambda: _serve(record, device, scratch))]


@contextmanager
def _server(place: Path, log: Path) -> Iterator[str]:
    """HOST:PORT of a server of the repository."""
    ports = [word for name in ("grpc", "http", "metrics", "health") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "zoetrope_client", "serve", str(place), *ports]
    with log.open("w") as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"no server: {log.read_text()[-1500:]}")
            yield str(json.loads(line)["grpc"])
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _serve(record: Record, device: Device, scratch: Path) -> None:
    place, began = repository(scratch, toy=device.toy), time.monotonic()
    with _server(place, scratch / "server.log") as url:
        record.add("until it is ready", time.monotonic() - began, "s")
        _one(record, url)
        _two(record, url)
        _cancel(record, url)


def _image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _one(record: Record, url: str) -> None:
    from zoetrope_client import Client

    with Client(url) as client:
        videos = [client.generate(_image(), seed=1, num_inference_steps=_STEPS) for _ in range(3)]
    record.check("equal seeds give equal videos", len({video.data for video in videos}) == 1)
    for stage, seconds in videos[-1].timings.items():
        record.add(f"one video, {stage}", seconds * 1000, "ms")


def _two(record: Record, url: str) -> None:
    from zoetrope_client import Client

    done: list[int] = []

    def generate(seed: int) -> None:
        with Client(url) as client:
            client.generate(_image(), seed=seed, num_inference_steps=_STEPS)
        done.append(seed)

    began = time.monotonic()
    threads = [threading.Thread(target=generate, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record.check("two at once", len(done) == 2)
    record.add("two at once", (time.monotonic() - began) * 1000, "ms")


def _cancel(record: Record, url: str) -> None:
    from zoetrope_client import Client

    with Client(url) as client:
        events = client.stream(_image(), num_inference_steps=100)
        next(iter(events))
        events.close()
        began = time.monotonic()
        client.generate(_image(), seed=2, num_inference_steps=1)
    record.add("one step after a cancellation", (time.monotonic() - began) * 1000, "ms")
