"""The sidecar of an engine file: what it was built from, for what, and the checksum that proves it whole.

A compiled engine is bound to the library that made it and to the kind of GPU it was made for; what a foreign
one does is undefined. So `zoetrope export` writes `FILE.json` beside each engine file, and a host reads it
before it hands a single byte to the engine's library.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from zoetrope_core.specs import StageSpec
from zoetrope_server.engines import EngineError

VERSION = 1
_KEY_IN_NAME = 8
Range = tuple[int, int, int]
"""The least, the usual and the largest value of a symbol of the stage specs."""
Profile = Mapping[str, Range]
"""One optimization profile: the range of each dynamic symbol, and of B, the batch."""
REBUILD = "build it again with `zoetrope export` on this machine"
"""What to do about an engine that is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Everything that changes an engine file.

    Attributes:
        stage: the stage's name.
        library: what builds and runs it: `tensorrt`, `tensorrt_rtx` or `torch`.
        library_version: the version of that library.
        target: what it runs on, such as `sm90` or `cpu`.
        gpu: the GPU that was there when it was built; empty when it was built ahead of time.
        driver: that GPU's driver; empty likewise.
        precision: the precision of the stage.
        graph: SHA-256 of the graph without its weights.
        weights: SHA-256 of the weights.
        profiles: the optimization profiles; empty when the engine takes any shape.
        options: other options of the builder that change its result.
    """

    stage: str
    library: str
    library_version: str
    target: str
    precision: str
    graph: str
    weights: str
    gpu: str = ""
    driver: str = ""
    profiles: tuple[Profile, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of the key, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def file_name(self) -> str:
        """The engine's file name, such as `unet-fp16-sm90-trt11.4-1f2e3d4c.plan`."""
        tag, suffix = _TAGS[self.library]
        version = ".".join(self.library_version.split("+")[0].split(".")[:2])
        return (
            f"{self.stage}-{self.precision}-{self.target}-{tag}{version}-"
            f"{self.digest()[:_KEY_IN_NAME]}.{suffix}"
        )


_TAGS: Mapping[str, tuple[str, str]] = {
    "tensorrt": ("trt", "plan"),
    "tensorrt_rtx": ("trtrtx", "plan"),
    "torch": ("torch", "pt2"),
}
"""The library's tag and the suffix of its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What is known of an engine file: its key, its size, its checksum and how long it took to build."""

    key: EngineKey
    sha256: str
    size: int
    build_seconds: float

    @classmethod
    def of(cls, file: Path, key: EngineKey, build_seconds: float) -> Sidecar:
        """The sidecar of a file that was just built."""
        size = file.stat().st_size
        return cls(key=key, sha256=checksum(file), size=size, build_seconds=round(build_seconds, 3))

    def save(self, engine: Path) -> None:
        """Writes `FILE.json` beside the engine file: all of it, or nothing if the machine stops."""
        body = {"version": VERSION, "digest": self.key.digest(), **asdict(self)}
        path = sidecar_path(engine)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(json.dumps(body, indent=2) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(scratch).chmod(0o644)
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, engine: Path) -> Sidecar:
        """Reads the sidecar of an engine file.

        Raises:
            EngineError: it is missing, unreadable, of another version or has been edited.
        """
        path = sidecar_path(engine)
        try:
            body = json.loads(path.read_text())
            if body["version"] != VERSION:
                raise EngineError(
                    f"{path} has version {body['version']}, this release reads {VERSION}; {REBUILD}"
                )
            key = _key(body["key"])
            sidecar = cls(
                key=key, sha256=body["sha256"], size=body["size"], build_seconds=body["build_seconds"]
            )
        except OSError as error:
            raise EngineError(f"{engine.name} has no readable sidecar ({error}); {REBUILD}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"{path} is no sidecar of an engine ({error}); {REBUILD}") from error
        if body.get("digest") != key.digest() or engine.name != key.file_name():
            raise EngineError(f"{path} does not belong to {engine.name}: its key is another; {REBUILD}")
        return sidecar


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine file lies."""
    return engine.with_name(f"{engine.name}.json")


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(engine: Path, expected: Mapping[str, str]) -> Sidecar:
    """Proves that an engine file is whole and was built for this place.

    Args:
        engine: the engine file.
        expected: fields of `EngineKey` and the values that they must have here.

    Raises:
        EngineError: the file is missing, damaged, stale or foreign; the message says what differs.
    """
    sidecar = Sidecar.load(engine)
    if not engine.is_file():
        raise EngineError(f"no engine at {engine}, only its sidecar; {REBUILD}")
    if different := differences(sidecar.key, expected):
        raise EngineError(f"{engine.name} was built for another place: {'; '.join(different)}; {REBUILD}")
    if (size := engine.stat().st_size) != sidecar.size:
        raise EngineError(f"{engine.name} is damaged: {size} bytes, built with {sidecar.size}; {REBUILD}")
    if checksum(engine) != sidecar.sha256:
        raise EngineError(f"{engine.name} is damaged: its checksum is not the one of the build; {REBUILD}")
    return sidecar


def differences(key: EngineKey, expected: Mapping[str, str]) -> list[str]:
    """What of a key is not as expected, one phrase for each field."""
    return [
        f"{name.replace('_', ' ')} is {getattr(key, name) or 'none'}, here {value or 'none'}"
        for name, value in expected.items()
        if getattr(key, name) != value
    ]


def find_engine(directory: Path, stage: str) -> Path:
    """The one engine file with a sidecar in the version folder of a stage's model.

    Raises:
        EngineError: there is none, or there are several.
    """
    suffixes = {suffix for _, suffix in _TAGS.values()}
    found = sorted(
        path for path in directory.glob(f"{stage}-*.json") if path.stem.rpartition(".")[2] in suffixes
    )
    if len(found) == 1:
        return found[0].with_suffix("")
    if not found:
        raise EngineError(f"no engine of {stage} in {directory}: run `zoetrope export` again")
    names = ", ".join(path.stem for path in found)
    raise EngineError(f"several engines of {stage} in {directory}: {names}; leave one of them")


def fitting_profile(
    stage: StageSpec, profiles: Sequence[Profile], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """The narrowest optimization profile that takes the shapes of the inputs.

    Args:
        stage: the stage's spec.
        profiles: the profiles of its engine.
        shapes: the shape of each input, with its batch dimension.

    Raises:
        EngineError: none takes them; the message gives their ranges.
    """
    sizes = stage.symbols_of(shapes)
    fitting = [
        (math.prod(high - low + 1 for low, _, high in profile.values()), index)
        for index, profile in enumerate(profiles)
        if all(low <= sizes[symbol] <= high for symbol, (low, _, high) in profile.items())
    ]
    if not fitting:
        asked = ", ".join(f"{symbol}={size}" for symbol, size in sorted(sizes.items()))
        built = "; ".join(
            ", ".join(f"{symbol}={low}..{high}" for symbol, (low, _, high) in sorted(profile.items()))
            for profile in profiles
        )
        raise EngineError(f"{stage.name}: no profile of the engine takes {asked}; built for {built}")
    return min(fitting)[1]


def _key(data: Mapping[str, Any]) -> EngineKey:
    """A key from parsed JSON; raises TypeError or ValueError for other fields."""
    names = {each.name for each in fields(EngineKey)}
    if set(data) != names:
        raise ValueError(f"fields that differ: {', '.join(sorted(set(data) ^ names))}")
    profiles = tuple(
        {symbol: (int(low), int(usual), int(high)) for symbol, (low, usual, high) in profile.items()}
        for profile in data["profiles"]
    )
    return EngineKey(**{**data, "profiles": profiles})
