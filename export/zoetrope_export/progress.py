"""The progress of an export on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class ExportProgress:
    """A line for what is being done, and a bar for each phase of an engine's builder."""

    def __init__(self, console: Console) -> None:
        """Shows itself on `console` while it is used as a context."""
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._line = self._bars.add_task("exporting", total=None)
        self._phases: dict[str, TaskID] = {}

    def __enter__(self) -> ExportProgress:
        """Begins to show."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clears what was shown."""
        self._bars.stop()

    def report(self, text: str) -> None:
        """What is being done now."""
        self._bars.update(self._line, description=text)

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of a build begins."""
        self._phases[phase] = self._bars.add_task(f"  {phase}", total=steps)

    def step_complete(self, phase: str, step: int) -> bool:
        """A step of a phase is done; always goes on."""
        if phase in self._phases:
            self._bars.update(self._phases[phase], completed=step + 1)
        return True

    def phase_finish(self, phase: str) -> None:
        """A phase is over."""
        if phase in self._phases:
            self._bars.remove_task(self._phases.pop(phase))
