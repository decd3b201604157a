"""A live progress bar over the responses of a stream."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from zoetrope_core.contract import Response
from zoetrope_core.events import Accepted, Done, Event, Heartbeat
from zoetrope_core.events import Progress as StageProgress


def watch(responses: Generator[Response, None, None], console: Console) -> Generator[Response, None, None]:
    """Passes the responses on and shows stage, step and time left; closing it closes the stream.

    Nothing is shown where `console` is not a terminal.
    """
    with closing(responses):
        if console.is_terminal:
            yield from _shown(responses, console)
        else:
            yield from responses


def _shown(responses: Generator[Response, None, None], console: Console) -> Generator[Response, None, None]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("connecting", total=None, eta="")
        for response in responses:
            if (state := describe(response.event)) is not None:
                description, step, steps, eta = state
                bar.update(task, description=description, completed=step, total=steps, eta=eta)
            yield response


def describe(event: Event | None) -> tuple[str, int, int | None, str] | None:
    """What the bar shows for an event: description, steps done, steps (None: unknown), time left."""
    match event:
        case Accepted():
            return "accepted", 0, None, ""
        case Heartbeat(waiting=waiting):
            return f"waiting, {waiting} before this one", 0, None, ""
        case StageProgress(stage=stage, step=step, steps=steps, eta_seconds=eta):
            return stage.replace("_", " "), step, steps, "" if eta is None else f"{eta:.0f} s left"
        case Done():
            return "done", 1, 1, ""
        case _:
            return None
