"""The whole pipeline against `StableVideoDiffusionPipeline`: same weights, same noise, same picture."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoetrope_core import latents
from zoetrope_core.contract import Response
from zoetrope_core.errors import NonFinite
from zoetrope_core.manifest import Manifest
from zoetrope_core.request import GenerateRequest, ValidRequest
from zoetrope_core.specs import Array
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.parity import PipelineParity, max_abs_error, psnr
from zoetrope_export.repository import stage_directory
from zoetrope_server.engines import open_engine
from zoetrope_server.engines.inductor import fp32_products
from zoetrope_server.job import Job
from zoetrope_server.pipeline import ImageToVideo
from zoetrope_server.stages import LocalStages, Stages

LEAST_DB: Mapping[str, float] = {"fp32": 45.0, "fp16": 35.0, "bf16": 35.0}
"""The least PSNR of the frames by precision."""
_STEPS = 4
_STRENGTH = 0.1
"""Strong enough that the place where the augmentation enters shows."""
_SEED = 5


@dataclass(slots=True)
class _Frames:
    """A stream that keeps the frames."""

    parts: list[Array] = field(default_factory=list)

    def check(self) -> None:
        """Nobody cancels."""

    async def send(self, response: Response) -> None:
        """Keeps the frames of a response."""
        if response.frames is not None:
            self.parts.append(response.frames)


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image decoder that has the picture already: the fitted one, as diffusers gets it."""

    frame: Array

    async def decode(self, data: bytes) -> Array:
        """The picture, whatever the data."""
        return self.frame

    async def measure(self, data: bytes) -> tuple[int, int]:
        """The (H, W) of the picture."""
        return int(self.frame.shape[0]), int(self.frame.shape[1])


def verify_pipeline(
    checkpoint: Checkpoint, repository: Path, manifest: Manifest, picture: Array, *, device: str = "cpu"
) -> PipelineParity:
    """Generates a short video with diffusers and with the engines of a repository, and compares the frames.

    Args:
        checkpoint: what the repository was exported from.
        repository: the model repository; its engines can run on this machine.
        manifest: its facts, narrowed to one frame size and one frame count, which are run.
        picture: u8 [H,W,3] of that frame size.
        device: where diffusers runs.
    """
    asked = GenerateRequest(
        num_inference_steps=_STEPS, noise_aug_strength=_STRENGTH, seed=_SEED, stream_frames=True
    )
    if manifest.num_frames == (1,):  # diffusers fails where the first frame alone has no guidance
        asked = replace(asked, min_guidance_scale=asked.max_guidance_scale)
    request = asked.validate(manifest)
    (expected,) = reference_frames(fp32_pipeline(checkpoint, device), manifest, [request], picture)
    if device == "cuda":
        torch.cuda.empty_cache()  # the engines want it
    engines = {
        stage.name: open_engine(
            stage_directory(repository, stage.name),
            stage,
            engine=manifest.engine,
            precision=manifest.precision,
        )
        for stage in manifest.stages()
    }
    try:
        actual = pipeline_frames(manifest, LocalStages(engines), request, picture)
        error, ratio = max_abs_error(expected, actual), round(psnr(expected, actual), 2)
    except NonFinite:
        error, ratio = math.inf, 0.0
    return PipelineParity(
        steps=_STEPS, max_abs_error=error, psnr_db=ratio, tolerance_db=LEAST_DB[manifest.precision]
    )


def fp32_pipeline(checkpoint: Checkpoint, device: str = "cpu") -> Any:
    """The `StableVideoDiffusionPipeline` of a checkpoint in FP32, on a device."""
    from diffusers import StableVideoDiffusionPipeline

    pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(
        checkpoint.directory,
        # Loaded here, as FP32, and also where a checkpoint has them as a variant only.
        unet=checkpoint.unet(),
        vae=checkpoint.vae(),
        image_encoder=checkpoint.image_encoder(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def reference_frames(
    pipeline: Any, manifest: Manifest, requests: Sequence[ValidRequest], picture: Array
) -> list[Array]:
    """What a `StableVideoDiffusionPipeline` makes of a picture in one call, with our noise.

    Args:
        pipeline: the pipeline, of any dtype.
        manifest: the facts of the checkpoint.
        requests: what to generate; they differ in their seeds only.
        picture: u8 [H,W,3] of the frame size.

    Returns:
        Frames u8 [F,H,W,3] of each request.
    """
    request = requests[0]
    height, width = request.size
    latent = request.num_frames, manifest.latent_channels, *manifest.latent_size(request.size)
    starts = [latents.noise(each.seed, latents.INITIAL, latent) for each in requests]
    added = [latents.noise(each.seed, latents.AUGMENTATION, (3, height, width)) for each in requests]
    with _augmentation_noise(np.stack(added)), fp32_products(torch, tf32=False):
        videos = pipeline(
            [Image.fromarray(picture)] * len(requests),
            height=height,
            width=width,
            num_frames=request.num_frames,
            num_inference_steps=request.num_inference_steps,
            min_guidance_scale=request.min_guidance_scale,
            max_guidance_scale=request.max_guidance_scale,
            fps=request.fps,
            motion_bucket_id=request.motion_bucket_id,
            noise_aug_strength=request.noise_aug_strength,
            decode_chunk_size=request.decode_chunk_size,
            latents=torch.from_numpy(np.stack(starts)).to(pipeline.device, pipeline.dtype),
        ).frames
    return [np.stack([np.asarray(image) for image in video]) for video in videos]


@contextmanager
def _augmentation_noise(noise: Array) -> Iterator[None]:
    """Makes diffusers' pipeline augment its picture with this noise; it takes none as an argument."""
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module

    drawn = module.randn_tensor
    module.randn_tensor = lambda *_, device=None, **__: torch.from_numpy(noise).to(device)
    try:
        yield
    finally:
        module.randn_tensor = drawn


def pipeline_frames(manifest: Manifest, stages: Stages, request: ValidRequest, picture: Array) -> Array:
    """What `ImageToVideo` makes of a picture over some stages.

    Args:
        manifest: the facts of the checkpoint.
        stages: what computes.
        request: what to generate, with `stream_frames`.
        picture: u8 [H,W,3] of the frame size.

    Returns:
        Frames u8 [F,H,W,3].
    """
    stream = _Frames()
    with ThreadPoolExecutor(1) as media:
        pipeline = ImageToVideo(manifest=manifest, stages=stages, decoder=_Picture(picture), media=media)
        asyncio.run(pipeline.generate(b"", Job(id="parity", request=request, stream=stream)))
    return np.concatenate(stream.parts)
