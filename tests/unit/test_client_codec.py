"""The codec, the assembly of the video and the picture: pure parts of the client."""

import io
import os
import stat

import numpy as np
import pytest
from grpc_server import decode as decode_request
from grpc_server import encode as encode_response
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import MAX_GRPC_MESSAGE_SIZE, service_pb2

from zoetrope_client import codec
from zoetrope_client.errors import BadResponse, ConnectionLost, ServerUnavailable
from zoetrope_client.events import Fragment, Frames
from zoetrope_client.picture import read_image
from zoetrope_client.video import Video, collect
from zoetrope_core import errors
from zoetrope_core.contract import Response
from zoetrope_core.errors import InvalidImage, InvalidRequest, ZoetropeError
from zoetrope_core.events import Accepted, Done, Failed, Heartbeat, Progress
from zoetrope_core.request import GenerateRequest

URL = "host:1"
DONE = Done(id="a", seed=1, parameters={"fps": 7}, timings={"total": 1.5}, video_bytes=4)
VIDEO = Video(data=b"data", id="a", seed=1, parameters={}, timings={})
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZoetropeError)
]


@given(image=st.binary(min_size=1).map(lambda data: b"\x89PNG" + data), seed=st.integers(0, 2**63 - 1))
def test_a_request_survives_the_wire(image, seed):
    request = GenerateRequest(seed=seed, quality=3, stream_frames=True)
    message = service_pb2.ModelInferRequest.FromString(codec.encode(image, request).SerializeToString())
    assert decode_request(message) == (image, request)


@pytest.mark.parametrize(
    "response",
    [
        Response(event=Accepted(id="a", seed=2**63 - 1, steps=25)),
        Response(event=Heartbeat(waiting=2)),
        Response(event=Progress(stage="denoise", step=1, steps=25, eta_seconds=1.5)),
        Response(event=DONE),
        Response(video=bytes(range(256))),
        Response(preview=b"RIFF"),
        Response(event=DONE, video=b"last piece"),
        Response(),
    ],
    ids=str,
)
def test_a_response_survives_the_wire(response):
    assert codec.decode(encode_response(response)) == response


def test_frames_survive_the_wire():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    decoded = codec.decode(encode_response(Response(frames=frames))).frames
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, frames)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_is_found_by_its_code(kind):
    event = Failed(code=kind.code, status=kind.status, message="m", details={"field": "x", "message": "no"})
    found = codec.from_event(event)
    assert type(found) is kind
    assert (found.message, found.details) == ("m", {"field": "x"})


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_refusal_is_read_from_the_status_message(kind):
    if not issubclass(kind, errors.Refused):
        return
    text = kind("words", retry_after_s=2.0).status_message()
    found = codec.from_status("UNAVAILABLE", f"[request id: 7] {text}", url=URL, started=True)
    assert type(found) is kind
    assert (found.message, found.details) == ("words", {"retry_after_s": 2.0})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("UNAVAILABLE", errors.Refused),
        ("CANCELLED", errors.Cancelled),
        ("INTERNAL", ZoetropeError),
        ("SOMETHING_NEW", ZoetropeError),
    ],
)
def test_a_code_of_a_newer_server_goes_by_its_status_and_is_kept(status, kind):
    found = codec.from_event(Failed(code="brand_new", status=status, message="m", details={"a": 1}))
    assert type(found) is kind
    assert found.details == {"a": 1, "code": "brand_new"}


@pytest.mark.parametrize(
    ("status", "started", "kind"),
    [
        ("UNAVAILABLE", False, ServerUnavailable),
        ("UNAVAILABLE", True, ConnectionLost),
        ("UNKNOWN", True, ConnectionLost),
        ("DEADLINE_EXCEEDED", True, errors.DeadlineExceeded),
        ("INVALID_ARGUMENT", True, InvalidRequest),
    ],
)
def test_a_plain_status_depends_on_whether_a_response_had_come(status, started, kind):
    assert type(codec.from_status(status, "words", url=URL, started=started)) is kind


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"code"', "", "null", '"code"', "} {"])
def test_words_that_look_like_json_are_words(text):
    found = codec.from_status("UNAVAILABLE", text, url=URL, started=False)
    assert type(found) is ServerUnavailable


def test_an_error_in_the_message_instead_of_a_status_is_raised():
    message = service_pb2.ModelStreamInferResponse(error_message="unexpected shape")
    with pytest.raises(ZoetropeError, match="unexpected shape"):
        codec.decode(message)
    refusal = errors.Overloaded("full").status_message()
    with pytest.raises(errors.Overloaded, match="^full$"):
        codec.decode(service_pb2.ModelStreamInferResponse(error_message=refusal))


def test_a_reader_tells_the_ends_of_a_stream_apart():
    reader = codec.StreamReader(URL)
    assert type(reader.failure("UNAVAILABLE", None)) is ServerUnavailable
    with pytest.raises(ConnectionLost):
        reader.end()
    reader.read(encode_response(Response(event=Heartbeat(waiting=1))))
    assert type(reader.failure("UNAVAILABLE", "gone")) is ConnectionLost
    reader.read(encode_response(Response(event=DONE)))
    assert reader.failure("UNAVAILABLE", "gone") is None
    reader.end()


def test_channel_options_keep_the_message_sizes():
    usual = {"keepalive_s": 310.0, "max_message_bytes": None}
    options = dict(codec.channel_options({"grpc.x": 1}, **usual))
    assert options["grpc.max_receive_message_length"] == MAX_GRPC_MESSAGE_SIZE
    assert (options["grpc.keepalive_time_ms"], options["grpc.x"]) == (310_000, 1)
    assert dict(codec.channel_options({"grpc.keepalive_time_ms": 5}, **usual))["grpc.keepalive_time_ms"] == 5
    options = dict(codec.channel_options({}, keepalive_s=None, max_message_bytes=9))
    assert "grpc.keepalive_time_ms" not in options
    assert (options["grpc.max_send_message_length"], options["grpc.max_receive_message_length"]) == (9, 9)


def test_collect_joins_the_pieces_and_checks_their_number():
    video = collect([Fragment(data=b"da"), Frames(array=np.zeros(1)), Fragment(data=b"ta"), DONE])
    assert video == Video(data=b"data", id="a", seed=1, parameters={"fps": 7}, timings={"total": 1.5})
    with pytest.raises(ConnectionLost):
        collect([Fragment(data=b"data")])
    for pieces in ([], [b"data!"]):
        with pytest.raises(BadResponse):
            collect([*(Fragment(data=piece) for piece in pieces), DONE])


def test_save_writes_the_whole_file_over_an_old_one(tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"an older and longer video")
    assert VIDEO.save(str(target)) == target
    assert target.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [target]


def test_save_takes_the_permissions_of_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        path = VIDEO.save(tmp_path / "out.mp4")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_save_that_fails_leaves_nothing_and_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        VIDEO.save(target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_save_into_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        VIDEO.save(tmp_path / "no" / "out.mp4")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "HSV", "LAB", "F"]
)
def test_pil_images_of_every_mode_become_png(mode):
    image = Image.new(mode, (6, 4))
    decoded = Image.open(io.BytesIO(read_image(image)), formats=("PNG",))
    assert decoded.size == (6, 4)
    decoded.load()


def test_a_pil_image_is_sent_upright():
    image = Image.new("RGB", (6, 4))
    image.getexif()[0x0112] = 6
    assert Image.open(io.BytesIO(read_image(image))).size == (4, 6)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_arrays_become_png_without_loss(shape):
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(read_image(pixels))))
    assert np.array_equal(decoded, pixels[..., 0] if shape[-1] == 1 else pixels)


def test_an_array_that_is_not_contiguous_is_sent_as_it_looks():
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)[::-1, ::2, ::-1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(read_image(pixels)))), pixels)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros(5, np.uint8),
        b"",
        io.BytesIO(),
        io.StringIO("text"),
        None,
        7,
    ],
)
def test_what_is_no_image_is_refused(source):
    with pytest.raises(InvalidImage, match="^image: got .*, allowed is ") as raised:
        read_image(source)
    assert raised.value.details["field"] == "image"


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "no.png")
