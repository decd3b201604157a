"""What both training phases share: a budget of minutes, a log, resumable states, loss curves."""

import csv
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch


class HasGroups(Protocol):
    """An optimizer, or several."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Each with `lr` and `peak`."""
        ...


logger = logging.getLogger(__name__)
COOLDOWN = 0.25  # the last share of the budget, in which the learning rate falls
AVERAGED_STEPS = 500
REPORT_S = 20.0
PAUSE_S = 2.0  # between two looks at the file that pauses a run


@dataclass(slots=True)
class Run:
    """One training run in a folder: how far it is and what it has logged."""

    out: Path
    minutes: float
    pause_file: Path | None = None
    by_clock: bool = False
    step: int = 0
    elapsed: float = 0.0
    reported: float = 0.0
    stopping: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @property
    def share(self) -> float:
        """How much of the budget is used, 0..1."""
        return min(self.elapsed / (60 * self.minutes), 1.0)

    def steps(self) -> Iterator[int]:
        """Step numbers, also the seeds of the steps, until the budget is used or SIGTERM or SIGINT comes.

        The caller saves after the last one: what a signal ends loses nothing. What counts against the budget
        is the time that this process computes, not what others take from it, or the clock's, `by_clock`.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "pid").write_text(str(os.getpid()))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        while self.share < 1 and not self.stopping:
            self.wait()
            started, used = time.monotonic(), time.process_time()
            yield self.step
            self.step += 1
            passed, computed = time.monotonic() - started, time.process_time() - used
            self.elapsed += passed if self.by_clock else min(passed, computed)

    def stop(self, *_: object) -> None:
        """Ends the run after the current step."""
        self.stopping = True

    def wait(self) -> None:
        """Returns when the file that pauses the run is gone; uses no CPU meanwhile."""
        while self.pause_file is not None and self.pause_file.exists() and not self.stopping:
            time.sleep(PAUSE_S)

    def add(self, **values: float) -> None:
        """Counts the losses of one step."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def report_is_due(self) -> bool:
        """Whether the last report is long ago."""
        return self.elapsed - self.reported >= REPORT_S

    def report(self, **extra: float) -> None:
        """Writes the mean losses since the last report, if any, to `losses.csv` and to the log."""
        if not self.count:
            return
        self.reported = self.elapsed
        means = {name: total / self.count for name, total in self.sums.items()}
        row = {"step": self.step, "minutes": self.elapsed / 60, **means, **extra}
        path, fresh = self.out / "losses.csv", not (self.out / "losses.csv").exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([list(row)] if fresh else [])
            writer.writerow([f"{value:.6g}" for value in row.values()])
        logger.info(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
        self.sums, self.count = {}, 0

    def save(self, **parts: Any) -> None:
        """Writes the state from which `load` resumes; never leaves half a file."""
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"step": self.step, "elapsed": self.elapsed, **state}, self.out / "state.part")
        (self.out / "state.part").replace(self.out / "state.pt")

    def load(self, **parts: Any) -> None:
        """Resumes from the folder's state, if it has one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.reported = self.elapsed
        for name, part in parts.items():
            part.load_state_dict(state[name])
        logger.info("resumed at step %d, minute %.1f", self.step, self.elapsed / 60)


def average_of(average: torch.Tensor, weight: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """The next time-average: of the last tenth of the steps, at most of some 500."""
    return torch.lerp(average, weight, max(1 / AVERAGED_STEPS, 10 / (10 + float(count))))


def set_learning_rate(optimizer: HasGroups, run: Run, warmup: int = 40) -> None:
    """Warm-up by steps, then each group's `peak`, then a linear fall to 2 % over the budget's last part.

    The weights that are kept are averages over time, so a run may be stopped, and its budget raised, at any
    step.
    """
    falling = max((1 - run.share) / COOLDOWN, 0.02)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * min(1.0, (run.step + 1) / warmup, falling)


def plot(csv_path: Path, png_path: Path) -> None:
    """Draws every column of a `losses.csv` over the minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with csv_path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["step"] != "step"]
    names = [name for name in rows[0] if name not in ("step", "minutes")]
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([float(row["minutes"]) for row in rows], [float(row[name]) for row in rows])
        axis.set(title=name, xlabel="minutes")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(png_path, dpi=80)
    pyplot.close(figure)
