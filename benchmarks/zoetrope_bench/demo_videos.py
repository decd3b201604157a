"""Videos of the demo checkpoint, by diffusers in this process or by the server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoetrope_bench.server import serving
from zoetrope_client.client import Client
from zoetrope_client.events import Frames as FrameArrays

Frames = NDArray[np.uint8]
AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one video is made with."""

    bucket: int = 140
    seed: int = 0
    steps: int = 25
    ays: bool = False
    guidance: tuple[float, float] = (1.0, 1.5)
    augmentation: float = 0.02


@dataclass(frozen=True, slots=True)
class Subject:
    """A held-out image u8 [H,W,3]."""

    name: str
    picture: Frames


Generate = Callable[[Subject, Settings], Frames]


def local_generator(checkpoint: Path) -> Generate:
    """Videos by diffusers' pipeline in this process."""
    import torch
    from diffusers import StableVideoDiffusionPipeline

    pipeline = StableVideoDiffusionPipeline.from_pretrained(checkpoint).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    reduced = torch.autocast("cpu", torch.bfloat16)
    pipeline.unet.forward = reduced(pipeline.unet.forward)
    pipeline.vae.decode = reduced(pipeline.vae.decode)

    def generate(subject: Subject, settings: Settings) -> Frames:
        height, width = subject.picture.shape[:2]
        with torch.inference_mode():
            video = pipeline(
                Image.fromarray(subject.picture),
                height=height,
                width=width,
                num_inference_steps=settings.steps,
                sigmas=list(AYS) if settings.ays else None,
                min_guidance_scale=settings.guidance[0],
                max_guidance_scale=settings.guidance[1],
                motion_bucket_id=settings.bucket,
                noise_aug_strength=settings.augmentation,
                decode_chunk_size=14,
                generator=torch.Generator().manual_seed(settings.seed),
                output_type="np",
            ).frames[0]
        frames: Frames = (video * 255).round().astype(np.uint8)
        return frames

    return generate


@contextmanager
def served_generator(repository: Path) -> Iterator[Generate]:
    """Videos by a server of a model repository, in any format that loses nothing: the streamed frames."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(repository, Path(folder) / "log") as server,
        Client(server.url) as client,
    ):

        def generate(subject: Subject, settings: Settings) -> Frames:
            events = client.stream(
                Image.fromarray(subject.picture),
                num_inference_steps=settings.steps,
                schedule="ays" if settings.ays else "karras",
                min_guidance_scale=settings.guidance[0],
                max_guidance_scale=settings.guidance[1],
                motion_bucket_id=settings.bucket,
                noise_aug_strength=settings.augmentation,
                seed=settings.seed,
                stream_frames=True,
            )
            return np.concatenate([each.array for each in events if isinstance(each, FrameArrays)])

        yield generate
