"""The request: its fields, their types and ranges, and their validation against what is served."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from zoetrope_core.errors import InvalidRequest
from zoetrope_core.formats import CODECS, FORMATS, checked_codec
from zoetrope_core.manifest import Manifest, Size
from zoetrope_core.sizes import (
    complete_size,
    holds_frames,
    holds_size,
    refused_side,
    served_frames,
    served_sizes,
)

VERSION = 1
MAX_BYTES = 64 * 1024
"""The most bytes of JSON that a request may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one field accepts: a type, a closed range of numbers or a set of words, and what it means.

    An array holds `count` (at least, at most) numbers of the range, each larger than the one before it, or
    smaller where `falling`.
    """

    type: type
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    count: tuple[int, int] = (0, 0)
    falling: bool = False

    @property
    def allowed(self) -> str:
        """The accepted values in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is tuple:
            least, most = self.count
            many = str(least) if least == most else f"{least} to {most}"
            order = "falling" if self.falling else "rising"
            return f"an array of {many} {order} numbers from {self.low} to {self.high}"
        kind = {int: "an integer", float: "a number", bool: "true or false"}[self.type]
        return kind if self.low is None else f"{kind} from {self.low} to {self.high}"

    def accepts(self, value: Any) -> bool:
        """Whether the value has the type (an integer passes as a number, a bool never) and range."""
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.type is tuple:
            return isinstance(value, list | tuple) and self._accepts_numbers(value)
        if isinstance(value, bool) or self.type is bool:
            return self.type is bool and isinstance(value, bool)
        if not isinstance(value, int | float if self.type is float else int):
            return False
        if self.low is None or self.high is None:
            return True
        return bool(self.low <= value <= self.high)  # NaN and infinity are never inside

    def _accepts_numbers(self, values: Sequence[Any]) -> bool:
        number = Rule(type=float, doc=self.doc, low=self.low, high=self.high)
        least, most = self.count
        if not least <= len(values) <= most or not all(number.accepts(value) for value in values):
            return False
        upward = values[::-1] if self.falling else values
        return all(a < b for a, b in zip(upward, upward[1:], strict=False))


def _number(kind: type, default: float | None, low: float, high: float, doc: str) -> Any:
    return field(default=default, metadata={"rule": Rule(type=kind, low=low, high=high, doc=doc)})


def _numbers(least: int, most: int, low: float, high: float, doc: str, *, falling: bool) -> Any:
    rule = Rule(type=tuple, count=(least, most), low=low, high=high, doc=doc, falling=falling)
    return field(default=None, metadata={"rule": rule})


def _choice(choices: tuple[str, ...], doc: str, *, optional: bool = False) -> Any:
    rule = Rule(type=str, choices=choices, doc=doc)
    return field(default=None if optional else choices[0], metadata={"rule": rule})


def _flag(doc: str) -> Any:
    return field(default=False, metadata={"rule": Rule(type=bool, doc=doc)})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One video to generate; names and defaults are diffusers' where diffusers has them.

    A field that is None takes the served checkpoint's default in `validate`. `to_dict` gives what `done`
    reports and what sent again gives the same video.
    """

    width: int | None = _number(int, None, 8, 8192, "width of the video in pixels")
    height: int | None = _number(int, None, 8, 8192, "height of the video in pixels")
    num_frames: int | None = _number(int, None, 1, 1024, "number of frames")
    num_inference_steps: int = _number(int, 25, 1, 200, "number of denoising steps")
    fps: int = _number(int, 7, 1, 120, "frames per second; the model is conditioned on fps - 1")
    motion_bucket_id: int = _number(int, 127, 0, 255, "amount of motion; more is more")
    noise_aug_strength: float = _number(float, 0.02, 0.0, 10.0, "noise added to the image before encoding")
    min_guidance_scale: float = _number(float, 1.0, 0.0, 30.0, "guidance scale of the first frame")
    max_guidance_scale: float = _number(
        float, 3.0, 0.0, 30.0, "guidance scale of the last frame; at most 1 turns guidance off"
    )
    decode_chunk_size: int | None = _number(
        int, None, 1, 1024, "frames decoded at once; at most what the engine takes"
    )
    seed: int | None = _number(int, None, 0, 2**63 - 1, "seed of the noise; drawn at random when absent")
    sampler: str = _choice(
        ("euler", "heun", "dpmpp_2m", "lcm"),
        "sampler; heun computes each step twice, lcm is for distilled checkpoints, without guidance",
    )
    schedule: str = _choice(("karras", "ays"), "noise schedule")
    sigmas: tuple[float, ...] | None = _numbers(
        1,
        200,
        0.0001,
        10000.0,
        "the schedule itself, one for each step, instead of a named one",
        falling=True,
    )
    guidance_interval: tuple[float, ...] | None = _numbers(
        2, 2, 0.0, 10000.0, "guide only while low < sigma <= high; other steps cost half", falling=False
    )
    deadline_s: float | None = _number(
        float, None, 0.001, 86400.0, "seconds from arrival until the video must be complete"
    )
    priority: str = _choice(("interactive", "batch"), "who goes first when requests wait")
    fit: str = _choice(
        ("crop", "pad", "stretch", "auto"),
        "how the image is brought to the size of the video; auto is crop, with the size that suits the image "
        "where none is given",
    )
    format: str = _choice(tuple(FORMATS), "format of the video; png and jpeg are a zip of frames")
    codec: str | None = _choice(CODECS, "codec of the video, one that its format has", optional=True)
    quality: int = _number(int, 80, 0, 100, "quality of the encoded video; png and raw lose nothing")
    stream_frames: bool = _flag("send the decoded frames too, chunk by chunk")
    stream_video: bool = _flag("send the video while it is made, as fragments (mp4, webm)")
    preview_every: int = _number(int, 0, 0, 200, "steps between previews; 0 sends none")

    @classmethod
    def from_json(cls, text: bytes | str) -> GenerateRequest:
        """Parses the JSON of a request: an object with the fields above and a `version` (1, may be absent).

        Raises:
            InvalidRequest: not JSON, too long, another version, an unknown field, a wrong type or range.
        """
        if len(text) > MAX_BYTES:
            raise _invalid("request", f"{len(text)} bytes", f"at most {MAX_BYTES} bytes of JSON")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _invalid("request", _excerpt(text), f"a JSON object ({error})") from error
        if not isinstance(data, dict):
            raise _invalid("request", _excerpt(text), "a JSON object")
        version = data.pop("version", VERSION)
        if version != VERSION or isinstance(version, bool):
            raise _invalid("version", version, f"{VERSION}")
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GenerateRequest:
        """Builds a request from a mapping and checks each field by itself; raises InvalidRequest."""
        rules = field_rules()
        for name, value in data.items():
            if name not in rules:
                raise _unknown(str(name), tuple(rules))
            optional = value is None and _DEFAULTS[name] is None
            if not optional and not rules[name].accepts(value):
                raise _invalid(name, value, rules[name].allowed)
        arrays = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **arrays})

    def needs_picture(self, manifest: Manifest) -> bool:
        """Whether the size of the video depends on that of the picture."""
        return self.fit == "auto" and None in (self.width, self.height) and len(manifest.sizes) > 1

    def validate(
        self, manifest: Manifest, *, drawn_seed: int = 0, picture: Size | None = None
    ) -> ValidRequest:
        """Puts in the served checkpoint's defaults and checks the request against what its engines hold.

        Args:
            manifest: the facts of the served checkpoint.
            drawn_seed: the seed of a request that has none.
            picture: the size (H, W) of the upright picture, for a request that `needs_picture`; without it
                the size is as for any other request.

        Raises:
            InvalidRequest: the frame size, the number of frames or a preview is not served here, or the
                format does not go with the codec, the size, the frame rate or `stream_video`.
        """
        chosen_by = picture if self.needs_picture(manifest) else None
        size = height, width = complete_size(manifest, self.height, self.width, chosen_by)
        if not holds_size(manifest, size):
            asked = f"{width}x{height} (width x height)"
            raise _invalid(refused_side(manifest, size), asked, served_sizes(manifest))
        num_frames = manifest.num_frames[0] if self.num_frames is None else self.num_frames
        if not holds_frames(manifest, num_frames):
            raise _invalid("num_frames", num_frames, served_frames(manifest))
        if self.preview_every and manifest.latent_rgb is None:
            allowed = "0 here: the checkpoint was exported without previews; export it again"
            raise _invalid("preview_every", self.preview_every, allowed)
        resolved = {
            "height": height,
            "width": width,
            "num_frames": num_frames,
            "decode_chunk_size": min(
                self.decode_chunk_size or manifest.decode_chunk_size, manifest.decode_chunk_size, num_frames
            ),
            "seed": drawn_seed if self.seed is None else self.seed,
            "num_inference_steps": len(self.sigmas) if self.sigmas else self.num_inference_steps,
            "fit": "crop" if self.fit == "auto" else self.fit,
            "codec": checked_codec(
                self.format, self.codec, size=(height, width), fps=self.fps, streams=self.stream_video
            ),
        }
        return ValidRequest(**{**asdict(self), **resolved})

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON-ready data, without the fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_json(self) -> bytes:
        """The request as it travels: JSON with its version."""
        return json.dumps({"version": VERSION, **self.to_dict()}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidRequest(GenerateRequest):
    """A request that the served checkpoint can do: nothing is left to choose."""

    width: int
    height: int
    num_frames: int
    decode_chunk_size: int
    seed: int

    @property
    def size(self) -> Size:
        """The frame size (H, W) in pixels."""
        return self.height, self.width


def field_rules() -> dict[str, Rule]:
    """The rule of each request field, by name, in the order of the fields."""
    return {entry.name: entry.metadata["rule"] for entry in fields(GenerateRequest)}


_DEFAULTS = {entry.name: entry.default for entry in fields(GenerateRequest)}


def _invalid(name: str, value: Any, allowed: str) -> InvalidRequest:
    shown = _shown(value)
    return InvalidRequest(
        f"{name}: got {shown}, allowed is {allowed}", field=name, value=shown, allowed=allowed
    )


def _shown(value: Any) -> str:
    """The value in at most about 100 printable characters; a nested one only by its kind."""
    if isinstance(value, dict | list | tuple):
        return f"an object of {len(value)}" if isinstance(value, dict) else f"an array of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 102 else text[:102] + "..."


def _unknown(name: str, known: tuple[str, ...]) -> InvalidRequest:
    near = get_close_matches(name[:100], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    allowed = ", ".join(known)
    shown = _shown(name)[1:-1]  # without what cannot be printed or encoded: the message becomes a gRPC status
    return InvalidRequest(
        f"{shown}: unknown field{hint} (known: {allowed})",
        field=shown,
        allowed=allowed,
        suggestion=near[0] if near else None,
    )


def _excerpt(text: bytes | str) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return shown[:100]
