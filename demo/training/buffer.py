"""Encoded clips that are used a few times before newer ones replace them.

Encoding a clip costs about as much as a training step on it, so each is used several times, every time with
another crop, noise level and noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLTemporalDecoder

from . import scenes
from .motion import bucket_of

FACTOR = 4
STRONGEST_AUGMENTATION = 0.12


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded clip.

    Latents f16 [F,4,h,w] (scaled), image latents f16 [4,h,w] (not scaled), picture u8 [3,H,W], flow [h,w,2].
    """

    latents: torch.Tensor
    image_latents: torch.Tensor
    picture: torch.Tensor
    flow: torch.Tensor
    augmentation: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The arguments of one training step; see `Denoiser.forward`."""

    clean: torch.Tensor
    image_latents: torch.Tensor
    pictures: torch.Tensor
    time_ids: torch.Tensor


@torch.no_grad()
def encode(vae: AutoencoderKLTemporalDecoder, clip: scenes.Clip, rng: np.random.Generator) -> Encoded:
    """Encodes a clip; the first frame a second time with noise in the pixels, as the pipeline does."""
    strength = float(rng.choice([0.0, 0.02, rng.uniform(0, STRONGEST_AUGMENTATION)]))
    frames = clip.frames * 2 - 1
    noise = torch.from_numpy(rng.standard_normal(frames[:1].shape, dtype=np.float32))
    stacked = torch.cat([frames[:1] + strength * noise, frames]).to(vae.device)
    with torch.autocast(vae.device.type, torch.bfloat16):
        latents = vae.encode(stacked).latent_dist.mode().float().cpu()
    flow = F.avg_pool2d(clip.flow.permute(2, 0, 1), FACTOR).permute(1, 2, 0)
    picture = (clip.frames[0] * 255).byte()
    scaled = (latents[1:] * vae.config.scaling_factor).half()
    return Encoded(scaled, latents[0].half(), picture, flow, strength)


def cut(clip: scenes.Clip, region: tuple[int, int], rng: np.random.Generator) -> scenes.Clip:
    """A random part of a clip, `region` latents large."""
    rows, columns = (side * FACTOR for side in region)
    top = FACTOR * rng.integers((clip.frames.shape[2] - rows) // FACTOR + 1)
    left = FACTOR * rng.integers((clip.frames.shape[3] - columns) // FACTOR + 1)
    window = (slice(top, top + rows), slice(left, left + columns))
    return scenes.Clip(clip.frames[:, :, *window], clip.flow[window], clip.bucket, clip.kind)


def crop(item: Encoded, rows: int, columns: int, rng: np.random.Generator) -> Encoded:
    """A random window of `rows` x `columns` latents."""
    top = rng.integers(item.latents.shape[2] - rows + 1)
    left = rng.integers(item.latents.shape[3] - columns + 1)
    window = (..., slice(top, top + rows), slice(left, left + columns))
    pixels = tuple(
        slice(side * FACTOR, (side + size) * FACTOR) for side, size in ((top, rows), (left, columns))
    )
    flow = item.flow[window[1], window[2]]
    return Encoded(
        item.latents[window],
        item.image_latents[window],
        item.picture[(..., *pixels)],
        flow,
        item.augmentation,
    )


class ClipBuffer:
    """The newest `capacity` clips, encoded."""

    def __init__(
        self, vae: AutoencoderKLTemporalDecoder, photographs: Sequence[torch.Tensor], capacity: int
    ) -> None:
        self.vae, self.photographs, self.capacity = vae, photographs, capacity
        self.items: list[Encoded] = []

    def add(self, seed: int, region: tuple[int, int]) -> None:
        """Makes, encodes and keeps a `region` (in latents) of the clip of a seed; the oldest one goes."""
        clip = cut(scenes.make_clip(seed, self.photographs), region, np.random.default_rng((4, seed)))
        self.items.append(encode(self.vae, clip, np.random.default_rng((2, seed))))
        del self.items[: -self.capacity]

    def batch(self, size: int, shape: tuple[int, int], frames: int, rng: np.random.Generator) -> Batch:
        """Random windows of the first frames of random clips that are large enough."""
        items = [item for item in self.items if item.latents.shape[2] >= shape[0]]
        chosen = [crop(items[rng.integers(len(items))], *shape, rng) for _ in range(size)]
        buckets = [bucket_of(float(item.flow.norm(dim=-1).mean())) for item in chosen]
        rates = rng.choice([5, 6, 6, 6, 7, 9, 11, 23], size)
        ids = [
            [rate, bucket, item.augmentation]
            for rate, bucket, item in zip(rates, buckets, chosen, strict=True)
        ]
        return Batch(
            torch.stack([item.latents[:frames] for item in chosen]).float(),
            torch.stack([item.image_latents for item in chosen]).float(),
            torch.stack([item.picture for item in chosen]).float() / 255,
            torch.tensor(ids, dtype=torch.float32),
        )
