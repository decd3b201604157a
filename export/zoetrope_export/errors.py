"""What can go wrong between a checkpoint and a model repository."""

from __future__ import annotations

from zoetrope_core.errors import ZoetropeError


class ExportError(ZoetropeError):
    """The export cannot go on; the message says what to change."""

    code = "export"


class ParityError(ExportError):
    """An engine does not compute what the checkpoint computes. Details: `stages`."""

    code = "parity"
