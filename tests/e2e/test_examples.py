"""The examples for other languages and for backends, as a user runs them, against the real server."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from metrics import active, busy
from rawtriton import PHOTO
from waiting import wait_until, wait_until_async

pytestmark = pytest.mark.e2e
EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = '{"seed": 7, "num_inference_steps": 4}'


def is_mp4(path):
    return path.read_bytes()[4:8] == b"ftyp"


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory):
    """The Node example with its packages."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ran = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=200)
    if ran.returncode and any(code in ran.stderr for code in ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT")):
        pytest.skip(f"npm cannot reach its registry: {ran.stderr[-200:]}")
    assert ran.returncode == 0, ran.stderr[-2000:]

    return folder


@pytest.fixture(scope="module")
def node(node_folder):
    """Runs `generate.js` with more arguments."""

    def start(*arguments):
        command = ["node", str(node_folder / "generate.js"), str(PHOTO), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_node_streams_progress_previews_and_the_video(node, server, client, tmp_path):
    preview, video = tmp_path / "newest.webp", tmp_path / "video.mp4"
    process = node(video, "--url", server.url, "--request", SHORT, "--preview", preview)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "denoise 0/4" in stderr and "denoise 4/4" in stderr
    assert json.loads(stdout)["seed"] == 7
    assert preview.read_bytes()[8:12] == b"WEBP"
    assert video.read_bytes() == client.generate(PHOTO, seed=7, num_inference_steps=4).data


def test_node_keeps_no_preview_that_is_not_asked_for(node, server, tmp_path):
    request = '{"num_inference_steps": 4, "preview_every": 2}'
    process = node(tmp_path / "video.mp4", "--url", server.url, "--request", request)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"] and is_mp4(tmp_path / "video.mp4")


ABORTED = """
import { connect, stream } from './zoetrope.js';
const client = connect('127.0.0.1:1');
try {
  const events = stream(client, Buffer.from('x'), {}, { signal: AbortSignal.abort() });
  for await (const event of events) console.log(event);
} catch (error) {
  console.log(error.name);
} finally {
  client.close();
}
"""


def test_a_signal_of_node_that_is_aborted_already_sends_nothing(node_folder):
    command = ["node", "--input-type=module", "--eval", ABORTED]
    ran = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("AbortError\n", "")


def test_node_reports_errors(node, single_server, tmp_path):
    process = node(tmp_path / "v.mp4", "--url", single_server.url, "--request", '{"fps": 0}')
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "fps: got 0" in stderr
    process = node(tmp_path / "v.mp4", "--url", "127.0.0.1:1")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "failed: " in stderr
    process = node(
        tmp_path / "v.mp4",
        "--url",
        single_server.url,
        "--request",
        '{"deadline_s": 0.3, "num_inference_steps": 200}',
    )
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "eadline" in stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_node_cancels_on_the_server(node, single_server, tmp_path):
    wait_until(lambda: active(single_server) == 0)
    process = node(
        tmp_path / "v.mp4", "--url", single_server.url, "--request", '{"num_inference_steps": 200}'
    )
    wait_until(lambda: active(single_server) == 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130 and "interrupted" in stderr
    wait_until(lambda: active(single_server) == 0, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def curl(tmp_path):
    """Runs one of the curl examples."""
    for program in ("curl", "bash"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")

    def run(script, server, *arguments):
        environment = {**os.environ, "ZOETROPE_HTTP_URL": f"http://{server.ports['http']}"}
        command = ["bash", str(EXAMPLES / "curl" / script), str(PHOTO), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("script", ["unary.sh", "stream.sh"])
def test_curl_gets_the_video(curl, server, client, tmp_path, script):
    ran = curl(script, server, tmp_path / "v.mp4", SHORT)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "v.mp4").read_bytes() == client.generate(PHOTO, seed=7, num_inference_steps=4).data
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
    if script == "stream.sh":
        events = [json.loads(line) for line in ran.stderr.splitlines()]
        kinds = [event["type"] for event in events]
        assert kinds[0] == "accepted" and kinds[-1] == "done" and kinds.count("progress") >= 4


@pytest.mark.parametrize("script", ["unary.sh", "stream.sh"])
def test_curl_says_what_is_wrong(curl, server, tmp_path, script):
    ran = curl(script, server, tmp_path / "v.mp4", '{"fps": 0}')
    assert ran.returncode == 1 and "fps: got 0" in ran.stderr
    assert list(tmp_path.iterdir()) == []


@contextmanager
def backend(server, log):
    """The FastAPI example under uvicorn; yields its address."""
    environment = {**os.environ, "ZOETROPE_URL": server.url}
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "fastapi_backend:app",
        "--app-dir",
        str(EXAMPLES),
        "--port",
        "0",
    ]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stderr=file)
    try:
        wait_until(lambda: "Uvicorn running on" in log.read_text(), 30)
        yield log.read_text().split("Uvicorn running on ")[1].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def events_of(text):
    """The server-sent events of a whole answer."""
    for block in filter(None, text.split("\n\n")):
        kind, data = block.split("\n")
        yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_the_backend_streams_progress_onward_and_keeps_the_video(server, client, tmp_path):
    with backend(server, tmp_path / "log") as url, httpx.Client(base_url=url, timeout=60) as browser:
        answer = browser.post("/videos?seed=7&steps=4", content=PHOTO.read_bytes())
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(answer.text))
        assert events[0][0] == "accepted" and events[-1][0] == "done"
        assert [body["step"] for _, body in events if body.get("stage") == "denoise"] == [0, 1, 2, 3, 4]
        video = browser.get(events[-1][1]["video"])
        assert video.headers["content-type"] == "video/mp4"
        assert video.content == client.generate(PHOTO, seed=7, num_inference_steps=4).data
        assert browser.get("/videos/nothing").status_code == 404
        wrong = list(events_of(browser.post("/videos", content=b"no picture").text))
        assert [kind for kind, _ in wrong][-1] == "error" and wrong[-1][1]["code"] == "invalid_image"
        assert browser.post("/videos?steps=0", content=b"").status_code == 422
        assert browser.post("/videos", content=b"").status_code == 422, "an empty picture is found at once"
        assert browser.post(f"/videos?seed={2**63}", content=b"x").status_code == 422


async def test_a_browser_that_leaves_cancels_and_a_full_server_is_503(single_server, tmp_path):
    with backend(single_server, tmp_path / "log") as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as browser:
            async with browser.stream("POST", "/videos?steps=50", content=PHOTO.read_bytes()) as answer:
                lines = answer.aiter_lines()
                while not (await anext(lines)).startswith("event: progress"):
                    pass
                assert active(single_server) == 1
                waiting = asyncio.create_task(browser.post("/videos?steps=50", content=PHOTO.read_bytes()))
                await wait_until_async(lambda: busy(single_server) == 2)
                refused = await browser.post("/videos?steps=1", content=PHOTO.read_bytes())
                assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
                waiting.cancel()
            left = time.monotonic()
            await wait_until_async(lambda: busy(single_server) == 0, 5)
            assert time.monotonic() - left < 1.5, "50 steps take 2.5 s"
        log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
