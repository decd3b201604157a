"""How things move: displacement fields f32 [F,H,W,2], zero in the first frame, of about a pixel a frame.

A frame shows its texture at `x + displacement_t(x)`; a clip scales the field until it moves as much as asked.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from . import textures

FRAMES, HEIGHT, WIDTH, MARGIN = 14, 160, 256, 40
# How varied the camera is: the share of camera clips that have each.
PAN, ZOOM, ROLL, DEPTH = 0.8, 0.3, 0.15, 0.7
TILT = 0.6  # the largest angle of pans and drifts to the horizontal, in radians


def vector(values: Sequence[float]) -> torch.Tensor:
    """A vector f32."""
    return torch.tensor(values, dtype=torch.float32)


def pixel_grid() -> torch.Tensor:
    """Pixel positions (x, y) relative to the frame's center, f32 [H,W,2]."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack((x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2), dim=-1).float()


def times() -> torch.Tensor:
    """The frame numbers, shaped to multiply displacements: f32 [F,1,1,1]."""
    return torch.arange(FRAMES, dtype=torch.float32).view(-1, 1, 1, 1)


def still() -> torch.Tensor:
    """No displacement."""
    return torch.zeros(FRAMES, HEIGHT, WIDTH, 2)


def direction(rng: np.random.Generator) -> torch.Tensor:
    """A random unit vector f32 [2], near the horizontal."""
    angle, side = rng.uniform(-TILT, TILT), rng.choice([-1, 1])
    return vector([side * math.cos(angle), math.sin(angle)])


def uneven(rng: np.random.Generator, cell: float) -> torch.Tensor:
    """Smooth noise about -1..1, f32 [H,W,1]."""
    return textures.smooth_noise((HEIGHT, WIDTH), cell, 1, rng).permute(1, 2, 0)


def rows() -> torch.Tensor:
    """The height of each row, 0 at the top and 1 at the bottom: f32 [H,1,1]."""
    return torch.linspace(0, 1, HEIGHT).view(-1, 1, 1)


def camera(rng: np.random.Generator) -> torch.Tensor:
    """A pan, a zoom, a roll, or a mixture, with or without depth."""
    grid, time = pixel_grid(), times()
    pan, zoom, roll, deep = rng.random(4) < (PAN, ZOOM, ROLL, DEPTH)
    depth = torch.ones(HEIGHT, WIDTH, 1)
    if deep:  # the ground is nearer than the sky, and things stand out of both
        depth = 1 + (rows() - 0.5) * rng.uniform(0, 1.2) + 0.3 * uneven(rng, 70)
    moved = still()
    if pan or not (zoom or roll):
        moved = moved + time * direction(rng) * depth * rng.uniform(0.4, 1)
    if zoom:
        moved = moved - grid * depth * time * rng.choice([1, 1, -0.6]) * rng.uniform(0.4, 1) / 70
    if roll:
        turned = torch.stack((-grid[..., 1], grid[..., 0]), dim=-1)
        moved = moved + turned * time * rng.choice([-1, 1]) * rng.uniform(0.3, 1) / 80
    return moved


def drift(rng: np.random.Generator, heading: torch.Tensor, unevenness: float) -> torch.Tensor:
    """A texture that flows along `heading`, a little faster here than there."""
    return times() * heading * (1 + unevenness * uneven(rng, 90))


def above(line: float, rng: np.random.Generator) -> torch.Tensor:
    """1 above a bumpy line (0 the top, 1 the bottom of the frame), 0 below, smooth between: f32 [H,W,1]."""
    edge = line + 0.03 * uneven(rng, 60)
    return ((edge - rows()) / 0.12).clamp(0, 1)


def ripple(rng: np.random.Generator, weight: torch.Tensor) -> torch.Tensor:
    """Waves that run over water, mostly up and down, longer where it is near; weight f32 [H,W,1]."""
    grid, time = pixel_grid(), times()[..., 0]
    moved = still()
    for _ in range(3):
        length = rng.uniform(9, 30) * (0.5 + rows()[..., 0])
        slant, speed = rng.uniform(-0.5, 0.5), rng.uniform(0.35, 1.0) * rng.choice([-1, 1])
        phase = (grid[..., 1] + slant * grid[..., 0]) * 2 * math.pi / length + rng.uniform(0, 6.3)
        wave = (phase + speed * time).sin() - phase.sin()
        moved += wave[..., None] * vector([rng.uniform(0.1, 0.5), 1.0]) * rng.uniform(0.4, 1)
    return moved * weight


def sway(rng: np.random.Generator, weight: torch.Tensor) -> torch.Tensor:
    """Leaves in the wind: neighbors swing together, others later; weight f32 [H,W,1]."""
    phase = 1.5 * uneven(rng, rng.uniform(70, 160))
    speed = rng.uniform(0.2, 0.5)
    swing = (phase + speed * times()).sin() - phase.sin()
    return swing * direction(rng) * weight * (1 + 0.5 * uneven(rng, 90)) * 3


def mean_speed(displacement: torch.Tensor) -> torch.Tensor:
    """How far each position moves from frame to frame, on average: f32 [H,W] pixels."""
    return displacement.diff(dim=0).norm(dim=-1).mean(dim=0)
