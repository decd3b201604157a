"""The parity gate: engines compared with the PyTorch stages on the activations of a real generation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zoetrope_core.specs import Array, StageSpec
from zoetrope_export.trajectory import Sample
from zoetrope_server.engines import Engine

FILE_NAME = "parity.json"
TOLERANCE_DB: Mapping[str, float] = {"fp32": 70.0, "tf32": 50.0, "fp16": 45.0, "bf16": 35.0}
"""The least PSNR by precision.

FP32 engines differ from PyTorch in the order of sums: 100 dB and more, or about 80 dB where uint8 frames
round the other way now and then. FP16 has 11 bits of mantissa: some 60 dB a stage; TF32 has as many, in
products alone: 61 dB for the VAE encoder. BF16 has 8: some 50 dB a stage, less in a deep network whose
guidance weights multiply the error; a wrong weight, a swapped input or a missing term costs more.
"""
ENGINE = "engine"
"""What computes, unless it cannot be run on this machine."""
_EQUAL_DB = 200.0
"""What equal arrays are given, since JSON knows no infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParity:
    """How close the engine of one stage comes.

    Attributes:
        stage: its name.
        precision: the precision that it runs at.
        samples: calls that were compared.
        max_abs_error: the largest difference, in the unit of the output.
        psnr_db: the smallest PSNR of an output of a call; its peak is the range of the reference, or 255.
        tolerance_db: the least PSNR that passes.
        computed_by: what computed: the engine, or its graph elsewhere when the engine cannot run here.
        nodes: nodes of the engine's graph, constants not counted: as translated from PyTorch, and as built.
    """

    stage: str
    precision: str
    samples: int
    max_abs_error: float
    psnr_db: float
    tolerance_db: float
    computed_by: str = ENGINE
    nodes: tuple[int, int] | None = None

    @property
    def passed(self) -> bool:
        """Whether the engine is within the tolerance."""
        return self.psnr_db >= self.tolerance_db


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParity:
    """How close the frames of the whole pipeline come to those of diffusers.

    Attributes:
        steps: denoising steps of the video that was compared.
        max_abs_error: the largest difference in levels of 255.
        psnr_db: of all frames.
        tolerance_db: the least that passes.
    """

    steps: int
    max_abs_error: float
    psnr_db: float
    tolerance_db: float

    @property
    def passed(self) -> bool:
        """Whether the frames are within the tolerance."""
        return self.psnr_db >= self.tolerance_db


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The parity of a repository, at the frame size and count that were run.

    Attributes:
        engine, precision: of the repository.
        size: the frame size (height, width).
        num_frames: the frame count.
        stages: each stage against PyTorch.
        pipeline: the whole against diffusers; None where that was not run.
        drift_allowed: whether the repository was put in place although something did not pass.
    """

    engine: str
    precision: str
    size: tuple[int, int]
    num_frames: int
    stages: tuple[StageParity, ...]
    pipeline: PipelineParity | None = None
    drift_allowed: bool = False

    @property
    def passed(self) -> bool:
        """Whether all that was compared is within its tolerance."""
        return not self.failures()

    def failures(self) -> list[str]:
        """What is outside of its tolerance, in words."""
        rows: list[tuple[str, StageParity | PipelineParity]] = [(each.stage, each) for each in self.stages]
        if self.pipeline is not None:
            rows.append(("video", self.pipeline))
        return [
            f"{name} {each.psnr_db:.1f} dB (needs {each.tolerance_db:.0f})"
            for name, each in rows
            if not each.passed
        ]

    def save(self, directory: Path) -> None:
        """Writes `parity.json` into the directory; an infinite error is null there."""
        body = asdict(self) | {"passed": self.passed}
        for entry, stage in zip(body["stages"], self.stages, strict=True):
            entry["passed"] = stage.passed
        if self.pipeline is not None:
            body["pipeline"]["passed"] = self.pipeline.passed
        for entry in (*body["stages"], *filter(None, [body["pipeline"]])):
            if not math.isfinite(entry["max_abs_error"]):
                entry["max_abs_error"] = None  # JSON knows no infinity
        (directory / FILE_NAME).write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")


def compare(
    stage: StageSpec, engine: Engine, samples: Iterable[Sample], precision: str, *, computed_by: str = ENGINE
) -> StageParity:
    """Runs an engine on recorded calls and measures how far it is from what PyTorch made of them.

    Args:
        stage: the stage.
        engine: its engine.
        samples: the calls.
        precision: what the stage runs at, see `stage_precision`.
        computed_by: what `engine` is, for the report.
    """
    errors: list[float] = []
    ratios: list[float] = []
    for sample in samples:
        outputs = engine.run(sample.inputs)
        for spec in stage.outputs:
            expected, actual = sample.outputs[spec.name], outputs[spec.name]
            errors.append(max_abs_error(expected, actual))
            # A reference whose flag says that it is not finite is no measure of anything.
            broken = spec.dtype == "BOOL" and not expected.all()
            ratios.append(0.0 if broken else psnr(expected, actual))
    return StageParity(
        stage=stage.name,
        precision=precision,
        samples=len(errors) // len(stage.outputs),
        max_abs_error=max(errors),
        psnr_db=round(min(ratios), 2),
        tolerance_db=TOLERANCE_DB[precision],
        computed_by=computed_by,
    )


def max_abs_error(expected: Array, actual: Array) -> float:
    """The largest difference; infinite when the shapes differ or something is not finite."""
    if expected.shape != actual.shape:
        return math.inf
    difference = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
    return float(difference.max()) if np.isfinite(difference).all() else math.inf


def psnr(expected: Array, actual: Array) -> float:
    """Peak signal-to-noise ratio in dB; 255 is the peak of uint8, the range of the reference otherwise.

    Equal arrays have 200 dB; other shapes or something not finite has 0 dB.
    """
    if not math.isfinite(max_abs_error(expected, actual)):
        return 0.0
    reference = expected.astype(np.float64)
    noise = float(np.mean((reference - actual.astype(np.float64)) ** 2))
    peak = 255.0 if expected.dtype == np.uint8 else float(np.ptp(reference))
    if noise == 0.0:
        return _EQUAL_DB
    return min(_EQUAL_DB, 10.0 * math.log10(peak**2 / noise)) if peak > 0.0 else 0.0
