"""A live board of bars, one for each picture under way, and of their previews."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from zoetrope_client.blocks import HalfBlocks
from zoetrope_client.events import Accepted, Done, Event, Heartbeat, Preview
from zoetrope_client.events import Progress as StageProgress


class Board:
    """A context manager; shows nothing where `console` is not a terminal."""

    def __init__(self, console: Console, *, previews: bool = False) -> None:
        """Takes where it is shown, and whether previews are."""
        self._bars = Progress(*_columns(), console=console)
        self._previews: dict[TaskID, HalfBlocks] | None = {} if previews else None
        self._live = Live(
            console=console,
            transient=True,
            get_renderable=self._board,
            # What goes to a file must not land on the terminal.
            redirect_stdout=sys.stdout.isatty(),
            refresh_per_second=8,
        )
        self._shown = console.is_terminal

    def __enter__(self) -> Self:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, name: str) -> TaskID:
        """Adds a bar."""
        return self._bars.add_task("connecting", total=None, name=name, eta="")

    def show(self, task: TaskID, event: Event) -> None:
        """Shows an event of a picture."""
        if isinstance(event, Preview) and self._previews is not None:
            with suppress(OSError, ValueError):
                self._previews[task] = HalfBlocks(event.image)
        if (state := describe(event)) is not None:
            description, step, steps, eta = state
            self._bars.update(task, description=description, completed=step, total=steps, eta=eta)

    def end(self, task: TaskID) -> None:
        """Takes the bar away."""
        self._bars.remove_task(task)
        if self._previews is not None:
            self._previews.pop(task, None)

    def _board(self) -> Group:
        return Group(self._bars, Columns(list((self._previews or {}).values())))


def _columns() -> tuple[ProgressColumn, ...]:
    name = Column(max_width=24, overflow="ellipsis", no_wrap=True)
    return (
        SpinnerColumn(),
        TextColumn("{task.fields[name]}", markup=False, table_column=name),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )


def describe(event: Event) -> tuple[str, int, int | None, str] | None:
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
