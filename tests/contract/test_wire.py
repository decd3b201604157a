"""The wire contract: requests and responses survive it; what breaks it has the right error."""

import base64
import json

import numpy as np
import pytest
from fakes import png
from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.errors import InvalidImage, InvalidRequest
from zoetrope_core.events import Done, Heartbeat, Progress
from zoetrope_core.request import GenerateRequest

IMAGE = png()
BINARY = st.binary(max_size=100)
DONE = Done(id="r", seed=3, parameters={"fps": 7}, timings={"total": 1.0}, video_bytes=0)


@given(BINARY.map(lambda tail: b"\x89PNG" + tail), st.integers(0, 2**63 - 1))
def test_a_request_survives_the_wire(image, seed):
    request = GenerateRequest(seed=seed, fit="pad")
    tensors = contract.pack_request(image, request)
    assert set(tensors) <= set(contract.REQUEST_INPUTS)
    assert all(tensor.dtype == np.object_ and tensor.shape == (1,) for tensor in tensors.values())
    assert contract.unpack_request(tensors) == (image, request)


def test_the_request_is_optional():
    tensors = {"image": contract.bytes_tensor(IMAGE)}
    assert contract.unpack_request(tensors) == (IMAGE, GenerateRequest())
    tensors["request"] = contract.bytes_tensor(b"")
    assert contract.unpack_request(tensors) == (IMAGE, GenerateRequest())


@pytest.mark.parametrize(
    "wrap",
    [
        base64.b64encode,
        base64.encodebytes,
        lambda image: b"data:image/png;base64," + base64.b64encode(image),
        lambda image: b" " + base64.b64encode(image) + b"\n",
    ],
    ids=["plain", "lines", "data URL", "spaces"],
)
@given(BINARY.map(lambda tail: b"\xff\xd8\xff" + tail))
def test_base64_is_unwrapped(wrap, image):
    tensors = {"image": contract.bytes_tensor(wrap(image))}
    assert contract.unpack_request(tensors)[0] == image
    assert contract.sent_as_text(tensors)


@pytest.mark.parametrize(
    "image",
    [b"\xff\xd8AAAA", b"\x89PNGAAAA", b"RIFFAAAA", b"GIF8AAAA", b"BMAA", b"not base64!", b"AAA", b"\x00"],
    ids=ascii,
)
def test_what_is_not_base64_is_left_as_it_is(image):
    tensors = {"image": contract.bytes_tensor(image)}
    assert contract.unpack_request(tensors)[0] == image


@pytest.mark.parametrize("image", [None, b"", b"  ", b"data:image/png;base64,", b"data:,"], ids=ascii)
def test_no_image_is_an_invalid_image(image):
    tensors = {} if image is None else {"image": contract.bytes_tensor(image)}
    with pytest.raises(InvalidImage, match="^image: got 0 bytes, allowed is") as raised:
        contract.unpack_request(tensors)
    assert raised.value.details["field"] == "image"


def test_a_mask_is_refused_for_now():
    tensors = {**contract.pack_request(IMAGE, GenerateRequest()), "mask": contract.bytes_tensor(IMAGE)}
    with pytest.raises(InvalidRequest, match="^mask: ") as raised:
        contract.unpack_request(tensors)
    assert raised.value.details["field"] == "mask"


@pytest.mark.parametrize("name", ["image", "request"])
@pytest.mark.parametrize("shape", [(0,), (2,), (1, 2), (2, 2)], ids=str)
def test_a_tensor_of_another_shape_is_refused(name, shape):
    tensors = contract.pack_request(IMAGE, GenerateRequest())
    tensors[name] = np.full(shape, b"x", np.object_)
    with pytest.raises(InvalidRequest) as raised:
        contract.unpack_request(tensors)
    assert raised.value.details == {"field": name, "value": str(list(shape)), "allowed": "BYTES [1]"}


@pytest.mark.parametrize("shape", [(1,), (1, 1), ()], ids=str)
@pytest.mark.parametrize("dtype", [np.object_, np.bytes_, np.str_])
def test_one_element_is_taken_in_any_shape_and_string_type(shape, dtype):
    text = '{"fps": 9}' if dtype is np.str_ else b'{"fps": 9}'
    tensors = {"image": contract.bytes_tensor(IMAGE), "request": np.array(text, dtype).reshape(shape)}
    assert contract.unpack_request(tensors)[1] == GenerateRequest(fps=9)


def test_a_bad_request_keeps_its_own_error():
    tensors = {"image": contract.bytes_tensor(IMAGE), "request": contract.bytes_tensor(b'{"fps": 0}')}
    with pytest.raises(InvalidRequest, match="^fps: got 0"):
        contract.unpack_request(tensors)


@pytest.mark.parametrize(
    "response",
    [
        Response(),
        Response(event=Heartbeat(waiting=0)),
        Response(event=Progress(stage="decode", step=0, steps=2)),
        Response(video=b"\x00\xff" * 9),
        Response(preview=b"RIFF\x00\xff"),
        Response(event=DONE, video=b"end"),
    ],
    ids=str,
)
def test_a_response_survives_the_wire(response):
    tensors = contract.pack_response(response)
    assert set(tensors) <= set(contract.RESPONSE_OUTPUTS)
    assert contract.unpack_response(tensors) == response


def test_frames_travel_as_they_are():
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    tensors = contract.pack_response(Response(frames=frames))
    assert set(tensors) == {"frames"}
    assert contract.unpack_response(tensors).frames is frames


def test_an_event_is_json_in_a_bytes_tensor():
    (tensor,) = contract.pack_response(Response(event=DONE)).values()
    assert json.loads(tensor[0])["type"] == "done"


@pytest.mark.parametrize("event", [b"{", b"{}", b'{"version": 9}'])
def test_an_event_that_is_none_is_a_value_error(event):
    with pytest.raises(ValueError):
        contract.unpack_response({"event": contract.bytes_tensor(event)})


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_pieces_are_whole_and_bounded(count, extra):
    length = max(count * contract.PIECE_BYTES + extra, 0)
    video = bytes(bytearray(range(256)) * (length // 256 + 1))[:length]
    parts = list(contract.pieces(video))
    assert b"".join(parts) == video
    assert all(0 < len(part) <= contract.PIECE_BYTES <= 1 << 20 for part in parts)
    assert len(parts) == -(-length // contract.PIECE_BYTES)


def test_pieces_for_json_clients_join_to_base64():
    video = bytes(range(256)) * (2 * contract.PIECE_BYTES // 256 + 3)
    tensors = [
        contract.pack_response(Response(video=piece), text=True)["video"] for piece in contract.pieces(video)
    ]
    assert base64.b64decode(b"".join(tensor[0] for tensor in tensors), validate=True) == video
    assert all(len(tensor[0]) <= 1 << 20 for tensor in tensors)


def test_a_preview_is_base64_for_json_clients():
    tensors = contract.pack_response(Response(preview=b"RIFF\x00\xff"), text=True)
    assert base64.b64decode(tensors["preview"][0], validate=True) == b"RIFF\x00\xff"
