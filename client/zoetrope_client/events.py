"""What a stream yields: one type for each kind of news, made to be told apart with `match`.

The events that travel as JSON are those of `zoetrope_core.events`; the three below carry the rest. An `error`
event is never yielded: it is raised, as the class of its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from zoetrope_core.contract import Response
from zoetrope_core.events import Accepted, Done, Failed, Heartbeat, Progress, Warned
from zoetrope_core.specs import Array

__all__ = ["Accepted", "Done", "Event", "Fragment", "Frames", "Heartbeat", "Preview", "Progress", "Warned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The video as it is by now, for a request with `preview_every`.

    Attributes:
        image: a small animated WebP.
    """

    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """The decoded frames of one chunk, for a request with `stream_frames`; equal to itself alone.

    Attributes:
        array: u8 [f,H,W,3].
    """

    array: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A piece of the encoded video; all of them joined in order are the file.

    Attributes:
        data: at most 768 KiB; with `stream_video` it can be played as it comes.
    """

    data: bytes


Event: TypeAlias = Accepted | Warned | Heartbeat | Progress | Preview | Frames | Fragment | Done
"""Everything that a stream yields; `Done` comes last."""


def events_of(response: Response) -> tuple[Event, ...]:
    """The events of one response, what it carries before what it says, so that `Done` is last."""
    found: list[Event] = []
    if response.preview is not None:
        found.append(Preview(image=response.preview))
    if response.frames is not None:
        found.append(Frames(array=response.frames))
    if response.video is not None:
        found.append(Fragment(data=response.video))
    if response.event is not None and not isinstance(response.event, Failed):
        found.append(response.event)
    return tuple(found)
