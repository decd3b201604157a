"""The unary twin and the HTTP ways in."""

import base64
import json
import threading
import urllib.error
import urllib.request

import pytest
from rawtriton import PHOTO, counts, raw_inputs, settled
from tritonclient import grpc as triton
from waiting import wait_until

from zoetrope_client import Metadata
from zoetrope_core import events
from zoetrope_core.events import Done

pytestmark = pytest.mark.e2e


def post(server, path, body):
    """The HTTP status and the parsed or raw answer."""
    request = urllib.request.Request(
        f"http://{server.ports['http']}/v2/models/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def body(**fields):
    return {"image": base64.b64encode(PHOTO.read_bytes()).decode(), "request": json.dumps(fields)}


def test_model_infer_gives_the_video_in_one_response(server, client):
    with triton.InferenceServerClient(server.url) as connection:
        result = connection.infer("image_to_video_unary", raw_inputs(seed=4, num_inference_steps=2))
    done = events.from_json(result.as_numpy("event")[0])
    assert isinstance(done, Done) and done.seed == 4
    assert result.as_numpy("video")[0] == client.generate(PHOTO, seed=4, num_inference_steps=2).data


def test_model_infer_reports_errors_with_their_status(server):
    with (
        triton.InferenceServerClient(server.url) as connection,
        pytest.raises(triton.InferenceServerException) as caught,
    ):
        connection.infer("image_to_video_unary", raw_inputs(num_frames=7))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "num_frames: got 7" in caught.value.message()


def test_generate_takes_and_gives_base64(server, client):
    status, answer = post(server, "image_to_video_unary/generate", body(seed=4, num_inference_steps=2))
    assert status == 200
    answer = json.loads(answer)
    video = base64.b64decode(answer["video"], validate=True)
    assert video == client.generate(PHOTO, seed=4, num_inference_steps=2).data
    assert json.loads(answer["event"])["type"] == "done"


def test_metadata_is_in_the_configuration_over_http(server, client):
    url = f"http://{server.ports['http']}/v2/models/image_to_video/config"
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = json.load(answer)["parameters"]["zoetrope"]["string_value"]
    assert Metadata.from_json(text) == client.metadata()


def test_infer_over_http_works(server):
    values = body(seed=4, num_inference_steps=1)
    inputs = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name, text in values.items()
    ]
    status, answer = post(server, "image_to_video_unary/infer", {"inputs": inputs})
    outputs = {output["name"]: output["data"][0] for output in json.loads(answer)["outputs"]}
    assert status == 200 and b"ftyp" in base64.b64decode(outputs["video"])[:12]


def test_generate_reports_errors(server):
    status, answer = post(server, "image_to_video_unary/generate", body(fps=0))
    assert status == 400 and "fps: got 0" in json.loads(answer)["error"]


def test_generate_stream_gives_server_sent_events(server):
    status, answer = post(server, "image_to_video/generate_stream", body(seed=4, num_inference_steps=2))
    assert status == 200
    messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: ")]
    kinds = [json.loads(message["event"])["type"] for message in messages if message.get("event")]
    assert kinds[0] == "accepted" and kinds[-1] == "done" and "progress" in kinds
    video = base64.b64decode("".join(message.get("video", "") for message in messages), validate=True)
    assert b"ftyp" in video[:12]


def test_a_video_streamed_to_a_json_client_joins_to_base64(server, client):
    fields = {"seed": 4, "num_inference_steps": 1, "decode_chunk_size": 1, "stream_video": True}
    status, answer = post(server, "image_to_video/generate_stream", body(**fields))
    messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: ")]
    pieces = [message["video"] for message in messages if message.get("video")]
    assert status == 200 and len(pieces) >= 3
    assert base64.b64decode("".join(pieces), validate=True) == client.generate(PHOTO, **fields).data


def test_previews_reach_streams_of_json_and_leave_the_unary_model_alone(server, client):
    fields = {"seed": 4, "num_inference_steps": 8, "preview_every": 2}
    status, answer = post(server, "image_to_video/generate_stream", body(**fields))
    messages = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: ")]
    previews = [message["preview"] for message in messages if message.get("preview")]
    assert status == 200 and previews
    assert all(base64.b64decode(text, validate=True)[8:12] == b"WEBP" for text in previews)
    status, answer = post(server, "image_to_video_unary/generate", body(**fields))
    assert status == 200
    video = base64.b64decode(json.loads(answer)["video"], validate=True)
    assert video == client.generate(PHOTO, **fields).data


def test_a_unary_client_that_gives_up_stops_the_inner_work(server):
    before = settled(server)
    with triton.InferenceServerClient(server.url) as connection:
        context = connection.async_infer(
            "image_to_video_unary", raw_inputs(num_inference_steps=200), lambda result, error: None
        )
        wait_until(lambda: counts(server)[0] >= before + 3, 30)
        seen = counts(server)[0]
        context.cancel()
        assert settled(server) - seen <= 6
    assert seen < before + 100


def test_several_unary_requests_run_side_by_side(server):
    results = []

    def work():
        with triton.InferenceServerClient(server.url) as connection:
            results.append(connection.infer("image_to_video_unary", raw_inputs(num_inference_steps=6)))

    before = counts(server)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    inferences, executions = (now - then for now, then in zip(counts(server), before, strict=True))
    assert len(results) == 4 and inferences == 24 and executions < 22, "they share executions"


def test_a_flood_of_unary_requests_is_refused_beyond_the_queue(server):
    answers = []

    def work():
        answers.append(post(server, "image_to_video_unary/generate", body(num_inference_steps=6)))

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    statuses = [status for status, _ in answers]
    assert 16 <= statuses.count(200) <= 24 and statuses.count(503) == 30 - statuses.count(200)
    assert all("maximum queue size" in answer for status, answer in answers if status == 503)
