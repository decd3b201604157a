"""What `zoetrope generate` is to do: which pictures, and where each of their videos goes."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoetrope_core.contract import MAX_IMAGE_BYTES
from zoetrope_core.formats import FORMATS, format_of

STDIN = "-"
TERMINAL = "-"
_PLACEHOLDERS = ("{name}", "{index}")


class UsageError(ValueError):
    """What was asked for on the command line cannot be meant; `option` names where."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One picture and its video.

    Attributes:
        name: the picture as it was named; `-` for standard input.
        image: the picture's file, or its bytes.
        output: the video to write.
        format: the format that the output's name asks for; None where it says nothing.
        preview: where the newest preview is kept; None keeps none.
    """

    name: str
    image: Path | bytes
    output: Path
    format: str | None
    preview: Path | None = None


def plan(images: Sequence[str], output: str, preview: str | None, format: str | None) -> list[Job]:
    """The jobs of a command line.

    Args:
        images: files, patterns such as `photos/*.jpg`, and `-` for standard input.
        output: a file for one picture; for several an existing folder, or a name with `{name}` or `{index}`.
        preview: the same for previews; None keeps none.
        format: the format that was asked for, which the files in a folder are named after.

    Raises:
        UsageError: nothing matches, a folder is missing, or two videos would have one name.
        OSError: standard input cannot be read.
    """
    names = list(dict.fromkeys(name for image in images for name in _expanded(image)))
    outputs = _targets(names, output, FORMATS.get(format or "mp4", FORMATS["mp4"]).suffixes[0], "--output")
    previews: Sequence[Path | None] = [None] * len(names)
    if preview is not None:
        previews = _targets(names, preview, ".webp", "--preview")
    _check_distinct(names, [*outputs, *(path for path in previews if path is not None)])
    return [
        Job(
            name=name,
            image=_stdin() if name == STDIN else Path(name),
            output=target,
            format=format or format_of(target),
            preview=kept,
        )
        for name, target, kept in zip(names, outputs, previews, strict=True)
    ]


def _expanded(image: str) -> Iterator[str]:
    """The files that an argument means; a quoted pattern means what the shell would have made of it."""
    if image == STDIN or Path(image).is_file():
        yield image
        return
    if Path(image).is_dir():
        raise UsageError(f"{image} is a folder; give {image.rstrip('/')}/*.jpg or the like", "images")
    found = [path for path in sorted(glob.glob(image, recursive=True)) if Path(path).is_file()]
    if not found:
        matches = "no picture matches" if glob.has_magic(image) else "there is no file"
        raise UsageError(f"{matches} {image}", "images")
    yield from found


def _targets(names: Sequence[str], target: str, suffix: str, option: str) -> list[Path]:
    """The file of each picture."""
    if not any(placeholder in target for placeholder in _PLACEHOLDERS):
        if not (target.endswith("/") or Path(target).is_dir()):
            if len(names) > 1:
                raise UsageError(
                    f"{len(names)} pictures need a folder, or a name with {{name}} or {{index}}", option
                )
            return [_in_folder(Path(target), option)]
        target = f"{target.rstrip('/') or '/'}/{{name}}{suffix}"
    width = len(str(len(names)))
    return [
        _in_folder(
            Path(target.replace("{index}", f"{index:0{width}}").replace("{name}", _stem(name))), option
        )
        for index, name in enumerate(names, 1)
    ]


def _in_folder(path: Path, option: str) -> Path:
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", option)
    if path.is_dir():
        raise UsageError(f"{path} is a folder", option)
    return path


def _stem(name: str) -> str:
    return "stdin" if name == STDIN else Path(name).stem


def _check_distinct(names: Sequence[str], targets: Sequence[Path]) -> None:
    """Refuses to write one file twice, or over a picture."""
    counts = Counter(path.resolve() for path in targets)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise UsageError(f"several pictures or previews would be written to {twice[0]}", "--output")
    pictures = {Path(name).resolve() for name in names if name != STDIN}
    if lost := pictures & set(counts):
        raise UsageError(f"{lost.pop()} is one of the pictures, and would be overwritten", "--output")


def _stdin() -> bytes:
    """Standard input, and at most so much that the client can say that it is too much."""
    return sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
