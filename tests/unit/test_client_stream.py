"""The sync client: what a stream says, without a socket; and over a real one what only the wire can show."""

import io
import socket
import threading
from contextlib import contextmanager

import grpc
import grpc_server as scripts
import numpy as np
import pytest
from grpc_server import Mocked, serving
from PIL import Image

from zoetrope_client import BadResponse, Client, ConnectionLost, Retry, ServerUnavailable
from zoetrope_client.errors import NotServed, PermissionDenied, Unauthenticated
from zoetrope_client.events import (
    Accepted,
    Done,
    Fragment,
    Frames,
    Heartbeat,
    Preview,
    Progress,
    Warned,
)
from zoetrope_core.contract import Response
from zoetrope_core.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    InvalidImage,
    InvalidRequest,
    MediaFailed,
    NonFinite,
    Overloaded,
    Refused,
    StageLost,
    ZoetropeError,
)
from zoetrope_core.request import GenerateRequest

IMAGE = b"\x89PNG not decoded here"


def client_of(server):
    return Client(server.url)


@contextmanager
def mocked(script):
    """A server without a socket, and its client."""
    server = Mocked(script)
    with Client(transport=server) as client:
        yield server, client


def test_generate_sends_image_and_request_and_puts_the_video_together():
    with serving(scripts.normal) as server, client_of(server) as client:
        video = client.generate(IMAGE, seed=7, fps=12, motion_bucket_id=40)
    assert server.requests == [(IMAGE, GenerateRequest(seed=7, fps=12, motion_bucket_id=40))]
    assert video.data == scripts.video_of(*server.requests[0])
    assert len(video.data) > scripts.TINY_PIECE
    assert (video.id, video.seed, video.timings["total"]) == ("r1", 7, 0.75)
    assert video.parameters["fps"] == 12


def test_warnings_are_kept_and_events_of_a_newer_server_passed_over():
    with mocked(scripts.warning) as (server, client):
        video = client.generate(IMAGE)
        kinds = [type(event) for event in client.stream(IMAGE)]
    assert [each.message for each in video.warnings] == ["far\naway"]
    assert kinds[:2] == [Accepted, Warned] and kinds.count(Accepted) == 1 and kinds[-1] is Done


def test_stream_yields_every_part_in_order():
    with mocked(scripts.normal) as (server, client):
        events = list(client.stream(IMAGE, GenerateRequest(num_inference_steps=2)))
    assert isinstance(events[0], Accepted)
    steps = [event for event in events if isinstance(event, Progress)]
    assert [(s.stage, s.step, s.steps, s.eta_seconds) for s in steps] == [
        ("denoise", 0, 2, 2.0),
        ("denoise", 1, 2, 1.0),
        ("denoise", 2, 2, 0.0),
    ]
    (frames,) = [event.array for event in events if isinstance(event, Frames)]
    assert frames.dtype == np.uint8
    assert np.array_equal(frames.reshape(-1), np.arange(144, dtype=np.uint8))
    assert isinstance(events[-1], Done)


def test_previews_are_yielded():
    with mocked(scripts.normal) as (server, client):
        events = list(client.stream(IMAGE, preview_every=1))
    assert [event.image for event in events if isinstance(event, Preview)] == [b"preview 1", b"preview 2"]


def test_the_last_piece_of_a_response_with_done_comes_before_it():
    def script(servicer, image, request, context):
        last = scripts.done(request, b"data")
        yield Response(event=last.event, video=b"data", frames=np.zeros((1, 2, 2, 3), np.uint8))

    with mocked(script) as (server, client):
        assert [type(event) for event in client.stream(IMAGE)] == [Frames, Fragment, Done]


def test_every_event_has_its_case():
    with mocked(scripts.normal) as (server, client):
        seen = set()
        for event in client.stream(IMAGE, preview_every=1):
            match event:
                case Accepted() | Done() | Progress() | Warned() | Heartbeat():
                    seen.add(event.type)
                case Preview(image=bytes()):
                    seen.add("preview")
                case Frames(array=np.ndarray()):
                    seen.add("frames")
                case Fragment(data=bytes()):
                    seen.add("fragment")
                case _:
                    raise AssertionError(event)
    assert seen == {"accepted", "progress", "preview", "frames", "fragment", "done"}


def test_fields_go_over_those_of_the_request():
    with mocked(scripts.normal) as (server, client):
        client.generate(IMAGE, GenerateRequest(seed=1, fps=9), fps=10)
    assert server.requests[0][1] == GenerateRequest(seed=1, fps=10)


def test_headers_are_the_users():
    with (
        serving(scripts.normal) as server,
        Client(server.url, headers={"authorization": "Bearer x"}) as client,
    ):
        client.generate(IMAGE)
    assert server.metadata[0]["authorization"] == "Bearer x"


def test_the_message_names_the_model_and_has_no_batch_dimension():
    with serving(scripts.normal) as server, client_of(server) as client:
        client.generate(IMAGE)
    (message,) = server.messages
    assert message.model_name == "image_to_video"
    assert {t.name: (t.datatype, list(t.shape)) for t in message.inputs} == {
        "image": ("BYTES", [1]),
        "request": ("BYTES", [1]),
    }


def test_an_invalid_request_is_found_before_anything_is_sent():
    with mocked(scripts.normal) as (server, client):
        with pytest.raises(InvalidRequest, match="motion_bucket_id"):
            client.stream(IMAGE, motion_bucket=3)
        with pytest.raises(InvalidRequest, match="fps: got 0"):
            client.stream(IMAGE, fps=0)
        with pytest.raises(InvalidImage):
            client.stream(b"")
    assert server.requests == []


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("width: got 7, allowed is 8", field="width", value="7", allowed="8"),
        InvalidImage("image: truncated", field="image"),
        Overloaded("the queue is full", retry_after_s=2.5),
        Draining("the server is shutting down"),
        DeadlineExceeded("too late"),
        Cancelled("cancelled by the operator"),
        NonFinite("decode: NaN", stage="vae_decoder"),
        StageLost("unet died", stage="unet"),
        MediaFailed("no encoder"),
        ZoetropeError("internal error", id="r1"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_event_becomes_the_error_of_that_code_with_its_details(error):
    with (
        mocked(scripts.failing(error)) as (server, client),
        pytest.raises(ZoetropeError) as raised,
    ):
        client.generate(IMAGE)
    assert type(raised.value) is type(error)
    assert raised.value.message == error.message
    assert raised.value.details == error.details


def test_a_refusal_by_status_alone_becomes_its_class():
    with (
        serving(scripts.refusing) as server,
        client_of(server) as client,
        pytest.raises(Overloaded, match="the queue is full") as raised,
    ):
        client.generate(IMAGE)
    assert raised.value.details == {"retry_after_s": 3.5}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, ServerUnavailable),
        (grpc.StatusCode.UNKNOWN, ServerUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Refused),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, NotServed),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.INTERNAL, ZoetropeError),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_status_without_a_code_becomes_the_nearest_error(status, kind):
    script = scripts.aborting(status, "words")
    with mocked(script) as (server, client), pytest.raises(kind, match="words") as raised:
        client.generate(IMAGE)
    assert type(raised.value) is kind


@pytest.mark.parametrize("call", [Client.generate, lambda *args: list(Client.stream(*args))])
def test_a_stream_that_ends_without_done_is_a_lost_connection(call):
    with (
        mocked(scripts.cutting) as (server, client),
        pytest.raises(ConnectionLost, match=server.url),
    ):
        call(client, IMAGE)


def test_unavailable_in_the_middle_is_a_lost_connection():
    script = scripts.aborting(
        grpc.StatusCode.UNAVAILABLE, "Socket closed", first=[scripts.accepted(scripts.REQUEST)]
    )
    with (
        serving(script) as server,
        client_of(server) as client,
        pytest.raises(ConnectionLost, match="closed"),
    ):
        client.generate(IMAGE)


def test_a_status_after_done_does_not_take_the_video_away():
    def script(servicer, image, request, context):
        yield from scripts.normal(servicer, image, request, context)
        context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")

    with mocked(script) as (server, client):
        assert client.generate(IMAGE).data


def test_missing_bytes_of_the_video_are_noticed():
    def script(servicer, image, request, context):
        yield Response(video=b"abc")
        yield scripts.done(request, b"abcd")

    with mocked(script) as (server, client), pytest.raises(BadResponse, match="3 of 4"):
        client.generate(IMAGE)


def test_the_server_dies_in_the_middle():
    with serving(scripts.endless) as server:
        client = client_of(server)
        events = client.stream(IMAGE)
        next(events)
    with client, pytest.raises((ConnectionLost, Cancelled)):
        list(events)


def test_no_server_there():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{held.getsockname()[1]}"
        with Client(url, retry=Retry(attempts=2, first_s=0)) as client:
            assert client.health(timeout_s=2) is False
            with pytest.raises(ServerUnavailable, match=url):
                client.generate(IMAGE)


def test_health_is_the_servers_readiness():
    with serving(scripts.normal) as server, client_of(server) as client:
        assert client.health() is True
        server.ready = False
        assert client.health() is False


def test_many_threads_share_one_client():
    videos = {}

    def generate(seed):
        videos[seed] = client.generate(IMAGE, seed=seed)

    with serving(scripts.normal) as server, client_of(server) as client:
        threads = [threading.Thread(target=generate, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert {seed: video.seed for seed, video in videos.items()} == {seed: seed for seed in range(6)}
    for seed, video in videos.items():
        assert video.data == scripts.video_of(IMAGE, GenerateRequest(seed=seed))


@pytest.mark.parametrize("channel_args", [(), (("grpc.keepalive_time_ms", 400_000),)], ids=["plain", "args"])
def test_messages_may_be_larger_than_grpcs_default(channel_args):
    def script(servicer, image, request, context):
        video = b"v" * (6 << 20)
        yield Response(video=video)
        yield scripts.done(request, video)

    with serving(script) as server, Client(server.url, channel_args=channel_args) as client:
        assert len(client.generate(IMAGE).data) == 6 << 20


def test_an_unreadable_response_is_a_bad_response():
    def script(servicer, image, request, context):
        message = scripts.encode(scripts.accepted(request))
        message.infer_response.raw_output_contents[0] = b"\x02\x00\x00\x00{}"
        yield message

    with mocked(script) as (server, client), pytest.raises(BadResponse):
        client.generate(IMAGE)


def png(image):
    return np.asarray(Image.open(io.BytesIO(image)))


def test_images_in_every_form_arrive(tmp_path):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    encoded = path.read_bytes()
    with mocked(scripts.normal) as (server, client), path.open("rb") as file:
        for source in (path, str(path), encoded, bytearray(encoded), file):
            client.generate(source)
        client.generate(Image.fromarray(pixels))
        client.generate(pixels)
    images = [image for image, _ in server.requests]
    assert images[:5] == [encoded] * 5
    assert np.array_equal(png(images[5]), pixels)
    assert np.array_equal(png(images[6]), pixels)
