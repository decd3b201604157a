"""From a checkpoint to a complete model repository, one stage in memory at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import VAE_ENCODER, Array, StageSpec
from zoetrope_export import repository
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.engines import TorchEngine
from zoetrope_export.errors import ParityError
from zoetrope_export.latent_colours import fit_latent_rgb
from zoetrope_export.parity import ENGINE, ParityReport, PipelineParity, StageParity, compare
from zoetrope_export.profiles import size_groups
from zoetrope_export.stage_builds import BuildOptions, Silent, StageBuilder
from zoetrope_export.stage_modules import stage_module
from zoetrope_export.tensorrt_build import Progress
from zoetrope_export.trajectory import Sample, Trajectory, sample_picture
from zoetrope_export.verification import verify_pipeline
from zoetrope_server import batching
from zoetrope_server.engines import Engine, stage_precision
from zoetrope_server.engines.tensorrt import LIBRARIES
from zoetrope_server.media.fit import fit

_PARITY_PIXELS = 128 * 256
_PARITY_FRAMES = 14
"""On a CPU parity is measured at no more than this: one call of a full-size UNet takes minutes there."""
_BATCH = 4
"""Videos that share an execution of the UNet, where that gains anything."""
_SVD_XT = (159.9, 1.52e9, 25 * 72 * 128)
"""A step of SVD-XT with guidance: its TFLOP, the weights of its UNet, the positions of its latents."""
_LONG_STEP_TFLOP = 10.0
"""A step of more keeps a GPU busy by itself: some 20 ms on an H100."""
_WIDEST = 2 * 2560
"""Elements of the UNet's largest tensor for each position of the latents, both guidance rows."""

_logger = logging.getLogger(__name__)
Report = Callable[[str], None]
"""Told what is being done, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to export.

    Attributes:
        checkpoint: from what.
        manifest: the facts of the repository to be.
        out: where it is to lie.
        warm_up: whether to compile all shapes now, into the engines' cache, instead of when they are served.
        options: what the builder of the engines is told.
        host: what runs the engines: `python` stages, or `triton` with a backend of its own.
        picture: u8 [H,W,3], what parity is measured on; None for a drawn one.
        verify: whether the whole pipeline is compared with diffusers too, where the engines run here.
        allow_drift: put the repository in place even if parity fails; its report says so.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    out: Path
    warm_up: bool = True
    options: BuildOptions = field(default_factory=BuildOptions)
    host: str = "python"
    picture: Array | None = None
    verify: bool = True
    allow_drift: bool = False

    def parity_picture(self, size: tuple[int, int]) -> Array:
        """The picture that parity is measured on: u8 [H,W,3] of a frame size (H, W)."""
        return sample_picture(*size) if self.picture is None else fit(self.picture, size)


def default_chunk(num_frames: int, most: int = 8) -> int:
    """Frames to decode at once: the fewest chunks of at most `most` frames, as even as can be."""
    return math.ceil(num_frames / math.ceil(num_frames / most))


def default_max_batch(precision: str, *, weights: int, positions: int) -> int:
    """Videos that may share an execution of the UNet, unless told otherwise.

    A CPU is busy with one video: at all but the smallest frame sizes a batch takes longer than its videos one
    after the other (`zoetrope bench batching`), so requests take turns there. So is a GPU with a long step,
    where a batch costs memory and gains nothing, and where its tensors would pass 2^31 elements, which many
    kernels cannot index.

    Args:
        precision: of the repository; `fp16` is for GPUs alone.
        weights: of the UNet.
        positions: of the latents of one video, frames included, at its largest.
    """
    tflop, all_weights, all_positions = _SVD_XT
    step = tflop * weights / all_weights * positions / all_positions
    small = step < _LONG_STEP_TFLOP and _BATCH * positions * _WIDEST < 2**31
    return _BATCH if precision == "fp16" and small else 1


def reference_device() -> str:
    """Where PyTorch computes what engines are compared with: on the GPU if its torch can."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def export_repository(
    plan: Plan, report: Report = _logger.info, progress: Progress | None = None
) -> ParityReport:
    """Builds the engines, compares them with PyTorch and diffusers and puts the repository in place.

    Args:
        plan: what to export.
        report: told what is being done.
        progress: follows the builders of engines that tell theirs.

    Raises:
        ExportError: `plan.out` must not be replaced, or an engine cannot be built here.
        ParityError: an engine is outside its tolerance; nothing is put in place.
    """
    builder = StageBuilder(plan.checkpoint, plan.manifest, plan.options, progress or Silent())
    builder.check_resources(plan.out)
    with repository.staged(plan.out) as directory:
        plan = _with_colours(plan, report)
        repository.write_layout(directory, plan.manifest)
        size, frames = parity_size(plan, on_engine=builder.runs_here)
        trajectory = Trajectory(plan.manifest, plan.parity_picture(size), num_frames=frames)
        parities = tuple(
            _export_stage(plan, builder, stage, directory, trajectory, report)
            for stage in plan.manifest.stages()
        )
        outcome = ParityReport(
            engine=plan.manifest.engine,
            precision=plan.manifest.precision,
            size=size,
            num_frames=frames,
            stages=parities,
            pipeline=_verify(plan, directory, parities, size, frames, report),
            drift_allowed=plan.allow_drift,
        )
        outcome.save(directory)
        if not outcome.passed and not plan.allow_drift:
            raise ParityError(
                f"the engines do not compute what the checkpoint computes: {', '.join(outcome.failures())}; "
                "--allow-drift writes the repository nevertheless"
            )
    return outcome


def _verify(
    plan: Plan,
    directory: Path,
    stages: tuple[StageParity, ...],
    size: tuple[int, int],
    num_frames: int,
    report: Report,
) -> PipelineParity | None:
    """The whole pipeline against diffusers; None where it is not wanted or an engine cannot run here."""
    if not plan.verify or any(each.computed_by != ENGINE for each in stages):
        return None
    report("comparing a video with diffusers")
    narrowed = replace(plan.manifest, sizes=(size,), num_frames=(num_frames,))
    picture = plan.parity_picture(size)
    return verify_pipeline(plan.checkpoint, directory, narrowed, picture, device=reference_device())


def _with_colours(plan: Plan, report: Report) -> Plan:
    """The plan with the map for previews in its manifest."""
    report("fitting the colours of previews")
    encoder = TorchEngine(stage_module(plan.checkpoint, VAE_ENCODER.name), VAE_ENCODER)
    colours = fit_latent_rgb(encoder, plan.manifest.vae_scale_factor)
    return replace(plan, manifest=replace(plan.manifest, latent_rgb=colours))


def parity_size(plan: Plan, *, on_engine: bool) -> tuple[tuple[int, int], int]:
    """The frame size and count that parity is measured at.

    The default ones where PyTorch runs on a GPU. On a CPU smaller ones like them, or where an engine takes
    no shape outside of its profiles, the smallest that it takes.

    Args:
        plan: what is exported.
        on_engine: whether the engine itself is run, rather than its graph, which takes any shape.
    """
    facts = plan.manifest
    height, width = facts.sizes[0]
    if reference_device() == "cuda":
        return (height, width), facts.num_frames[0]
    if on_engine and facts.engine in LIBRARIES:
        groups = size_groups(facts.sizes, plan.options.profiles)
        ends = [(min(height for height, _ in group), min(width for _, width in group)) for group in groups]
        return min(ends, key=math.prod), min(facts.num_frames)
    frames = min(facts.num_frames[0], _PARITY_FRAMES)
    if height * width <= _PARITY_PIXELS:
        return (height, width), frames
    shrink = math.sqrt(_PARITY_PIXELS / (height * width)) / plan.checkpoint.grid
    small = (max(1, int(side * shrink)) * plan.checkpoint.grid for side in (height, width))
    return (next(small), next(small)), frames


def _export_stage(
    plan: Plan,
    builder: StageBuilder,
    stage: StageSpec,
    directory: Path,
    trajectory: Trajectory,
    report: Report,
) -> StageParity:
    """Builds, checks and warms up one stage; its module is gone when this returns."""
    manifest, target = plan.manifest, repository.stage_directory(directory, stage.name)
    report(f"{stage.name}: loading the weights")
    module = stage_module(plan.checkpoint, stage.name, max_frames=max(manifest.num_frames))
    samples = _reference(module, stage, trajectory, report)
    report(f"{stage.name}: building the engine")
    with builder.build(module, stage, target) as built:
        del module
        report(f"{stage.name}: comparing with PyTorch")
        precision = stage_precision(stage, manifest.precision, manifest.engine)
        compared = compare(stage, built.engine, samples, precision, computed_by=built.computed_by)
        parity = replace(compared, nodes=built.nodes)
        if plan.warm_up and manifest.engine == "openvino":
            report(f"{stage.name}: compiling all shapes")
            _warm_up(built.engine, stage, manifest)
    if plan.host == "triton":
        repository.make_native(directory, stage, manifest)
    return parity


def _reference(module: nn.Module, stage: StageSpec, trajectory: Trajectory, report: Report) -> list[Sample]:
    """What PyTorch makes of the calls of a stage; its module is on the CPU again when this returns."""
    device = reference_device()
    report(f"{stage.name}: running PyTorch ({device})")
    try:
        return trajectory.run(stage.name, TorchEngine(module, stage, device))
    except torch.OutOfMemoryError:
        _logger.warning("%s: the GPU has no memory for FP32 PyTorch; the CPU takes its time", stage.name)
    finally:
        module.cpu()
        if device == "cuda":
            torch.cuda.empty_cache()  # the engine's builder wants it
    return trajectory.run(stage.name, TorchEngine(module, stage))


def _warm_up(engine: Engine, stage: StageSpec, manifest: Manifest) -> None:
    """Runs each shape that serving will meet, so that its compiled model lies in the engine's cache."""
    for inputs in batching.served_shapes(stage, manifest):
        engine.run(inputs)
