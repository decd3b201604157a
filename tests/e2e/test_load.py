"""More requests than the server takes, and a server that is told to end while it works."""

import json
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from footprint import SHM, Footprint
from rawtriton import PHOTO
from timed_repository import write_timed_repository

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.errors import Draining, Overloaded
from zoetrope_core.events import Done, Heartbeat, Progress

pytestmark = pytest.mark.e2e


class Request(threading.Thread):
    """One request in a thread: what it got, when, and how it ended."""

    def __init__(self, url, **fields):
        super().__init__(daemon=True)
        self.url, self.fields = url, fields
        self.events, self.error, self.seconds = [], None, None
        self.denoising = threading.Event()
        self.steps = 0
        self.start()

    def run(self):
        with Client(self.url) as client:
            client.health()
            began = time.monotonic()
            try:
                for event in client.stream(PHOTO, **self.fields):
                    self.events.append(event)
                    if isinstance(event, Progress) and event.stage == "denoise":
                        self.steps = event.step
                        self.denoising.set()
            except Exception as error:
                self.error = error
            self.seconds = time.monotonic() - began

    @property
    def done(self):
        return bool(self.events) and isinstance(self.events[-1], Done)


def finish(requests, seconds=200):
    limit = time.monotonic() + seconds
    for request in requests:
        request.join(max(0.0, limit - time.monotonic()))
        assert not request.is_alive(), "a request hangs"


def refusal_seconds(log):
    """How long each refused request was in the server, by the server's log."""
    lines = [
        json.loads(line[line.index("{") :]) for line in log.read_text().splitlines() if '"outcome"' in line
    ]
    return [line["seconds"] for line in lines if line["outcome"] == "overloaded"]


def test_32_requests_at_once(timed_repository, tmp_path):
    flags = ("--max-active", "4", "--max-waiting", "8")
    with serving(timed_repository, tmp_path / "log", *flags) as server:
        finish([Request(server.url, num_inference_steps=1) for _ in range(4)])
        orchestrator = next(
            child
            for child in psutil.Process(server.ports["triton_pid"]).children()
            if "/image_to_video/" in " ".join(child.cmdline())
        )
        before = orchestrator.memory_info().rss, orchestrator.num_threads()
        requests = [Request(server.url, num_inference_steps=12) for _ in range(32)]
        finish(requests)
        refused = [request for request in requests if isinstance(request.error, Overloaded)]
        assert [sum(request.done for request in requests), len(refused)] == [12, 20]
        assert all(request.error.details["retry_after_s"] >= 1 for request in refused)
        assert max(request.seconds for request in refused) < 2.0, "32 clients share the cores with the server"
        assert max(refusal_seconds(server.log)) < 0.1
        assert any(isinstance(event, Heartbeat) for each in requests for event in each.events)
        finish([Request(server.url, num_inference_steps=1) for _ in range(4)])
        after = orchestrator.memory_info().rss, orchestrator.num_threads()
        assert after[0] < before[0] + 64e6 and after[1] <= before[1] + 8, (before, after)


@pytest.mark.serial
def test_a_short_request_gets_its_share_beside_long_ones(noop_manifest, tmp_path):
    """Steps of one execution each go in turns, so a short request waits for one step of each other a step.

    With n running it needs n times the time of its own steps, and each long one makes as many steps
    meanwhile. Were it behind them, it would wait for 3 x 110 steps or more.
    """
    one_at_a_time = replace(noop_manifest, max_batch_size=1)
    repository = write_timed_repository(tmp_path / "repository", one_at_a_time, step_seconds=0.02)
    with serving(repository, tmp_path / "log", "--max-active", "4") as server:
        finish([Request(server.url, num_inference_steps=1)])
        long = [Request(server.url, num_inference_steps=120, seed=seed) for seed in range(3)]
        assert all(request.denoising.wait(30) for request in long)
        before = [request.steps for request in long]
        short = Request(server.url, num_inference_steps=20)
        assert short.denoising.wait(30)
        began = [request.steps for request in long]
        finish([short])
        ended = [request.steps for request in long]
        assert short.done and all(request.is_alive() for request in long), "it does not wait for their end"
        turns = [after - then for after, then in zip(ended, began, strict=True)]
        assert all(10 <= made <= 35 for made in turns), (
            f"20 steps beside {turns}: one to one, with its decoding"
        )
        share = 4 * 20 * 0.02
        assert short.events[-1].timings["denoise"] < 1.5 * share, "half of it is slack for slow cores"
        assert sum(ended) - sum(before) < 3 * 20 * 2.5, "nor does its beginning take long"
        finish(long)
        assert all(request.done for request in long)


def test_sigterm_lets_three_videos_finish_and_refuses_a_fourth(timed_repository, tmp_path):
    with serving(timed_repository, tmp_path / "log") as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        running = [Request(server.url, num_inference_steps=60, seed=seed) for seed in range(3)]
        assert all(request.denoising.wait(30) for request in running)
        server.process.send_signal(signal.SIGTERM)
        late, limit = Request(server.url, num_inference_steps=1), time.monotonic() + 20
        late.join(20)
        while not isinstance(late.error, Draining) and time.monotonic() < limit:
            late = Request(server.url, num_inference_steps=1)  # the signal may still be on its way
            late.join(20)
        finish(running)
        assert isinstance(late.error, Draining)
        assert [request.done for request in running] == [True, True, True]
        assert server.process.wait(60) == 0
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]


@pytest.mark.parametrize("victim", ["unet", "image_to_video", "tritonserver"])
def test_a_killed_process_ends_requests_and_the_server(timed_repository, tmp_path, victim):
    with serving(timed_repository, tmp_path / "log", "--no-restart") as server:
        triton = psutil.Process(server.ports["triton_pid"])
        models = {Path(child.cmdline()[1]).parts[-3]: child for child in triton.children()}
        prefix = Footprint(server).prefix
        request = Request(server.url, num_inference_steps=200)
        assert request.denoising.wait(30)
        assert list(SHM.glob(f"{prefix}*"))
        killed = time.monotonic()
        (triton if victim == "tritonserver" else models[victim]).kill()
        request.join(30)
        assert not request.is_alive() and request.error is not None
        assert time.monotonic() - killed < 2
        assert server.process.wait(30) != 0
    assert not list(SHM.glob(f"{prefix}*"))
