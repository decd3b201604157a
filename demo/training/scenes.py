"""Clips made on the fly: a still picture under a moving camera, drifting clouds, water, moving objects.

A scene is a stack of layers. Each layer samples its texture at `x + displacement_t(x)`, so the optical flow
is known exactly from the displacements, and with it the clip's `motion_bucket_id`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from . import textures
from .motion import bucket_of, flow_of

FRAMES, HEIGHT, WIDTH, MARGIN = 14, 128, 192, 26
CANVAS = (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)
FASTEST = 4.0  # pixels a frame, of any single layer
# How varied the camera is. A short run learns one kind of motion first; a longer one should be given more.
PAN, ZOOM, ROLL = 1.0, 0.0, 0.0  # the share of camera clips that have each
RIGHTWARD, TILT = 1.0, 0.5  # the share of pans and drifts that go right; the largest angle in radians


@dataclass(frozen=True, slots=True)
class Layer:
    """A texture f32 [3,*CANVAS], its mask f32 [1,*CANVAS] or None, and unit displacements f32 [F,H,W,2]."""

    texture: torch.Tensor
    mask: torch.Tensor | None
    displacement: torch.Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames f32 [F,3,H,W] in 0..1 and what is known of them; flow is f32 [H,W,2] pixels a frame."""

    frames: torch.Tensor
    flow: torch.Tensor
    bucket: float
    kind: str


def pixel_grid() -> torch.Tensor:
    """Pixel positions (x, y) relative to the frame's centre, f32 [H,W,2]."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack((x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2), dim=-1).float()


def sample(image: torch.Tensor, displacement: torch.Tensor, padding: str) -> torch.Tensor:
    """The image f32 [C,*CANVAS] seen through displacements f32 [F,H,W,2]: f32 [F,C,H,W]."""
    scale = torch.tensor([2 / CANVAS[1], 2 / CANVAS[0]])
    grid = (pixel_grid() + displacement) * scale
    return F.grid_sample(image.expand(len(grid), -1, -1, -1), grid, "bilinear", padding, align_corners=False)


def seconds() -> torch.Tensor:
    """The frame numbers, shaped to multiply displacements: f32 [F,1,1,1]."""
    return torch.arange(FRAMES, dtype=torch.float32).view(-1, 1, 1, 1)


def direction(rng: np.random.Generator) -> torch.Tensor:
    """A random unit vector f32 [2], near the horizontal."""
    angle, side = rng.uniform(-TILT, TILT), 1 if rng.random() < RIGHTWARD else -1
    return vector([side * math.cos(angle), math.sin(angle)])


def vector(values: Sequence[float]) -> torch.Tensor:
    """A vector f32."""
    return torch.tensor(values, dtype=torch.float32)


def camera(rng: np.random.Generator) -> torch.Tensor:
    """Displacements of a pan, a zoom, a roll, or a mixture, with or without depth: f32 [F,H,W,2]."""
    grid, time = pixel_grid(), seconds()
    pan, zoom, roll = rng.random(3) < (PAN, ZOOM, ROLL)
    depth = torch.ones(HEIGHT, WIDTH, 1)
    if rng.random() < 0.5:
        slope = torch.linspace(-0.5, 0.5, HEIGHT).view(-1, 1, 1) * rng.uniform(0, 1)
        depth = 1 + slope + 0.25 * textures.smooth_noise((HEIGHT, WIDTH), 60, 1, rng).permute(1, 2, 0)
    moved = torch.zeros(FRAMES, HEIGHT, WIDTH, 2)
    if pan or not (zoom or roll):
        moved = moved + time * direction(rng) * depth * rng.uniform(0.4, 1)
    if zoom:
        moved = moved - grid * depth * time * rng.uniform(0.4, 1) / 55  # into the picture
    if roll:
        turned = torch.stack((-grid[..., 1], grid[..., 0]), dim=-1)
        moved = moved + turned * time * rng.choice([-1, 1]) * rng.uniform(0.3, 1) / 60
    return moved


def drift(rng: np.random.Generator, heading: torch.Tensor, unevenness: float) -> torch.Tensor:
    """Displacements of a texture that flows along `heading`, a little faster here than there."""
    speed = 1 + unevenness * textures.smooth_noise((HEIGHT, WIDTH), 70, 1, rng).permute(1, 2, 0)
    return seconds() * heading * speed


def still() -> torch.Tensor:
    """No displacement."""
    return torch.zeros(FRAMES, HEIGHT, WIDTH, 2)


def still_picture(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> torch.Tensor:
    """A photograph's random part or a procedural picture, f32 [3,*CANVAS] in 0..1."""
    if not photographs or rng.random() < 0.5:
        return textures.dead_leaves(CANVAS, rng)
    return part_of(photographs[rng.integers(len(photographs))], rng)


def part_of(photograph: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random part of a photograph, resized, perhaps mirrored and recoloured: f32 [3,*CANVAS]."""
    height, width = photograph.shape[1:]
    share = rng.uniform(0.45, 1) if min(height, width) > 250 else 1.0
    rows = min(height, width * CANVAS[0] / CANVAS[1]) * share
    columns = rows * CANVAS[1] / CANVAS[0]
    top, left = int(rng.uniform(0, height - rows)), int(rng.uniform(0, width - columns))
    part = photograph[None, :, top : top + int(rows), left : left + int(columns)]
    part = F.interpolate(part, size=CANVAS, mode="bilinear", antialias=True)[0]
    part = part.flip(2) if rng.random() < 0.5 else part
    return textures.recolour(part, rng) if rng.random() < 0.7 else part


def camera_scene(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> list[Layer]:
    """A still picture under a moving camera."""
    return [Layer(still_picture(rng, photographs), None, camera(rng))]


def horizon(rng: np.random.Generator) -> torch.Tensor:
    """A mask f32 [1,*CANVAS] of the ground below a bumpy horizon."""
    bumps = textures.fractal((1, CANVAS[1]), rng.uniform(30, 90), 1, rng, rng.uniform(0.3, 0.6))[0]
    line = CANVAS[0] * rng.uniform(0.45, 0.75) + bumps * rng.uniform(2, 25)
    rows = torch.arange(CANVAS[0], dtype=torch.float32).view(-1, 1)
    return (rows - line).clamp(0, 1)[None]


def sky(rng: np.random.Generator, coverage: torch.Tensor) -> torch.Tensor:
    """A vertical gradient with clouds where `coverage` f32 [1,*CANVAS] is 1."""
    ramp = torch.linspace(0, 1, CANVAS[0]).view(1, -1, 1)
    high = vector([rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.95)]).view(3, 1, 1)
    low = vector([rng.uniform(0.5, 1), rng.uniform(0.5, 0.9), rng.uniform(0.5, 1)]).view(3, 1, 1)
    cloud = rng.uniform(0.6, 1) - 0.25 * textures.fractal(CANVAS, 25, 1, rng).clamp(0, 1)
    return textures.between(textures.between(high, low, ramp), cloud, coverage).float()


def cloud_scene(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> list[Layer]:
    """Clouds drift over ground that stands still."""
    noise = textures.fractal(CANVAS, rng.uniform(40, 80), 1, rng, rng.uniform(0.45, 0.65))
    coverage = (noise * rng.uniform(1.5, 3.5) + rng.uniform(-0.3, 0.5)).clamp(0, 1)
    heading = direction(rng)
    clouds = Layer(sky(rng, coverage), None, drift(rng, heading, 0.2))
    return [clouds, Layer(ground(rng), horizon(rng), still())]


def ground(rng: np.random.Generator) -> torch.Tensor:
    """Textured land, darker than the sky: f32 [3,*CANVAS]."""
    return (textures.dead_leaves(CANVAS, rng) if rng.random() < 0.4 else textures.fill(CANVAS, rng)) * 0.7


def water_scene(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> list[Layer]:
    """Rippled water flows below a bank, a picture, that stands still."""
    size = (CANVAS[0], CANVAS[1] // 3)
    waves = textures.fractal(size, rng.uniform(7, 16), 1, rng, rng.uniform(0.4, 0.65))
    waves = F.interpolate(waves[None], size=CANVAS, mode="bicubic")[0].clamp(-1, 1)
    deep = vector([rng.uniform(0.0, 0.3), rng.uniform(0.2, 0.5), rng.uniform(0.3, 0.7)]).view(3, 1, 1)
    water = (deep + waves * rng.uniform(0.15, 0.4)).clamp(0, 1).float()
    heading = direction(rng)
    mask = horizon(rng) if rng.random() < 0.5 else (horizon(rng) > 0.5).float()
    bank = Layer(still_picture(rng, photographs), None, still())
    return [bank, Layer(water, mask, drift(rng, heading, 0.25))]


def smoke_scene(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> list[Layer]:
    """Smoke rises in front of a picture that stands still."""
    centre, spread = rng.uniform(0.25, 0.75) * CANVAS[1], rng.uniform(15, 35)
    rows = torch.arange(CANVAS[0]).view(-1, 1) / CANVAS[0]
    bell = torch.exp(-(((torch.arange(CANVAS[1]) - centre) / (spread * (1.6 - rows))) ** 2))
    puffs = (textures.fractal(CANVAS, rng.uniform(20, 45), 1, rng, 0.55) * 2 + 0.6).clamp(0, 1)
    shade = rng.uniform(0.5, 1) - 0.3 * textures.fractal(CANVAS, 15, 1, rng).expand(3, -1, -1)
    rise = drift(rng, vector([rng.uniform(-0.3, 0.3), 1.0]), 0.3)
    return [
        Layer(still_picture(rng, photographs), None, still()),
        Layer(shade.clamp(0, 1), (puffs * bell)[None] if puffs.dim() == 2 else puffs * bell, rise),
    ]


def object_scene(rng: np.random.Generator, photographs: Sequence[torch.Tensor]) -> list[Layer]:
    """One to three shapes, each with its own heading and speed, over a still or slowly panned picture."""
    slow = drift(rng, direction(rng) * rng.uniform(0.1, 0.35), 0.0) if rng.random() < 0.3 else still()
    background = textures.fill(CANVAS, rng) if rng.random() < 0.5 else still_picture(rng, photographs)
    layers = [Layer(background, None, slow)]
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(14, 38)
        centre = rng.uniform(MARGIN, CANVAS[1] - MARGIN), rng.uniform(MARGIN, CANVAS[0] - MARGIN)
        mask = textures.outline(CANVAS, rng, radius, centre)
        motion = seconds() * direction(rng) * rng.uniform(0.5, 1) * torch.ones(HEIGHT, WIDTH, 1)
        layers.append(Layer(textures.fill(CANVAS, rng), mask, motion))
    return layers


Scene = Callable[[np.random.Generator, Sequence[torch.Tensor]], list[Layer]]
SCENES: dict[str, tuple[Scene, float]] = {
    "camera": (camera_scene, 0.6),
    "clouds": (cloud_scene, 0.14),
    "water": (water_scene, 0.14),
    "smoke": (smoke_scene, 0.02),
    "objects": (object_scene, 0.1),
}


def blend(layers: Sequence[Layer], speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames f32 [F,3,H,W] of a stack of layers at a speed, and the visible unit flow f32 [H,W,2]."""
    frames, flow = torch.zeros(FRAMES, 3, HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH, 2)
    for layer in layers:
        colour = sample(layer.texture, layer.displacement * speed, "reflection")
        unit = layer.displacement[0] - layer.displacement[1]
        if layer.mask is None:
            frames, flow = colour, unit
            continue
        mask = sample(layer.mask, layer.displacement * speed, "border")
        frames = textures.between(frames, colour, mask)
        flow = torch.where(mask[0, 0, :, :, None] > 0.5, unit, flow)
    return frames, flow


def visible_flow(layers: Sequence[Layer]) -> torch.Tensor:
    """The unit flow of what the first frame shows, f32 [H,W,2]."""
    flow = torch.zeros(HEIGHT, WIDTH, 2)
    for layer in layers:
        unit = layer.displacement[0] - layer.displacement[1]
        seen = (
            torch.ones(HEIGHT, WIDTH)
            if layer.mask is None
            else sample(layer.mask, still()[:1], "border")[0, 0]
        )
        flow = torch.where(seen[..., None] > 0.5, unit, flow)
    return flow


def make_clip(
    seed: int, photographs: Sequence[torch.Tensor] = (), kind: str | None = None, bucket: float | None = None
) -> Clip:
    """The clip of a seed; its kind and its motion are random unless given."""
    rng = np.random.default_rng(seed)
    names, weights = list(SCENES), [weight for _, weight in SCENES.values()]
    kind = kind or names[rng.choice(len(names), p=weights)]
    wanted = flow_of(rng.uniform(0, 255) if bucket is None else bucket)
    layers = SCENES[kind][0](rng, photographs)
    unit = visible_flow(layers).norm(dim=-1)
    fastest = max(
        float((layer.displacement[1] - layer.displacement[0]).norm(dim=-1).max()) for layer in layers
    )
    speed = min(wanted / max(float(unit.mean()), 1e-3), FASTEST / max(fastest, 1e-3))
    frames, flow = blend(layers, speed)
    return Clip(frames.clamp(0, 1), flow * speed, bucket_of(float(unit.mean()) * speed), kind)
