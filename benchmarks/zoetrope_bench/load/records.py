"""The raw records of a run: one JSON object a line, written while it runs; all else is a fold over them.

The first line is the run (`"kind": "run"`), the last its end (`"end"`); between them stand requests
(`"request"`) in the order in which they ended, and samples of the server's metrics (`"metrics"`). Times are
seconds after the beginning of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

VERSION = 1
SERVED, REFUSED, FAILED, ABANDONED = "served", "refused", "failed", "abandoned"
OUTCOMES = (SERVED, REFUSED, FAILED, ABANDONED)
DONE, UNSENT, UNFINISHED = "done", "unsent", "unfinished"
REFUSALS = frozenset({"overloaded", "draining", "deadline", "unavailable"})
"""Codes with which a server says that it does not serve a request now."""


class BadRecords(ValueError):
    """The file is not one of records; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request.

    Attributes:
        index: its number in the schedule.
        request_class: the name of its class.
        warmup: whether it is left out of the figures.
        intended: when it was due; latency counts from here.
        sent: when it was sent; None for `unsent`.
        first_response: the first response of any kind.
        accepted: the event `accepted`.
        first_progress: the first event `progress`.
        first_step: the end of the first denoising step.
        first_preview: the first preview.
        first_frames: the first decoded frames.
        first_fragment: the first piece of the video.
        ended: its end, however it ended.
        code: `done`, the code of its error, `unsent` (too many were in flight) or `unfinished` (given up at
            the end of the run).
        status: the gRPC status that belongs to it.
        message: what was wrong.
        retry_after_s: what a refusal asked for.
        bytes: bytes of video, previews and frames that were received.
        video_bytes: the size of the video by `done`.
        size: width, height and frames of the video.
        timings: seconds by stage, by `done`.
    """

    index: int
    request_class: str
    intended: float
    warmup: bool = False
    sent: float | None = None
    first_response: float | None = None
    accepted: float | None = None
    first_progress: float | None = None
    first_step: float | None = None
    first_preview: float | None = None
    first_frames: float | None = None
    first_fragment: float | None = None
    ended: float | None = None
    code: str = UNFINISHED
    status: str = "CANCELLED"
    message: str = ""
    retry_after_s: float | None = None
    bytes: int = 0
    video_bytes: int = 0
    size: tuple[int, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`.

        `refused` is what the server did not take; what it took and then did not serve, in time or at all, has
        `failed`. `abandoned` is what the generator itself did not send or gave up.
        """
        if self.code == DONE:
            return SERVED
        if self.code in (UNSENT, UNFINISHED):
            return ABANDONED
        refused = self.code in REFUSALS and self.accepted is None and self.status == "UNAVAILABLE"
        return REFUSED if refused else FAILED

    @property
    def latency(self) -> float | None:
        """Seconds from the intended time to the end, whatever delayed its sending; None when abandoned."""
        return None if self.ended is None or self.outcome == ABANDONED else self.ended - self.intended

    @property
    def lag(self) -> float | None:
        """Seconds by which the generator sent it too late."""
        return None if self.sent is None else self.sent - self.intended

    def since_intended(self, name: str) -> float | None:
        """Seconds from the intended time to one of the moments, such as `first_response`."""
        moment: float | None = getattr(self, name)
        return None if moment is None else moment - self.intended


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The server's metrics at one moment: values by name, with `:MODEL` where each model has one."""

    at: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as read from its records.

    Attributes:
        parameters: what it was run with.
        machine: where, see `zoetrope_bench.report.machine`.
        began_at: when, in UTC.
        records: the requests, in the order in which they were due.
        samples: the metrics over time.
        interrupted: whether it was stopped before its time, or its end is missing.
        seconds: how long it ran, to the last answer.
    """

    parameters: Mapping[str, Any]
    machine: Mapping[str, Any]
    began_at: str
    records: tuple[Record, ...] = ()
    samples: tuple[Sample, ...] = ()
    interrupted: bool = True
    seconds: float = 0.0


class Log:
    """Writes records as they come; each line is with the operating system before the next one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def run(self, parameters: Mapping[str, Any], machine: Mapping[str, Any], began_at: str) -> None:
        """The first line."""
        self._line("run", version=VERSION, began_at=began_at, parameters=parameters, machine=machine)

    def request(self, record: Record) -> None:
        """A request that has ended; what it does not have is left out."""
        body = {
            name: _short(value) for name, value in asdict(record).items() if value not in (None, "", (), {})
        }
        self._line("request", **body)

    def sample(self, sample: Sample) -> None:
        """A sample of the metrics."""
        self._line("metrics", at=_short(sample.at), values=sample.values)

    def end(self, seconds: float, interrupted: bool) -> None:
        """The last line."""
        self._line("end", seconds=_short(seconds), interrupted=interrupted)

    def _line(self, kind: str, **body: Any) -> None:
        self._file.write(json.dumps({"kind": kind, **body}) + "\n")
        self._file.flush()


def _short(value: Any) -> Any:
    """Times to the microsecond; no clock here is better."""
    return round(value, 6) if isinstance(value, float) else value


def read(path: Path) -> Run:
    """A run from its file; a last line that was cut off is passed over.

    Raises:
        BadRecords: the file is something else.
        OSError: it cannot be read.
    """
    lines = path.read_text(errors="replace").splitlines()
    entries = [_entry(line, path, last=number == len(lines)) for number, line in enumerate(lines, 1)]
    found = [entry for entry in entries if entry is not None]
    if not found or found[0].get("kind") != "run" or found[0].get("version") != VERSION:
        raise BadRecords(f"{path}: the first line is not a run of version {VERSION}")
    try:
        return _run(found)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecords(f"{path}: an incomplete line ({error})") from error


def _run(entries: list[dict[str, Any]]) -> Run:
    head, records = entries[0], [_record(entry) for entry in entries if entry.get("kind") == "request"]
    samples = (Sample(at=one["at"], values=one["values"]) for one in entries if one.get("kind") == "metrics")
    ends = [entry for entry in entries if entry.get("kind") == "end"]
    last = max((record.ended or record.intended for record in records), default=0.0)
    return Run(
        parameters=head["parameters"],
        machine=head["machine"],
        began_at=head["began_at"],
        records=tuple(sorted(records, key=lambda record: (record.intended, record.index))),
        samples=tuple(samples),
        interrupted=ends[-1]["interrupted"] if ends else True,
        seconds=ends[-1]["seconds"] if ends else last,
    )


_FIELDS = frozenset(entry.name for entry in fields(Record))


def _record(entry: Mapping[str, Any]) -> Record:
    known = {name: value for name, value in entry.items() if name in _FIELDS}
    return Record(**{**known, "size": tuple(entry.get("size", ()))})


def _entry(line: str, path: Path, *, last: bool) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    if last:
        return None
    raise BadRecords(f"{path}: not a line of JSON: {line[:80]!r}")
