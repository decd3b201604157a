"""The clients against the real server: deadlines, cancelling, many streams, a server that dies."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import aclosing, closing
from pathlib import Path

import psutil
import pytest
from fakes import png
from metrics import busy, metric
from rawtriton import PHOTO
from waiting import wait_until, wait_until_async

from zoetrope_bench.server import Server
from zoetrope_client import (
    Accepted,
    AsyncClient,
    Client,
    ConnectionLost,
    Done,
    Fragment,
    Frames,
    Heartbeat,
    Metadata,
    Preview,
    Progress,
    Retry,
    ServerUnavailable,
)
from zoetrope_client.errors import Cancelled, DeadlineExceeded, Overloaded
from zoetrope_core.formats import FORMATS
from zoetrope_core.request import field_rules

pytestmark = pytest.mark.e2e
LONG = {"num_inference_steps": 200}


def test_a_deadline_ends_the_request_on_both_sides(timed_server):
    with Client(timed_server.url) as client:
        client.generate(PHOTO, num_inference_steps=1)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.generate(PHOTO, deadline_s=0.5, **LONG)
        assert time.monotonic() - began < 3
        wait_until(lambda: busy(timed_server) == 0, 3)


async def test_every_way_of_leaving_frees_the_server(timed_server):
    async with AsyncClient(timed_server.url) as client:
        task = asyncio.create_task(client.generate(PHOTO, **LONG))
        await wait_until_async(lambda: busy(timed_server) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until_async(lambda: busy(timed_server) == 0, 3)
        async with aclosing(client.stream(PHOTO, **LONG)) as events:
            async for event in events:
                if isinstance(event, Progress) and event.step == 1:
                    break
        await wait_until_async(lambda: busy(timed_server) == 0, 3)


@pytest.mark.parametrize("way", ["break", "close", "client"])
def test_every_way_of_leaving_the_synchronous_client_frees_the_server(timed_server, way):
    with Client(timed_server.url) as client:
        events = client.stream(PHOTO, **LONG)
        for event in events:
            if isinstance(event, Progress) and event.step == 1:
                break
        assert busy(timed_server) == 1
        if way == "break":
            del events
        elif way == "close":
            events.close()
        else:
            client.close()
        wait_until(lambda: busy(timed_server) == 0, 3)
        if way == "client":
            with pytest.raises(Cancelled):
                list(events)


def test_a_refusal_is_raised_or_waited_out(timed_server):
    """Two run and two wait, so the fifth is refused, and told when to come again."""
    with Client(timed_server.url) as client, contextlib.ExitStack() as held:
        for _ in range(4):
            events = held.enter_context(closing(client.stream(PHOTO, num_inference_steps=40)))
            next(events)  # `Accepted`, or `Heartbeat` of those that wait
        assert busy(timed_server) == 4
        with pytest.raises(Overloaded) as raised:
            client.generate(PHOTO, num_inference_steps=1)
        assert raised.value.details["retry_after_s"] >= 1
        with pytest.raises(Overloaded):
            client.generate(PHOTO, num_inference_steps=1, patience_s=0.5)
        began = time.monotonic()
        assert client.generate(PHOTO, num_inference_steps=1, patience_s=60).data
        assert time.monotonic() - began >= 1
    wait_until(lambda: busy(timed_server) == 0, 3)


async def test_fifty_streams_at_once_over_one_connection(roomy_server):
    async def watch(client, seed):
        kinds = [type(event) async for event in client.stream(png(), seed=seed, num_inference_steps=4)]
        return kinds[0], kinds[-1], kinds.count(Progress) > 4

    async with AsyncClient(roomy_server.url) as client:
        found = await asyncio.gather(*(watch(client, seed) for seed in range(50)))
    assert [last for _, last, _ in found] == [Done] * 50 and all(steps for *_, steps in found)
    assert {first for first, *_ in found} <= {Accepted, Heartbeat}
    assert busy(roomy_server) == 0


def test_metadata_says_what_the_server_can_do(roomy_server, noop_manifest):
    with Client(roomy_server.url) as client:
        told = client.metadata()
    assert (told.checkpoint, told.engine, told.sizes) == (
        noop_manifest.checkpoint, noop_manifest.engine, noop_manifest.sizes,
    )  # fmt: skip
    assert (told.limits.max_active, told.limits.max_waiting) == (8, 64)
    assert told.samplers == field_rules()["sampler"].choices and set(told.formats) == set(FORMATS)
    url = f"http://{roomy_server.ports['http']}/v2/models/image_to_video/config"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = json.load(answer)["parameters"]["zoetrope"]["string_value"]
    assert Metadata.from_json(text) == told


def test_what_the_metadata_offers_is_served(server, client):
    """A repository that is older than metadata has it too: the server says it, not the export."""
    assert "zoetrope" not in (server_config(server)).read_text()
    told = client.metadata()
    height, width = told.sizes[0]
    fields = {"width": width, "height": height, "num_frames": told.num_frames[0], "num_inference_steps": 1}
    for sampler in told.samplers:
        video = client.generate(PHOTO, sampler=sampler, max_guidance_scale=1.0, **fields)
        assert video.parameters["sampler"] == sampler
    kinds = {
        type(each)
        for each in client.stream(PHOTO, preview_every=1, stream_frames=True, num_inference_steps=4)
    }
    assert kinds == {Accepted, Progress, Preview, Frames, Fragment, Done} and told.previews


def server_config(server):
    """The entry model's configuration as it was exported."""
    return Path(server.process.args[2]) / "image_to_video" / "config.pbtxt"


def test_gzip_and_headers_reach_the_server(roomy_server):
    asked = []

    def headers():
        asked.append(True)
        return {"Authorization": "Bearer x", "trace-bin": b"\x00\xff"}

    with Client(roomy_server.url, compression="gzip", headers=headers) as client:
        plain = client.generate(png(), seed=3, num_inference_steps=1)
        assert client.generate(png(), seed=3, num_inference_steps=1).data == plain.data
    assert len(asked) == 2, "asked anew for each call"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def start(repository, port, log):
    """A server at a port that is known before; the caller ends it."""
    command = [str(Path(sys.executable).parent / "zoetrope"), "serve", str(repository)]
    ports = ["--grpc-port", str(port), "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    with log.open("w") as stderr:
        process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=stderr, text=True)
    return process


def ready(process, log):
    line = process.stdout.readline()
    assert line, log.read_text()[-2000:]
    return Server(process=process, ports=json.loads(line), log=log)


def kill(server):
    """As a machine that loses its power: supervisor and Triton at once."""
    for pid in (server.ports["pid"], server.ports["triton_pid"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    server.process.stdout.close()


def test_a_server_that_is_killed_and_started_again(timed_repository, tmp_path):
    """Before its first response a call is tried again; after it never."""
    port, log = free_port(), tmp_path / "log"
    patient = Retry(attempts=200, first_s=0.2, longest_s=0.5)
    first = ready(start(timed_repository, port, log), log)
    with Client(f"127.0.0.1:{port}", retry=patient) as client:
        events = client.stream(PHOTO, **LONG)
        for event in events:
            if isinstance(event, Progress) and event.step == 1:
                break
        kill(first)
        with pytest.raises(ConnectionLost):
            list(events)
        with Client(f"127.0.0.1:{port}") as hasty, pytest.raises(ServerUnavailable):
            hasty.generate(PHOTO, num_inference_steps=1)
        process = start(timed_repository, port, log)
        try:
            # The server is still loading: nothing listens, or Triton is not ready yet.
            video = client.generate(PHOTO, num_inference_steps=1, seed=9)
            assert video.seed == 9
        finally:
            again = ready(process, log)
            again.stop()
            process.stdout.close()


def test_ctrl_c_during_several_pictures_leaves_nothing(timed_server, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(png())
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "zoetrope_client", "generate", str(tmp_path / "*.png"), "-o", f"{out}/"]
    more = ["--url", timed_server.url, "--num-inference-steps", "200", "--jobs", "3"]
    process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: busy(timed_server) == 3, 20)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "zoetrope generate: interrupted, what was asked for is cancelled\n"
    wait_until(lambda: busy(timed_server) == 0, 3)
    assert list(out.iterdir()) == []
    assert not psutil.pid_exists(process.pid)


def test_several_pictures_come_side_by_side(timed_server, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png())
    (tmp_path / "c.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "zoetrope_client", "generate", str(tmp_path / "*.png"), "--json"]
    where = [
        "-o",
        str(tmp_path / "{index}-{name}.webm"),
        "--url",
        timed_server.url,
        "--num-inference-steps",
        "60",
    ]
    process = subprocess.Popen([*command, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: metric(timed_server, "zoetrope_active_requests") == 2)
    stdout, stderr = process.communicate(timeout=60)
    lines = {Path(line["image"]).stem: line for line in map(json.loads, stdout.splitlines())}
    assert process.returncode == 4 and set(lines) == {"a", "b", "c"}
    assert lines["c"]["error"]["code"] == "invalid_image" and "c.png: the data is not an image" in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1-a.webm", "2-b.webm", "a.png", "b.png", "c.png",
    ]  # fmt: skip
