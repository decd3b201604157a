"""What a check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from zoetrope_core.errors import ZoetropeError
from zoetrope_server.engines import EngineError
from zoetrope_server.engines.sidecar import REBUILD


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Something optional is not there."""
    WARNING = "warning"
    """It serves, but worse than it could, or not under load."""
    ERROR = "error"
    """It does not serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        level: how much it matters.
        found: what is there, or what is wrong.
        advice: what to do about it; empty when there is nothing to do.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def refused(name: str, error: ZoetropeError) -> Finding:
    """The finding of a check that raised what serving would raise."""
    found, advice = _of_engine(error.message) if isinstance(error, EngineError) else _halves(error.message)
    return Finding(name=name, level=Level.ERROR, found=found, advice=advice)


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """Those that prevent serving."""
    return [finding for finding in findings if finding.level is Level.ERROR]


def _of_engine(message: str) -> tuple[str, str]:
    """The messages about engines end in `; build it again …`, or name the export themselves."""
    return message.removesuffix(f"; {REBUILD}"), "" if "pip install" in message else REBUILD


def _halves(message: str) -> tuple[str, str]:
    """The launcher writes `what is wrong: what to do`; colons inside parentheses do not count."""
    depth = 0
    for index, character in enumerate(message):
        depth += (character == "(") - (character == ")")
        if depth == 0 and message.startswith(": ", index):
            return message[:index], message[index + 2 :]
    return message, ""
