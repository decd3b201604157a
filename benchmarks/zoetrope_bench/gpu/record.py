"""What one part measured and checked, in a JSON file that is always up to date."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Value = float | int | str | bool
Step = tuple[str, Callable[[], None]]
"""The name of a step and what it does."""
RUNNING, DONE, FAILED, NOT_RUN = "running", "done", "failed", "not run"
_LONGEST_ERROR = 2000


class OutOfTime(BaseException):
    """The time of the part is over. Not an Exception, so that no library swallows it."""


class Record:
    """The file of one part.

    Attributes:
        ends: when its time is over, on the monotonic clock.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], *, limit_s: float) -> None:
        """Begins the file.

        Args:
            path: the file.
            facts: what the part is and where it runs.
            limit_s: its time.
        """
        self._path = path
        self._began = time.monotonic()
        self.ends = self._began + limit_s
        self._step = ""
        self._body: dict[str, Any] = {**facts, "limit_s": round(limit_s, 1), "status": RUNNING}
        self._body |= {"figures": [], "checks": [], "steps": [], "details": {"paths": []}}
        self.save()

    def add(self, name: str, value: Value, unit: str = "") -> None:
        """Notes a figure."""
        if isinstance(value, float):
            value = float(f"{value:.5g}") if math.isfinite(value) else str(value)
        self._body["figures"].append({"step": self._step, "name": name, "measured": value, "unit": unit})
        self.save()

    def check(self, name: str, passed: bool, found: Value = "") -> None:
        """Notes whether something is as it must be, and what was found."""
        entry = {"step": self._step, "name": name, "passed": bool(passed), "found": found}
        self._body["checks"].append(entry)
        self.save()

    def ran(self, *, engine: str, precision: str, shapes: str, stages: Sequence[str]) -> None:
        """Notes that a path of the GPU has run, for docs/status.md."""
        path = {"engine": engine, "host": "python", "precision": precision, "shapes": shapes}
        self._body["details"]["paths"].append({**path, "stages": list(stages)})
        self.save()

    def run(self, steps: Sequence[Step], lost: Callable[[], bool]) -> bool:
        """Runs steps in order; one that fails does not end the others, unless the device is lost.

        Args:
            steps: all steps of the part; those that do not run are noted with the reason.
            lost: whether the device still answers.

        Returns:
            Whether all of them ran, without an error and with all checks passed.
        """
        entries = [{"name": name, "status": NOT_RUN, "reason": "not reached"} for name, _ in steps]
        self._body["steps"] = entries
        reason = ""
        for entry, (name, work) in zip(entries, steps, strict=True):
            if time.monotonic() >= self.ends:
                reason = reason or "the time is over"
            if reason:
                entry["reason"] = reason
                continue
            try:
                with self._running(entry, name):
                    work()
            except OutOfTime:
                reason = "the time is over"
            if entry["status"] == FAILED and lost():
                reason = f"the device was lost in {name}"
        return self._finish()

    @contextmanager
    def _running(self, entry: dict[str, Any], name: str) -> Iterator[None]:
        """Notes how a step goes; its errors are noted too, but for the end of the time, which is raised."""
        self._step, began = name, time.monotonic()
        entry.pop("reason", None)
        entry["status"] = RUNNING
        self.save()
        try:
            yield
            entry["status"] = DONE
        except (Exception, OutOfTime) as error:
            entry["status"] = FAILED
            entry["error"] = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            if isinstance(error, OutOfTime):
                raise
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)
            self.save()

    def _finish(self) -> bool:
        ran = all(entry["status"] == DONE for entry in self._body["steps"])
        good = ran and all(entry["passed"] for entry in self._body["checks"])
        self._body["status"] = DONE if good else FAILED
        self.save()
        return good

    def save(self) -> None:
        """Writes the file; whoever reads it meanwhile finds the one before."""
        self._body["seconds"] = round(time.monotonic() - self._began, 2)
        scratch = self._path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self._body, indent=1) + "\n")
        scratch.replace(self._path)


def close_killed(path: Path, reason: str) -> None:
    """Completes the file of a part that was ended from outside."""
    body = json.loads(path.read_text()) if path.is_file() else {"steps": [], "checks": [], "figures": []}
    for entry in body["steps"]:
        if entry["status"] == RUNNING:
            entry |= {"status": FAILED, "error": reason}
        elif entry["status"] == NOT_RUN:
            entry["reason"] = reason
    body |= {"status": FAILED, "error": reason}
    path.write_text(json.dumps(body, indent=1) + "\n")
