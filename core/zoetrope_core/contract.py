"""The wire contract of the entry models: named tensors on one side, requests, events and videos on the other.

Pure functions over numpy arrays; a BYTES tensor is an object array [1] of `bytes`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from zoetrope_core import events
from zoetrope_core.errors import InvalidImage, InvalidRequest
from zoetrope_core.request import GenerateRequest
from zoetrope_core.specs import Array

MODEL = "image_to_video"
UNARY_MODEL = "image_to_video_unary"
PIECE_BYTES = 3 << 18
"""The most bytes of video in one response: 1 MiB as base64, and a multiple of 3, so that joined base64 pieces
are base64. (A default gRPC receiver refuses more than 4 MiB; one 10 MB send stalls a loop for 80 ms.)"""
TEXT_UNIT = 3
"""Base64 of so many bytes, or of a multiple, needs no padding, so that more may follow."""
MAX_IMAGE_BYTES = 28 << 20
"""The most bytes of an image as sent, base64 included; looked at before anything is done with them."""
REQUEST_INPUTS = ("image", "mask", "request")
RESPONSE_OUTPUTS = ("event", "preview", "frames", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response of a stream; carries some of its parts.

    Attributes:
        event: an event.
        preview: a small animated WebP of the video as it is by now.
        frames: u8 [f,H,W,3], decoded frames of one chunk.
        video: a piece of the encoded video.
    """

    event: events.Event | None = None
    preview: bytes | None = None
    frames: Array | None = None
    video: bytes | None = None


def pack_request(image: bytes, request: GenerateRequest) -> dict[str, Array]:
    """The input tensors of a request."""
    return {"image": bytes_tensor(image), "request": bytes_tensor(request.to_json())}


def unpack_request(tensors: Mapping[str, Array]) -> tuple[bytes, GenerateRequest]:
    """The encoded image and the request of the input tensors.

    Args:
        tensors: by input name: `image` BYTES [1], `request` BYTES [1] (JSON, optional), `mask` (not yet).

    Raises:
        InvalidRequest: a tensor of another shape, a mask, or anything `GenerateRequest.from_json` refuses.
        InvalidImage: the image is absent, empty or larger than `MAX_IMAGE_BYTES`.
    """
    if "mask" in tensors:
        raise InvalidRequest(
            "mask: motion masks are not supported by this server", field="mask", allowed="no mask"
        )
    image = _single(tensors, "image")
    if len(image) > MAX_IMAGE_BYTES:
        raise InvalidImage(
            f"image: got {len(image)} bytes, allowed are {MAX_IMAGE_BYTES}",
            field="image",
            value=str(len(image)),
            allowed=f"at most {MAX_IMAGE_BYTES} bytes",
        )
    image = unwrap_base64(image)
    if not image:
        raise InvalidImage("image: got 0 bytes, allowed is an encoded JPEG, PNG or WebP", field="image")
    text = _single(tensors, "request")
    return image, GenerateRequest.from_json(text) if text else GenerateRequest()


def sent_as_text(tensors: Mapping[str, Array]) -> bool:
    """Whether the image came as base64: the client speaks JSON then, and gets the video as base64 too."""
    return not _single(tensors, "image").startswith(_MAGIC)


def pack_response(response: Response, *, text: bool = False) -> dict[str, Array]:
    """The output tensors of a response; with `text` video and preview are base64, for JSON clients."""
    tensors: dict[str, Array] = {}
    if response.event is not None:
        tensors["event"] = bytes_tensor(events.to_json(response.event))
    if response.preview is not None:
        tensors["preview"] = bytes_tensor(base64.b64encode(response.preview) if text else response.preview)
    if response.frames is not None:
        tensors["frames"] = response.frames
    if response.video is not None:
        tensors["video"] = bytes_tensor(base64.b64encode(response.video) if text else response.video)
    return tensors


def unpack_response(tensors: Mapping[str, Array]) -> Response:
    """The response in the output tensors; raises ValueError for an event that is none.

    An event of a type that is not known here is left out.
    """
    event, video = _single(tensors, "event"), _single(tensors, "video")
    return Response(
        event=_event(event) if event else None,
        preview=_single(tensors, "preview") or None,
        frames=tensors.get("frames"),
        video=video or None,
    )


def _event(data: bytes) -> events.Event | None:
    try:
        return events.from_json(data)
    except events.UnknownEvent:
        return None


def pieces(video: bytes) -> Iterator[bytes]:
    """The video in pieces of at most `PIECE_BYTES`."""
    for start in range(0, len(video), PIECE_BYTES):
        yield video[start : start + PIECE_BYTES]


def bytes_tensor(data: bytes) -> Array:
    """A BYTES tensor [1]."""
    tensor = np.empty(1, np.object_)
    tensor[0] = data
    return tensor


_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


def unwrap_base64(data: bytes) -> bytes:
    """The image itself where a JSON client sent base64 or a data URL, else the data unchanged."""
    if data.startswith(_MAGIC):
        return data
    text = data.split(b",", 1)[-1] if data.startswith(b"data:") else data
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return data


def _single(tensors: Mapping[str, Array], name: str) -> bytes:
    """The one element of a BYTES tensor, or nothing when the tensor is absent."""
    tensor = tensors.get(name)
    if tensor is None:
        return b""
    if tensor.size != 1:
        raise InvalidRequest(
            f"{name}: got shape {list(tensor.shape)}, allowed is BYTES [1]",
            field=name,
            value=str(list(tensor.shape)),
            allowed="BYTES [1]",
        )
    value = tensor.reshape(-1)[0]
    return value if isinstance(value, bytes) else str(value).encode()
