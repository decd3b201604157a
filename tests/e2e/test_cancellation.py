"""A client may leave at any point: what it asked for ends within one call, and nothing of it stays."""

import threading
import time

import pytest
from footprint import Footprint
from rawtriton import PHOTO, settled
from timed_repository import write_timed_repository

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.events import Accepted, Heartbeat, Progress

pytestmark = pytest.mark.e2e

STEP_SECONDS = 0.05
STEPS = 30
POINTS = ("accepted", "decode_image", "encode_image", "encode_latents", "denoise", "decode", "encode_video")


@pytest.fixture(scope="module")
def server(tmp_path_factory, noop_manifest):
    """One request at a time; a step takes a known time."""
    folder = tmp_path_factory.mktemp("timed")
    repository = write_timed_repository(folder / "repository", noop_manifest, step_seconds=STEP_SECONDS)
    with serving(repository, folder / "log", "--max-active", "1", "--max-waiting", "2") as running:
        yield running


@pytest.fixture(scope="module")
def footprint(server):
    """What the server holds, once everything was used."""
    with Client(server.url) as client:
        client.generate(PHOTO, num_inference_steps=2)
    return Footprint(server)


def leave(client, point, **request):
    """Asks for a video and leaves at a point of its way."""
    for event in client.stream(PHOTO, num_inference_steps=STEPS, **request):
        if isinstance(event, Progress):
            reached = event.stage == point
        else:
            reached = isinstance(event, Heartbeat if point == "queued" else Accepted)
            reached = reached and point in ("queued", "accepted")
        if reached:
            return
    raise AssertionError(f"{point} was never reached")


def idle_after(footprint):
    """Seconds until the server has nothing to do."""
    began = time.monotonic()
    while not footprint.control.status().idle:
        assert time.monotonic() - began < 10, "the server is not free"
        time.sleep(0.01)
    return time.monotonic() - began


def held(footprint):
    """Open files and shared memory, which a request that is gone must not hold."""
    return {key: amount for key, amount in footprint.read().items() if key[1] in ("files", "shm files")}


def assert_nothing_stays(footprint, before):
    """Nothing is held beyond what was; connections take a moment to close."""
    end = time.monotonic() + 10
    while grown := {key: now for key, now in held(footprint).items() if now > before.get(key, 0)}:
        assert time.monotonic() < end, (grown, before)
        time.sleep(0.1)


@pytest.mark.parametrize("point", POINTS)
def test_the_engine_is_free_within_one_call(server, footprint, point):
    steps = settled(server)
    before = held(footprint)
    with Client(server.url) as client:
        leave(client, point)
        freed = idle_after(footprint)
        # A step or less to end the call under way; the rest is a busy machine's.
        assert freed < STEP_SECONDS + 1.0
        ran = settled(server) - steps
        assert ran == STEPS if point in ("decode", "encode_video") else ran <= 3
        assert client.generate(PHOTO, num_inference_steps=1).data
    idle_after(footprint)
    assert_nothing_stays(footprint, before)


def test_who_leaves_the_queue_never_runs(server, footprint):
    steps, before = settled(server), held(footprint)
    with Client(server.url) as client, Client(server.url) as other:
        running = threading.Thread(target=lambda: client.generate(PHOTO, num_inference_steps=2 * STEPS))
        running.start()
        time.sleep(0.3)
        leave(other, "queued")
        end = time.monotonic() + 2.0
        while footprint.control.status().waiting:
            assert time.monotonic() < end, "the place in the queue is kept"
            time.sleep(0.01)
        running.join(30)
    assert settled(server) - steps == 2 * STEPS
    assert_nothing_stays(footprint, before)
