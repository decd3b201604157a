"""From a checkpoint to a complete model repository, one stage in memory at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import VAE_ENCODER, Array, StageSpec
from zoetrope_export import repository
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.engines import TorchEngine
from zoetrope_export.errors import ParityError
from zoetrope_export.latent_colours import fit_latent_rgb
from zoetrope_export.parity import ENGINE, ParityReport, PipelineParity, StageParity, compare
from zoetrope_export.stage_builds import BuildOptions, Silent, StageBuilder
from zoetrope_export.stage_modules import stage_module
from zoetrope_export.tensorrt_build import Progress
from zoetrope_export.trajectory import Trajectory, sample_picture
from zoetrope_export.verification import verify_pipeline
from zoetrope_server import batching
from zoetrope_server.engines import Engine
from zoetrope_server.media.fit import fit

_PARITY_PIXELS = 128 * 256
_PARITY_FRAMES = 14
"""Parity is measured at no more than this: a CPU takes minutes for one call of a full-size UNet."""

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


def default_max_batch(precision: str) -> int:
    """Videos that may share an execution of the UNet, unless told otherwise.

    A CPU is busy with one video: at all but the smallest frame sizes a batch takes longer than its videos one
    after the other (`zoetrope bench batching`), so requests take turns there.
    """
    return 4 if precision == "fp16" else 1


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
        size, frames = parity_size(plan)
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
    return verify_pipeline(plan.checkpoint, directory, narrowed, picture)


def _with_colours(plan: Plan, report: Report) -> Plan:
    """The plan with the map for previews in its manifest."""
    report("fitting the colours of previews")
    encoder = TorchEngine(stage_module(plan.checkpoint, VAE_ENCODER.name), VAE_ENCODER)
    colours = fit_latent_rgb(encoder, plan.manifest.vae_scale_factor)
    return replace(plan, manifest=replace(plan.manifest, latent_rgb=colours))


def parity_size(plan: Plan) -> tuple[tuple[int, int], int]:
    """The frame size and count that parity is measured at: the default ones, or smaller ones like them."""
    height, width = plan.manifest.sizes[0]
    frames = min(plan.manifest.num_frames[0], _PARITY_FRAMES)
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
    report(f"{stage.name}: running PyTorch")
    samples = trajectory.run(stage.name, TorchEngine(module, stage))
    report(f"{stage.name}: building the engine")
    with builder.build(module, stage, target) as built:
        del module
        report(f"{stage.name}: comparing with PyTorch")
        compared = compare(stage, built.engine, samples, manifest.precision, computed_by=built.computed_by)
        parity = replace(compared, nodes=built.nodes)
        if plan.warm_up and manifest.engine == "openvino":
            report(f"{stage.name}: compiling all shapes")
            _warm_up(built.engine, stage, manifest)
    if plan.host == "triton":
        repository.make_native(directory, stage, manifest)
    return parity


def _warm_up(engine: Engine, stage: StageSpec, manifest: Manifest) -> None:
    """Runs each shape that serving will meet, so that its compiled model lies in the engine's cache."""
    for inputs in batching.served_shapes(stage, manifest):
        engine.run(inputs)
