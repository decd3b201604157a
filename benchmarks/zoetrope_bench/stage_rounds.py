"""Contenders of one stage take turns, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from zoetrope_bench.stage_report import Row
from zoetrope_bench.stage_tasks import Task
from zoetrope_bench.workers import Setup, Turn, Worker, WorkerFailed


class Contender:
    """A worker and the record of what it did; once it has failed it takes no more turns."""

    def __init__(self, task: Task, worker: Worker) -> None:
        """Waits until the worker is ready, or has failed."""
        self.task, self._worker = task, worker
        self.turns: list[Turn] = []
        self._setup: Setup | None = None
        self._failure: str | None = None
        try:
            self._setup = worker.ready()
        except WorkerFailed as error:
            self._failure = str(error)

    def turn(self) -> None:
        """Takes one turn."""
        if self._failure is not None:
            return
        try:
            self.turns.append(self._worker.turn())
        except WorkerFailed as error:
            self._failure = str(error)

    def row(self, flops: int) -> Row:
        """The row of the report, for a call of so many floating point operations."""
        return Row(
            task=self.task,
            seconds=tuple(statistics.median(turn.seconds) for turn in self.turns),
            flops=flops,
            memory=max((turn.peak for turn in self.turns), default=0),
            setup_seconds=self._setup.seconds if self._setup else 0.0,
            setup_memory=self._setup.peak if self._setup else 0,
            failure=self._failure,
        )


def measure(tasks: Iterable[Task], *, flops: int, rounds: int, others: Sequence[Contender] = ()) -> list[Row]:
    """Measures the contenders of one stage: all get ready, one after the other, and then take turns.

    Args:
        tasks: what is measured.
        flops: floating point operations of a call of the stage.
        rounds: the turns of each.
        others: contenders that live longer, and take their turns in each round too.

    Returns:
        A row for each task, in their order.
    """
    with ExitStack() as stack:
        contenders = [Contender(task, stack.enter_context(Worker(task))) for task in tasks]
        for _ in range(rounds):
            for contender in (*contenders, *others):
                contender.turn()
        return [contender.row(flops) for contender in contenders]


def best_rate(contender: Contender, flops: int) -> float | None:
    """Floating point operations a second of the fastest call; None without one."""
    seconds = [each for turn in contender.turns for each in turn.seconds]
    return flops / min(seconds) if seconds else None
