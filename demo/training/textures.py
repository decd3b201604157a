"""Procedural still pictures: smooth noise, gradients and overlapping shapes ("dead leaves").

Overlapping random shapes with power-law sizes have edges, occlusions and a spectrum like those of
photographs (Lee, Mumford & Huang, "Occlusion models for natural images", 2001), so they can stand in for the
photographs that are not here.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageDraw, ImageFilter

Size = tuple[int, int]


def smooth_noise(size: Size, cell: float, channels: int, rng: np.random.Generator) -> torch.Tensor:
    """Bicubic value noise f32 [channels,H,W], about -1..1, with features of `cell` pixels."""
    rows, columns = (max(2, math.ceil(side / cell) + 2) for side in size)
    seeds = torch.from_numpy(rng.uniform(-1, 1, (1, channels, rows, columns)).astype(np.float32))
    return F.interpolate(seeds, size=size, mode="bicubic", align_corners=False)[0]


def fractal(
    size: Size, cell: float, channels: int, rng: np.random.Generator, falloff: float = 0.5
) -> torch.Tensor:
    """A sum of octaves of `smooth_noise`, f32 [channels,H,W], about -1..1."""
    total, weight = torch.zeros(channels, *size), 1.0
    while cell > 2:
        total += weight * smooth_noise(size, cell, channels, rng)
        cell, weight = cell / 2, weight * falloff
    return (total * (1 - falloff) * 1.3).clamp(-1, 1)


def colour(rng: np.random.Generator, saturation: float = 0.5) -> torch.Tensor:
    """A random colour f32 [3,1,1] in 0..1, duller than a uniform draw."""
    grey, tint = rng.uniform(0.03, 0.97), rng.uniform(-1, 1, 3) * saturation * rng.uniform(0, 0.7)
    return torch.from_numpy(np.clip(grey + tint, 0, 1).astype(np.float32)).view(3, 1, 1)


def between(low: torch.Tensor, high: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`low` where the mask is 0, `high` where it is 1."""
    return low + (high - low) * mask


def fill(size: Size, rng: np.random.Generator) -> torch.Tensor:
    """The inside of one shape: a gradient with more or less texture, f32 [3,H,W] in 0..1."""
    height, width = size
    angle, base = rng.uniform(0, 2 * math.pi), colour(rng)
    ramp = torch.linspace(-1, 1, height).view(-1, 1) * math.sin(angle) + torch.linspace(
        -1, 1, width
    ) * math.cos(angle)
    picture = base + (colour(rng) - base) * ramp * rng.uniform(0, 0.5)
    if rng.random() < 0.7:
        texture = fractal(size, rng.uniform(3, 40), 1, rng, rng.uniform(0.4, 0.9))
        picture = picture + texture * rng.uniform(0.02, 0.3) * (0.4 + colour(rng))
    if rng.random() < 0.12:
        period, tilt = rng.uniform(3, 20), rng.uniform(0, math.pi)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        stripes = torch.sin((x * math.cos(tilt) + y * math.sin(tilt)) * 2 * math.pi / period)
        picture = picture + stripes.clamp(-0.5, 0.5) * rng.uniform(0.1, 0.5)
    return picture.clamp(0, 1)


def outline(size: Size, rng: np.random.Generator, radius: float, centre: tuple[float, float]) -> torch.Tensor:
    """An antialiased mask f32 [1,H,W] of an ellipse, a blob or a polygon around `centre` (x, y)."""
    corners = int(rng.choice([3, 4, 4, 5, 24, 24, 24]))
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + rng.uniform(0, 2 * math.pi)
    wobble = rng.uniform(0, 0.3)
    lengths = radius * (1 + wobble * np.sin(angles * rng.integers(2, 5) + rng.uniform(0, 6)))
    stretch, tilt = rng.uniform(0.4, 1), rng.uniform(0, math.pi)
    x, y = lengths * np.cos(angles), lengths * np.sin(angles) * stretch
    x, y = x * math.cos(tilt) - y * math.sin(tilt), x * math.sin(tilt) + y * math.cos(tilt)
    canvas = Image.new("L", (size[1] * 2, size[0] * 2))
    points = [(2 * (centre[0] + dx), 2 * (centre[1] + dy)) for dx, dy in zip(x, y, strict=True)]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    small = canvas.resize((size[1], size[0]), Image.Resampling.BOX)
    if rng.random() < 0.25:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]


def dead_leaves(size: Size, rng: np.random.Generator) -> torch.Tensor:
    """A picture of overlapping textured shapes, f32 [3,H,W] in 0..1."""
    picture, height, width = fill(size, rng), *size
    for _ in range(int(rng.integers(8, 45))):
        radius = min(height, width) * 0.55 * rng.uniform(0.04, 1) ** 1.8 + 2
        centre = rng.uniform(0, width), rng.uniform(0, height)
        top, left = max(0, int(centre[1] - 1.4 * radius)), max(0, int(centre[0] - 1.4 * radius))
        bottom, right = (
            min(height, int(centre[1] + 1.4 * radius) + 2),
            min(width, int(centre[0] + 1.4 * radius) + 2),
        )
        window = (bottom - top, right - left)
        mask = outline(window, rng, radius, (centre[0] - left, centre[1] - top))
        region = picture[:, top:bottom, left:right]
        region.copy_(between(region, fill(window, rng), mask))
    return picture


def recolour(picture: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The picture with another hue, contrast and gamma; keeps 0..1."""
    grey = picture.mean(dim=0, keepdim=True)
    mix = torch.from_numpy(rng.dirichlet((0.35, 0.35, 0.35), 3).astype(np.float32))
    mixed = torch.einsum("dc,chw->dhw", mix, picture)
    picture = between(grey, between(picture, mixed, rng.uniform(0, 1)), rng.uniform(0.3, 1.5)).clamp(0, 1)
    tint = 1 + torch.from_numpy(rng.uniform(-0.25, 0.25, (3, 1, 1)).astype(np.float32))
    return (picture.clamp(1e-4, 1) ** rng.uniform(0.6, 1.5) * tint).clamp(0, 1)
