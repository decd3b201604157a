"""The events of a stream: a closed, versioned schema; one JSON object each, `done` or `error` last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The request is valid and has its place; sent at once.

    Attributes:
        id: the server's name of the request, as in its log.
        seed: the seed of the noise.
        steps: the number of denoising steps to come.
        trace_id: its OpenTelemetry trace, 32 hexadecimal digits; absent when it is not traced.
    """

    type: ClassVar[str] = "accepted"
    id: str
    seed: int
    steps: int
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The request waits for its turn.

    Attributes:
        waiting: requests before this one.
    """

    type: ClassVar[str] = "heartbeat"
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A stage has begun, or a step or chunk of it has ended.

    Attributes:
        stage: `decode_image`, `encode_image`, `encode_latents`, `denoise`, `decode` or `encode_video`.
        step: steps (chunks) of the stage that are done.
        steps: how many it has.
        eta_seconds: measured time left to the end of the denoising, absent before the first step.
    """

    type: ClassVar[str] = "progress"
    stage: str
    step: int
    steps: int
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """The video will be made, but something of the request may not give what is expected.

    Attributes:
        code: what kind of warning: `far_from_trained`.
        field: the field of the request, or `size` for width and height together.
        message: what is unusual, for people.
    """

    type: ClassVar[str] = "warning"
    code: str
    field: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request ends without a video.

    Attributes:
        code: the code of the error tree, such as `invalid_argument` or `overloaded`.
        status: the gRPC status name.
        message: what is wrong, for people.
        details: more, such as `field`, `allowed`, `retry_after_s`.
    """

    type: ClassVar[str] = "error"
    code: str
    status: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The video is complete; the last event.

    Attributes:
        id: as in `accepted`.
        seed: the seed of the noise.
        parameters: the request as used, with all defaults; sent again, it gives the same video.
        timings: seconds by stage, `total`, and `encoder`: how long that worked, most of it beside `decode`.
        video_bytes: the size of the video that was sent.
    """

    type: ClassVar[str] = "done"
    id: str
    seed: int
    parameters: Mapping[str, Any]
    timings: Mapping[str, float]
    video_bytes: int


Event = Accepted | Warned | Heartbeat | Progress | Failed | Done
EVENTS: Mapping[str, type[Event]] = {
    kind.type: kind for kind in (Accepted, Warned, Heartbeat, Progress, Failed, Done)
}


class UnknownEvent(ValueError):
    """An event of this version whose type is not known here: a newer server's, which a client passes over."""


def to_json(event: Event) -> bytes:
    """The event as it travels."""
    body = {name: value for name, value in asdict(event).items() if value is not None}
    return json.dumps({"version": VERSION, "type": event.type, **body}).encode()


def from_json(data: bytes | str) -> Event:
    """Parses an event.

    Raises:
        ValueError: not an event of this version. A field that is not known here is left out, so that an
            older client still reads a newer server of the same version.
        UnknownEvent: the same, for a type that is not known here.
    """
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("version", None) != VERSION:
        raise ValueError(f"not an event of version {VERSION}: {data[:100]!r}")
    kind = EVENTS.get(str(name := body.pop("type", "")))
    if kind is None:
        problem = UnknownEvent if isinstance(name, str) and name else ValueError
        raise problem(f"unknown event type: {data[:100]!r}")
    known = {entry.name for entry in fields(kind)}
    try:
        return kind(**{name: value for name, value in body.items() if name in known})
    except TypeError as error:
        raise ValueError(f"incomplete event: {error}") from error
