"""Encoded clips that are used a few times before newer ones replace them.

Encoding a clip costs about as much as a training step on it, so each is used several times, every time with
another crop, noise level and noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLTemporalDecoder
from torch.utils.data import DataLoader, Dataset

from . import scenes
from .collect import Photograph
from .motion import bucket_of

FACTOR = 4
STRONGEST_AUGMENTATION = 0.12
MANY = 10**9


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded clip.

    Latents f16 [F,C,h,w] (scaled), image latents f16 [C,h,w] (not scaled), picture u8 [3,H,W], speed [h,w].
    """

    latents: torch.Tensor
    image_latents: torch.Tensor
    picture: torch.Tensor
    speed: torch.Tensor
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
    speed = F.avg_pool2d(clip.speed[None], FACTOR)[0]
    picture = (clip.frames[0] * 255).byte()
    scaled = (latents[1:] * vae.config.scaling_factor).half()
    return Encoded(scaled, latents[0].half(), picture, speed, strength)


def crop(item: Encoded, rows: int, columns: int, rng: np.random.Generator) -> Encoded:
    """A random window of `rows` x `columns` latents."""
    top = rng.integers(item.latents.shape[2] - rows + 1)
    left = rng.integers(item.latents.shape[3] - columns + 1)
    window = (..., slice(top, top + rows), slice(left, left + columns))
    pixels = tuple(
        slice(side * FACTOR, (side + size) * FACTOR) for side, size in ((top, rows), (left, columns))
    )
    return Encoded(
        item.latents[window],
        item.image_latents[window],
        item.picture[(..., *pixels)],
        item.speed[window],
        item.augmentation,
    )


class Seeds(Dataset[scenes.Clip]):
    """The clip of each seed."""

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        self.photographs = photographs

    def __getitem__(self, seed: int) -> scenes.Clip:
        return scenes.make_clip(seed, self.photographs)


class ClipBuffer:
    """The newest `capacity` clips, encoded; `workers` processes make the next ones meanwhile."""

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        photographs: Sequence[Photograph],
        capacity: int,
        workers: int,
    ) -> None:
        self.vae, self.photographs = vae, photographs
        self.capacity, self.workers = capacity, workers
        self.items: list[Encoded] = []
        self.coming: Iterator[tuple[int, scenes.Clip]] = iter(())

    def start(self, first_seed: int) -> None:
        """The next clips are those of seeds from `first_seed` on."""
        seeds = range(first_seed, first_seed + MANY)
        loader = DataLoader(Seeds(self.photographs), None, sampler=seeds, num_workers=self.workers)
        self.coming = zip(seeds, loader, strict=True)

    def add(self) -> None:
        """Encodes and keeps the next clip; the oldest one goes."""
        seed, clip = next(self.coming)
        self.items.append(encode(self.vae, clip, np.random.default_rng((2, seed))))
        del self.items[: -self.capacity]

    def batch(self, size: int, shape: tuple[int, int], frames: int, rng: np.random.Generator) -> Batch:
        """Random windows of the first frames of random clips."""
        chosen = [crop(self.items[rng.integers(len(self.items))], *shape, rng) for _ in range(size)]
        buckets = [bucket_of(float(item.speed.mean())) for item in chosen]
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
