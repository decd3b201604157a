"""What one worker of the stage benchmark is to measure, and the inputs of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoetrope_core import guidance
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import VAE_ENCODER, Array, StageSpec
from zoetrope_server.batching import example_inputs
from zoetrope_server.engines import stage_precision

ENGINE, RESIDENT, EAGER, COMPILED, PEAK = "engine", "resident", "diffusers", "compile", "peak"
"""Kinds of tasks: our engine from arrays to arrays; our engine on tensors that lie on its device; diffusers'
module, eager or under torch.compile; a large matrix product, for the machine's peak."""
GPU_ENGINES = frozenset({"tensorrt", "tensorrt-rtx", "aot-inductor"})
"""Engines that run on the GPU where there is one; the others compute on the CPU."""
DTYPES: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Torch's name of the dtype of each precision."""
_SIGMA = 1.0
_TIME_IDS = (6.0, 127.0, 0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one worker measures; JSON-ready by `dataclasses.asdict`.

    Attributes:
        kind: one of the kinds above.
        precision: what it computes in: `fp32`, `bf16` or `fp16`.
        device: `cpu` or `cuda`.
        stage: the stage's name; empty for the peak.
        source: the folder of the checkpoint, or for an engine the version folder of the stage's model.
        manifest: the facts of the repository, which give the shapes.
    """

    kind: str
    precision: str
    device: str
    stage: str = ""
    source: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contender(self) -> str:
        """How the rows of the report call it."""
        if self.kind in (ENGINE, RESIDENT):
            name = f"zoetrope {self.manifest['engine']}"
            return name if self.kind == ENGINE else f"{name}, tensors stay on the device"
        names = {EAGER: "diffusers eager", COMPILED: "diffusers compiled", PEAK: "matrix product"}
        return names[self.kind]


def choose_device(engine: str, cuda: bool) -> str:
    """Where an engine runs, and so where the baselines beside it run: `cuda` or `cpu`."""
    return "cuda" if cuda and engine in GPU_ENGINES else "cpu"


def stage_tasks(
    stage: StageSpec,
    manifest: Manifest,
    *,
    device: str,
    engine: str,
    checkpoint: str,
    baselines: tuple[str, ...],
) -> list[Task]:
    """The contenders of a stage: ours first, then the baselines.

    Args:
        stage: the stage.
        manifest: the facts of the repository.
        device: `cpu` or `cuda`.
        engine: the version folder of the stage's model.
        checkpoint: the folder of the checkpoint.
        baselines: of `EAGER` and `COMPILED`.
    """
    ours = stage_precision(stage, manifest.precision, manifest.engine)
    kinds = [(ENGINE, ours, engine)]
    if manifest.engine == "aot-inductor" and device == "cuda":
        kinds.append((RESIDENT, ours, engine))
    kinds += [(kind, baseline_precision(stage, kind, device), checkpoint) for kind in baselines]
    return [
        Task(
            kind=kind,
            precision=precision,
            device=device,
            stage=stage.name,
            source=source,
            manifest=manifest.to_dict(),
        )
        for kind, precision, source in kinds
    ]


def baseline_precision(stage: StageSpec, kind: str, device: str) -> str:
    """What a baseline computes in: the fastest that diffusers' users run there, and FP32 for eager on a CPU.

    The FP16 VAE encoder overflows, so diffusers' pipeline encodes in FP32 (`force_upcast`); so does this.
    """
    if device == "cuda":
        return "fp32" if stage.name == VAE_ENCODER.name else "fp16"
    return "bf16" if kind == COMPILED else "fp32"


def stage_inputs(stage: StageSpec, manifest: Manifest) -> dict[str, Array]:
    """Inputs of one video for a stage: normal noise from a fixed seed, with K = 2 and a whole chunk.

    The time of convolutions and matrix products does not depend on values, but for denormals and NaN, which
    noise of unit variance does not have.
    """
    generator = np.random.default_rng(0)
    inputs = {
        name: generator.standard_normal(array.shape).astype(array.dtype)
        for name, array in example_inputs(stage, manifest).items()
    }
    if "sigma" in inputs:
        inputs["sigma"] = np.full_like(inputs["sigma"], _SIGMA)
        inputs["added_time_ids"] = np.array([_TIME_IDS], np.float32)
        inputs["weights"] = guidance.weights(1.0, 3.0, manifest.num_frames[0])[None]
    return inputs
