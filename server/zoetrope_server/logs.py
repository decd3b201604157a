"""Logging of a process inside Triton: one line a record on standard error, like Triton's own."""

from __future__ import annotations

import logging
import sys


def configure(model: str) -> None:
    """Sends the log of this process to standard error, each line naming the model."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s {model} %(name)s %(message)s",
        force=True,
    )
