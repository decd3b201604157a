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
    """

    type: ClassVar[str] = "accepted"
    id: str
    seed: int
    steps: int


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
        timings: seconds by stage, and `total`.
        video_bytes: the size of the video that was sent.
    """

    type: ClassVar[str] = "done"
    id: str
    seed: int
    parameters: Mapping[str, Any]
    timings: Mapping[str, float]
    video_bytes: int


Event = Accepted | Heartbeat | Progress | Failed | Done
EVENTS: Mapping[str, type[Event]] = {
    kind.type: kind for kind in (Accepted, Heartbeat, Progress, Failed, Done)
}


def to_json(event: Event) -> bytes:
    """The event as it travels."""
    body = {name: value for name, value in asdict(event).items() if value is not None}
    return json.dumps({"version": VERSION, "type": event.type, **body}).encode()


def from_json(data: bytes | str) -> Event:
    """Parses an event.

    Raises:
        ValueError: not an event of this version. A field that is not known here is left out, so that an
            older client still reads a newer server of the same version.
    """
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("version", None) != VERSION:
        raise ValueError(f"not an event of version {VERSION}: {data[:100]!r}")
    kind = EVENTS.get(str(body.pop("type", "")))
    if kind is None:
        raise ValueError(f"unknown event type: {data[:100]!r}")
    known = {entry.name for entry in fields(kind)}
    try:
        return kind(**{name: value for name, value in body.items() if name in known})
    except TypeError as error:
        raise ValueError(f"incomplete event: {error}") from error
