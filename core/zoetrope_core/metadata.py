"""What a running server can do, as it says it: one JSON object in the configuration of the entry model.

It is the parameter `zoetrope` of the model `image_to_video`: in gRPC's ModelConfig, and over HTTP in
`GET /v2/models/image_to_video/config`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from zoetrope_core import contract
from zoetrope_core.formats import FORMATS
from zoetrope_core.manifest import Manifest, Size
from zoetrope_core.request import MAX_BYTES, GenerateRequest, field_rules

PARAMETER = "zoetrope"
"""The parameter of the entry model's configuration that holds it."""
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What the server takes for one field of a request.

    Attributes:
        type: `int`, `float`, `bool`, `str` or `array` (of numbers).
        doc: what the field means.
        allowed: the accepted values in words.
        default: the value of a request without the field; None where the checkpoint or chance decides.
        low, high: the closed range of numbers; None without one.
        choices: the words that it takes; empty for other types.
    """

    type: str
    doc: str = ""
    allowed: str = ""
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """One format that videos can be asked for; see `zoetrope_core.formats.Format`."""

    media_type: str
    suffixes: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    streams: bool = False
    multiple: int = 1
    max_fps: int = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the server takes.

    Attributes:
        max_active: requests that run at the same time.
        max_waiting: requests that wait; more are refused.
        image_bytes: the most bytes of an image as sent.
        request_bytes: the most bytes of a request's JSON.
    """

    max_active: int
    max_waiting: int
    image_bytes: int = contract.MAX_IMAGE_BYTES
    request_bytes: int = MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a server can do.

    Attributes:
        release: the version of Zoetrope that serves.
        checkpoint: the name under which the checkpoint was exported.
        engine, precision: what computes, such as `openvino` and `bf16`.
        sizes: the frame sizes (H, W) in pixels that are listed; the first is the default.
        size_ranges: the least and the largest size of further ones, on the `grid`.
        grid: sides of sizes that are not listed are multiples of this.
        num_frames: the frame counts that are listed; the first is the default.
        frame_range: the least and the largest of further frame counts; None for none.
        decode_chunk_size: the most frames decoded at once.
        max_batch_size: the most videos that share one execution of the UNet.
        trained_size, trained_frames: what the checkpoint was trained at, where that is known.
        previews: whether `preview_every` is served.
        fields: what each field of a request accepts, by name.
        formats: the formats of videos, by name.
        limits: how much the server takes.
    """

    release: str
    checkpoint: str
    engine: str
    precision: str
    sizes: tuple[Size, ...]
    num_frames: tuple[int, ...]
    decode_chunk_size: int
    max_batch_size: int
    previews: bool
    fields: Mapping[str, Field]
    formats: Mapping[str, OutputFormat]
    limits: Limits
    size_ranges: tuple[tuple[Size, Size], ...] = ()
    grid: int = 1
    frame_range: tuple[int, int] | None = None
    trained_size: Size | None = None
    trained_frames: int | None = None

    @property
    def samplers(self) -> tuple[str, ...]:
        """The samplers; the first is the default."""
        return self._choices("sampler")

    @property
    def schedules(self) -> tuple[str, ...]:
        """The noise schedules; the first is the default."""
        return self._choices("schedule")

    def _choices(self, name: str) -> tuple[str, ...]:
        field = self.fields.get(name)
        return () if field is None else field.choices

    def to_dict(self) -> dict[str, Any]:
        """The metadata as JSON-ready data."""
        return asdict(self)

    def to_json(self) -> str:
        """The metadata as it travels: JSON with its version, in ASCII."""
        return json.dumps({"version": VERSION, **self.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Parses metadata; what is not known here is left out.

        Raises:
            ValueError: not metadata of this version.
        """
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("version") != VERSION:
            raise ValueError(f"not metadata of version {VERSION}")
        try:
            return cls(**{**_known(cls, body), **_nested(body)})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"incomplete metadata: {error}") from error


def describe(manifest: Manifest, *, release: str, max_active: int, max_waiting: int) -> Metadata:
    """The metadata of a server of this release that serves a checkpoint.

    Args:
        manifest: the facts of the served checkpoint.
        release: the version of Zoetrope.
        max_active: requests that run at the same time.
        max_waiting: requests that wait.
    """
    shared = {entry.name for entry in fields(Metadata)} & {entry.name for entry in fields(Manifest)}
    return Metadata(
        **{name: getattr(manifest, name) for name in shared},
        release=release,
        previews=manifest.latent_rgb is not None,
        fields=_request_fields(),
        formats={name: OutputFormat(**asdict(row)) for name, row in FORMATS.items()},
        limits=Limits(max_active=max_active, max_waiting=max_waiting),
    )


def _request_fields() -> dict[str, Field]:
    defaults = {entry.name: entry.default for entry in fields(GenerateRequest)}
    return {
        name: Field(
            type="array" if rule.type is tuple else rule.type.__name__,
            doc=rule.doc,
            allowed=rule.allowed,
            default=defaults[name],
            low=rule.low,
            high=rule.high,
            choices=rule.choices,
        )
        for name, rule in field_rules().items()
    }


def _nested(body: Mapping[str, Any]) -> dict[str, Any]:
    """The members that are not JSON's own types; raises KeyError, TypeError or AttributeError."""
    found = {
        "sizes": tuple(map(_pair, body["sizes"])),
        "size_ranges": tuple((_pair(low), _pair(high)) for low, high in body.get("size_ranges", ())),
        "num_frames": tuple(body["num_frames"]),
        "fields": {name: Field(**_known(Field, each)) for name, each in body["fields"].items()},
        "formats": {name: OutputFormat(**_known(OutputFormat, row)) for name, row in body["formats"].items()},
        "limits": Limits(**_known(Limits, body["limits"])),
    }
    pairs = {name: _pair(body[name]) for name in ("frame_range", "trained_size") if body.get(name)}
    return {**found, **pairs}


def _known(kind: type[Any], body: Mapping[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in body.items()
        if name in names
    }


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
