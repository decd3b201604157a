"""What is asked for: classes of requests, each with its weight, picture and fields."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zoetrope_client.codec import build_request
from zoetrope_core.errors import InvalidRequest

DEMO_PHOTO = Path(__file__).parents[3] / "demo" / "photo.jpg"
"""The picture of a clone; an installed package has none."""
ALL = "all"
"""The name of a class that is alone, and of all classes together."""
_KEYS = {"weight", "image", "request"}


class BadMix(ValueError):
    """The file of the mix cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClass:
    """One kind of request.

    Attributes:
        name: as in the report.
        picture: an encoded picture.
        weight: its share, relative to the weights of the others.
        fields: the request's fields; without a `seed` each request gets its own number as its seed.
    """

    name: str
    picture: bytes
    weight: float = 1.0
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_mix(path: Path, picture: Path | None = None) -> tuple[RequestClass, ...]:
    """The classes of a YAML file: `classes: {NAME: {weight, image, request}}`, all three optional.

    Args:
        path: the file; pictures are named relative to its folder.
        picture: for classes without one; the demo photo by default.

    Raises:
        BadMix: the file is not of that form, or a request is invalid.
        OSError: a file cannot be read.
    """
    try:
        body = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadMix(f"{path} is not YAML: {error}") from error
    classes = body.get("classes") if isinstance(body, dict) and set(body) == {"classes"} else None
    if not isinstance(classes, dict) or not classes:
        raise BadMix(f"{path}: expected `classes:` with at least one name under it, and nothing else")
    found = tuple(
        _class(str(name), entry or {}, path.parent, picture or DEMO_PHOTO) for name, entry in classes.items()
    )
    if ALL in classes:
        raise BadMix(f"{path}: `{ALL}` stands for all classes together, name the class otherwise")
    if not sum(one.weight for one in found):
        raise BadMix(f"{path}: at least one weight must be above 0")
    return found


def single(picture: Path | None, fields: Mapping[str, Any]) -> tuple[RequestClass, ...]:
    """The mix of one class; raises BadMix or OSError."""
    return (_class(ALL, {"request": dict(fields)}, Path(), picture or DEMO_PHOTO),)


def _class(name: str, entry: Any, folder: Path, picture: Path) -> RequestClass:
    if not isinstance(entry, dict) or not set(entry) <= _KEYS:
        raise BadMix(f"class {name}: expected some of {', '.join(sorted(_KEYS))}, got {entry!r}")
    weight, fields = entry.get("weight", 1.0), entry.get("request") or {}
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise BadMix(f"class {name}: the weight is a number from 0, got {weight!r}")
    if not isinstance(fields, dict):
        raise BadMix(f"class {name}: `request` holds fields of the request, got {fields!r}")
    try:
        build_request(None, fields)
    except InvalidRequest as error:
        raise BadMix(f"class {name}: {error}") from error
    image = folder / str(entry["image"]) if "image" in entry else picture
    return RequestClass(name=name, picture=image.read_bytes(), weight=float(weight), fields=fields)


class Draw:
    """Draws classes by their weights from a seed of its own, apart from that of the arrivals."""

    def __init__(self, classes: Sequence[RequestClass], seed: int | str) -> None:
        self._classes = classes
        self._weights = [one.weight for one in classes]
        self._random = random.Random(f"classes {seed}")

    def __call__(self) -> RequestClass:
        """The class of the next request."""
        return self._random.choices(self._classes, self._weights)[0]
