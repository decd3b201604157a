"""What both training phases share: a budget of minutes, a log, resumable states, loss curves."""

import csv
import logging
import math
import os
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
LONGEST_STEP = 15.0  # seconds; a step that took longer was paused, and the pause is not counted


@dataclass(slots=True)
class Run:
    """One training run in a folder: how far it is and what it has logged."""

    out: Path
    minutes: float
    step: int = 0
    elapsed: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @property
    def share(self) -> float:
        """How much of the budget is used, 0..1."""
        return min(self.elapsed / (60 * self.minutes), 1.0)

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is used; also the seeds of the steps."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "pid").write_text(str(os.getpid()))
        while self.share < 1:
            started = time.monotonic()
            yield self.step
            self.step += 1
            self.elapsed += min(time.monotonic() - started, LONGEST_STEP)

    def add(self, **values: float) -> None:
        """Counts the losses of one step."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def report(self, **extra: float) -> None:
        """Writes the mean losses since the last report to `losses.csv` and to the log."""
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
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
        state = torch.load(path, weights_only=True)
        self.step, self.elapsed = state["step"], state["elapsed"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        logger.info("resumed at step %d, minute %.1f", self.step, self.elapsed / 60)


def set_learning_rate(optimizer: HasGroups, run: Run, warmup: int = 40) -> None:
    """Linear warm-up by steps, then a cosine over the budget down to 2 % of each group's `peak`."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * run.share))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * cosine * min(1.0, (run.step + 1) / warmup)


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
