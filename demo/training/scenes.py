"""Clips made on the fly: photographs that move, clouds, water, leaves, particles, objects before each other.

A scene is a stack of layers. Each layer samples its texture at `x + displacement_t(x)`, so the motion is
known exactly from the displacements, and with it the clip's `motion_bucket_id`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from . import fields, textures
from .collect import Photograph
from .fields import FRAMES, HEIGHT, MARGIN, WIDTH
from .motion import bucket_of, flow_of

CANVAS = (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)
FASTEST = 3.0  # pixels a frame, of any single layer
LARGEST_ASKED = 255


@dataclass(frozen=True, slots=True)
class Layer:
    """A texture f32 [3,*CANVAS], its mask f32 [1,*CANVAS] or None, and displacements f32 [F,H,W,2]."""

    texture: torch.Tensor
    mask: torch.Tensor | None
    displacement: torch.Tensor


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames f32 [F,3,H,W] in 0..1 and what is known of them; speed is f32 [H,W] pixels a frame."""

    frames: torch.Tensor
    speed: torch.Tensor
    bucket: float
    kind: str


def sample(image: torch.Tensor, displacement: torch.Tensor, padding: str) -> torch.Tensor:
    """The image f32 [C,*CANVAS] seen through displacements f32 [F,H,W,2]: f32 [F,C,H,W]."""
    scale = torch.tensor([2 / CANVAS[1], 2 / CANVAS[0]])
    grid = (fields.pixel_grid() + displacement) * scale
    return F.grid_sample(image.expand(len(grid), -1, -1, -1), grid, "bilinear", padding, align_corners=False)


def part_of(photograph: Photograph, rng: np.random.Generator) -> tuple[torch.Tensor, float, float]:
    """A random part of a photograph as f32 [3,*CANVAS] in 0..1, and the top and height that it was cut at."""
    height, width = photograph.pixels.shape[1:]
    share = rng.uniform(0.6, 1) if min(height, width) > 300 else 1.0
    tall = min(height, width * CANVAS[0] / CANVAS[1]) * share
    wide = tall * CANVAS[1] / CANVAS[0]
    top, left = int(rng.uniform(0, height - tall)), int(rng.uniform(0, width - wide))
    part = photograph.pixels[None, :, top : top + int(tall), left : left + int(wide)].float() / 255
    part = F.interpolate(part, size=CANVAS, mode="bilinear", antialias=True)[0]
    part = part.flip(2) if rng.random() < 0.5 else part
    part = textures.recolour(part, rng) if rng.random() < 0.3 else part
    return part, top / height, tall / height


def still_picture(rng: np.random.Generator, photographs: Sequence[Photograph]) -> torch.Tensor:
    """A part of a photograph, or sometimes a procedural image: f32 [3,*CANVAS] in 0..1."""
    if not photographs or rng.random() < 0.1:
        return textures.dead_leaves(CANVAS, rng)
    return part_of(photographs[rng.integers(len(photographs))], rng)[0]


def camera_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """A still image under a moving camera."""
    return [Layer(still_picture(rng, photographs), None, fields.camera(rng))]


def live_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """A photograph whose sky drifts, whose water ripples or whose leaves sway, as `images.csv` says."""
    able = [photograph for photograph in photographs if photograph.moves]
    if not able:
        return cloud_scene(rng, photographs)
    photograph = able[rng.integers(len(able))]
    texture, top, tall = part_of(photograph, rng)
    moved = fields.still()
    for kind, line in photograph.moves.items():
        seen = ((line - top) / tall * CANVAS[0] - MARGIN) / HEIGHT
        weight = fields.above(seen, rng)
        if kind == "clouds":
            heading = fields.vector([rng.choice([-1, 1]), 0])
            moved = moved + fields.drift(rng, heading, 0.2) * weight * rng.uniform(0.4, 1)
        elif kind == "water":
            moved = moved + fields.ripple(rng, 1 - weight) * rng.uniform(0.5, 1.2)
        else:
            moved = moved + fields.sway(rng, 1 - weight)
    return [Layer(texture, None, moved)]


def horizon(rng: np.random.Generator) -> torch.Tensor:
    """A mask f32 [1,*CANVAS] of the ground below a bumpy horizon."""
    bumps = textures.fractal((1, CANVAS[1]), rng.uniform(30, 120), 1, rng, rng.uniform(0.3, 0.6))[0]
    line = CANVAS[0] * rng.uniform(0.45, 0.75) + bumps * rng.uniform(2, 30)
    heights = torch.arange(CANVAS[0], dtype=torch.float32).view(-1, 1)
    return (heights - line).clamp(0, 1)[None]


def parallax_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """A near ground passes before a far one, each a photograph."""
    heading = fields.direction(rng)
    far = fields.drift(rng, heading * rng.uniform(0.1, 0.5), 0.05)
    near = fields.drift(rng, heading, 0.15)
    grounds = [still_picture(rng, photographs) for _ in range(2)]
    return [Layer(grounds[0], None, far), Layer(grounds[1], horizon(rng), near)]


def sky(rng: np.random.Generator, coverage: torch.Tensor) -> torch.Tensor:
    """A vertical gradient with clouds where `coverage` f32 [1,*CANVAS] is 1."""
    ramp = torch.linspace(0, 1, CANVAS[0]).view(1, -1, 1)
    high = fields.vector([rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.95)])
    low = fields.vector([rng.uniform(0.5, 1), rng.uniform(0.5, 0.9), rng.uniform(0.5, 1)])
    cloud = rng.uniform(0.6, 1) - 0.25 * textures.fractal(CANVAS, 25, 1, rng).clamp(0, 1)
    clear = textures.between(high.view(3, 1, 1), low.view(3, 1, 1), ramp)
    return textures.between(clear, cloud, coverage).float()


def cloud_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """Clouds drift over ground that stands still."""
    noise = textures.fractal(CANVAS, rng.uniform(50, 100), 1, rng, rng.uniform(0.45, 0.65))
    coverage = (noise * rng.uniform(1.5, 3.5) + rng.uniform(-0.3, 0.5)).clamp(0, 1)
    clouds = Layer(sky(rng, coverage), None, fields.drift(rng, fields.direction(rng), 0.2))
    ground = still_picture(rng, photographs) * rng.uniform(0.6, 1)
    return [clouds, Layer(ground, horizon(rng), fields.still())]


def particle_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """Snow falls or sparks rise before a photograph that stands nearly still."""
    seeds = torch.from_numpy(rng.random((1, *CANVAS)).astype(np.float32))
    dots = (seeds > 1 - rng.uniform(0.001, 0.006)).float()
    for _ in range(int(rng.integers(2, 4))):
        dots = F.avg_pool2d(dots[None], 3, 1, 1)[0] * 3
    mask = (dots * rng.uniform(0.4, 0.8)).clamp(0, 1)
    tint = [1.0, 1.0, 1.0] if rng.random() < 0.6 else [1.0, rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.6)]
    upright = fields.vector(
        [rng.uniform(-0.4, 0.4), rng.choice([-1, -1, 1])]
    )  # what is seen moves against it
    moved = fields.drift(rng, upright, 0.1) + 0.3 * fields.sway(rng, torch.ones(HEIGHT, WIDTH, 1))
    behind = 0.2 * fields.camera(rng) if rng.random() < 0.5 else fields.still()
    color = fields.vector(tint).view(3, 1, 1).expand(3, *CANVAS)
    return [Layer(still_picture(rng, photographs), None, behind), Layer(color, mask, moved)]


def object_scene(rng: np.random.Generator, photographs: Sequence[Photograph]) -> list[Layer]:
    """One to three things, each with its own heading and speed, over a still or slowly moving image."""
    slow = 0.3 * fields.camera(rng) if rng.random() < 0.5 else fields.still()
    layers = [Layer(still_picture(rng, photographs), None, slow)]
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(16, 48)
        center = rng.uniform(MARGIN, CANVAS[1] - MARGIN), rng.uniform(MARGIN, CANVAS[0] - MARGIN)
        mask = textures.outline(CANVAS, rng, radius, center)
        motion = fields.times() * fields.direction(rng) * rng.uniform(0.5, 1)
        filled = textures.fill(CANVAS, rng) if rng.random() < 0.5 else still_picture(rng, photographs)
        layers.append(Layer(filled, mask, motion.expand(FRAMES, HEIGHT, WIDTH, 2)))
    return layers


Scene = Callable[[np.random.Generator, Sequence[Photograph]], list[Layer]]
SCENES: dict[str, tuple[Scene, float]] = {
    "camera": (camera_scene, 0.4),
    "live": (live_scene, 0.24),
    "parallax": (parallax_scene, 0.1),
    "clouds": (cloud_scene, 0.08),
    "particles": (particle_scene, 0.06),
    "objects": (object_scene, 0.12),
}


def blend(layers: Sequence[Layer], strength: float) -> torch.Tensor:
    """Frames f32 [F,3,H,W] of a stack of layers whose displacements are scaled by `strength`."""
    frames = torch.zeros(FRAMES, 3, HEIGHT, WIDTH)
    for layer in layers:
        color = sample(layer.texture, layer.displacement * strength, "reflection")
        if layer.mask is None:
            frames = color
            continue
        mask = sample(layer.mask, layer.displacement * strength, "border")
        frames = textures.between(frames, color, mask)
    return frames


def visible_speed(layers: Sequence[Layer]) -> torch.Tensor:
    """The speed of what the first frame shows, f32 [H,W]."""
    speed = torch.zeros(HEIGHT, WIDTH)
    for layer in layers:
        own = fields.mean_speed(layer.displacement)
        seen = 1.0 if layer.mask is None else sample(layer.mask, fields.still()[:1], "border")[0, 0]
        speed = speed + (own - speed) * seen
    return speed


def make_clip(
    seed: int, photographs: Sequence[Photograph] = (), kind: str | None = None, bucket: float | None = None
) -> Clip:
    """The clip of a seed; its kind and its motion are random unless given."""
    rng = np.random.default_rng(seed)
    names, weights = list(SCENES), [weight for _, weight in SCENES.values()]
    kind = kind or names[rng.choice(len(names), p=weights)]
    wanted = flow_of(rng.uniform(0, LARGEST_ASKED) if bucket is None else bucket)
    layers = SCENES[kind][0](rng, photographs)
    speed = visible_speed(layers)
    fastest = max(float(layer.displacement.diff(dim=0).norm(dim=-1).max()) for layer in layers)
    strength = min(wanted / max(float(speed.mean()), 1e-3), FASTEST / max(fastest, 1e-3))
    frames = blend(layers, strength).clamp(0, 1)
    return Clip(frames, speed * strength, bucket_of(float(speed.mean()) * strength), kind)
