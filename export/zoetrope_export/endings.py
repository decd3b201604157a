"""How the commands of the exporter end: an error is one line, a signal takes away what was begun."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from zoetrope_core.errors import ZoetropeError


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM, as of `docker stop`, end the block as Ctrl-C does: what was begun is taken away."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def errors_to_exit() -> Iterator[None]:
    """Turns an error of the export or of the machine's files into one line on stderr and exit code 1."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        yield
    except (ZoetropeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
