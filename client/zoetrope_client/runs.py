"""Runs the jobs of `zoetrope generate` side by side; one that fails does not end the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope_client.aio import AsyncClient
from zoetrope_client.events import Preview
from zoetrope_client.jobs import Job
from zoetrope_client.progress import Board
from zoetrope_client.video import Assembly, Video, write_whole
from zoetrope_core.errors import ZoetropeError

OK, FAILED, UNAVAILABLE, INVALID, INTERRUPTED = 0, 1, 3, 4, 130
_EXIT_CODES = {"UNAVAILABLE": UNAVAILABLE, "INVALID_ARGUMENT": INVALID}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job ended: with its video, which is written, or with an error."""

    job: Job
    video: Video | None = None
    error: ZoetropeError | OSError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of a command that does this job alone."""
        return OK if self.error is None else exit_code_of(self.error)

    def to_json(self) -> str:
        """One line: the video's facts, or the error's."""
        named = {"image": self.job.name, "output": str(self.job.output)}
        return json.dumps(named | (_facts(self.video) if self.video else {"error": self._error()}))

    def _error(self) -> dict[str, Any]:
        if isinstance(self.error, ZoetropeError):
            return self.error.to_event()
        return {"code": "os_error", "message": str(self.error)}


def exit_code_of(error: Exception) -> int:
    """The exit code of a command that ends with an error."""
    return _EXIT_CODES.get(error.status, FAILED) if isinstance(error, ZoetropeError) else FAILED


def combined(codes: Iterable[int]) -> int:
    """The exit code of several jobs: that of the failures if all have the same, else `FAILED`."""
    failures = set(codes) - {OK}
    return failures.pop() if len(failures) == 1 else FAILED if failures else OK


async def run_all(
    jobs: Sequence[Job],
    *,
    connection: Mapping[str, Any],
    call: Mapping[str, Any],
    side_by_side: int,
    board: Board,
    report: Callable[[Outcome], None],
) -> list[int]:
    """Does all jobs and gives the exit code of each; cancelling it cancels what runs on the server.

    Args:
        jobs: what to do.
        connection: arguments of `AsyncClient`.
        call: further arguments of its `stream`.
        side_by_side: how many run at the same time.
        board: where their progress is shown.
        report: is told of each outcome as it comes; an OSError of it ends all.
    """
    places = asyncio.Semaphore(side_by_side)
    async with AsyncClient(**connection) as client:

        async def do(job: Job) -> int:
            async with places:
                outcome = await _outcome(client, job, call, board)
            report(outcome)
            return outcome.exit_code  # and not the video, of which there may be thousands

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(do(job)) for job in jobs]
        except* OSError as failed:
            # Such as a closed standard output: nobody would hear of the other outcomes.
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


async def _outcome(client: AsyncClient, job: Job, call: Mapping[str, Any], board: Board) -> Outcome:
    task = board.begin(Path(job.name).name)
    try:
        video = await _generate(client, job, call, lambda event: board.show(task, event))
        await asyncio.to_thread(video.save, job.output)
    except (ZoetropeError, OSError) as error:
        return Outcome(job=job, error=error)
    finally:
        board.end(task)
    return Outcome(job=job, video=video)


async def _generate(
    client: AsyncClient, job: Job, call: Mapping[str, Any], show: Callable[[Any], None]
) -> Video:
    format = {} if job.format is None else {"format": job.format}
    assembly = Assembly()
    async with aclosing(client.stream(job.image, **{**call, **format})) as events:
        async for event in events:
            assembly.add(event)
            show(event)
            if isinstance(event, Preview) and job.preview is not None:
                await asyncio.to_thread(write_whole, event.image, job.preview)
    return assembly.video()


def _facts(video: Video) -> dict[str, Any]:
    sizes = {name: video.parameters.get(name) for name in ("width", "height", "num_frames", "fps")}
    return {
        "id": video.id,
        "seed": video.seed,
        **sizes,
        "video_bytes": len(video.data),
        "timings": dict(video.timings),
        "parameters": dict(video.parameters),
        "warnings": [warning.message for warning in video.warnings],
    }
