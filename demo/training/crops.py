"""What the autoencoder learns from: parts of photographs and of procedural images, still and moving.

Each part is shrunk by a random factor, so that it is as detailed as a photograph at the frames' size.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from . import textures
from .collect import Photograph

SIDE, STILLS, CLIPS, CLIP_FRAMES = 64, 8, 2, 4
# GroupNorm and attention see another world in a small part than in a whole frame: train on both.
SIZES = ((SIDE, SIDE), (128, 128), (160, 256))
STRONGEST_SHRINK, SHRINKS = 2.8, (0.4, 1.0)  # of packed photographs; 2.8 makes a whole one a frame
PROCEDURAL, POOL, POOL_SIDE = 0.08, 24, 192
FASTEST = 3.0  # pixels a frame


class Crops:
    """Photographs and a few procedural images beside them."""

    def __init__(self, photographs: Sequence[Photograph], factor: int = 1, pool: int = POOL) -> None:
        self.factor = factor  # how many times the batch of a CPU
        self.photographs = [photograph.pixels for photograph in photographs]
        rng = np.random.default_rng(3)
        made = [textures.dead_leaves((POOL_SIDE, POOL_SIDE), rng) for _ in range(pool)]
        self.procedural = [(image * 255).byte() for image in made]

    def part(self, rng: np.random.Generator, size: tuple[int, int]) -> torch.Tensor:
        """A random part, perhaps mirrored and recoloured: f32 [3,*size] in 0..1."""
        source = self.procedural if rng.random() < PROCEDURAL else self.photographs
        image = source[rng.integers(len(source))]
        largest = min(have / want for have, want in zip(image.shape[1:], size, strict=True))
        shrink = min(STRONGEST_SHRINK * rng.uniform(*SHRINKS), largest)
        tall, wide = (int(side * shrink) for side in size)
        top, left = int(rng.integers(image.shape[1] - tall + 1)), int(rng.integers(image.shape[2] - wide + 1))
        part = image[None, :, top : top + tall, left : left + wide].float() / 255
        part = F.interpolate(part, size=size, mode="bilinear", antialias=True)[0]
        part = part.flip(2) if rng.random() < 0.5 else part
        return textures.recolour(part, rng) if rng.random() < 0.3 else part

    def stills(self, rng: np.random.Generator, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Random parts f32 [N,3,h,w] in -1..1 of a size, random by default; always about as many pixels."""
        size = size or SIZES[rng.integers(len(SIZES))]
        count = max(1, STILLS * SIDE**2 // (size[0] * size[1])) * self.factor
        return torch.stack([self.part(rng, size) for _ in range(count)]) * 2 - 1

    def clip(self, rng: np.random.Generator) -> torch.Tensor:
        """One part in front of which another one moves: f32 [CLIP_FRAMES,3,SIDE,SIDE] in 0..1."""
        behind, front = (moved(self.part(rng, (SIDE + 16, SIDE + 16)), rng) for _ in range(2))
        centre = rng.uniform(16, SIDE), rng.uniform(16, SIDE)
        mask = textures.outline((SIDE + 16, SIDE + 16), rng, rng.uniform(8, 26), centre)
        covered = moved(mask, rng) if rng.random() < 0.5 else torch.zeros(1)
        return textures.between(behind, front, covered)

    def clips(self, rng: np.random.Generator) -> torch.Tensor:
        """Clips f32 [CLIPS*factor*CLIP_FRAMES,3,SIDE,SIDE] in -1..1."""
        return torch.cat([self.clip(rng) for _ in range(CLIPS * self.factor)]) * 2 - 1


def moved(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The middle of an image f32 [C,SIDE+16,SIDE+16] under a moving window: f32 [CLIP_FRAMES,C,SIDE,SIDE]."""
    velocity = rng.uniform(-FASTEST, FASTEST, 2) * rng.random() / 2
    whole = image.shape[-1]
    theta = torch.zeros(CLIP_FRAMES, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = SIDE / whole
    shift = torch.arange(CLIP_FRAMES)[:, None] * torch.from_numpy(velocity).float() * 2 / whole
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [CLIP_FRAMES, len(image), SIDE, SIDE], align_corners=False)
    stack = image.expand(CLIP_FRAMES, -1, -1, -1)
    return F.grid_sample(stack, grid, padding_mode="reflection", align_corners=False)
