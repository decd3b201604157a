"""The colours of a checkpoint's latents: what previews are made with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zoetrope_core.preview import LatentRgb, latent_rgb
from zoetrope_core.specs import VAE_ENCODER, Array
from zoetrope_server.engines import Engine

PICTURES = 24
_SIDE = 16
"""Latents of one side of a picture: all together a few thousand samples for a handful of unknowns."""


def fit_latent_rgb(encoder: Engine, vae_scale_factor: int) -> LatentRgb:
    """The linear map from latents to colours that explains how the VAE encodes pictures.

    Args:
        encoder: the stage `vae_encoder` of the checkpoint.
        vae_scale_factor: pixels of one side per latent of one side.
    """
    pairs = [
        (encoder.run({VAE_ENCODER.inputs[0].name: picture[None]})[VAE_ENCODER.outputs[0].name][0], picture)
        for picture in pictures(_SIDE * vae_scale_factor)
    ]
    encoded, pixels = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return latent_rgb(encoded, pixels)


def pictures(side: int, count: int = PICTURES, seed: int = 0) -> Iterator[Array]:
    """Always the same pictures f32 [3,side,side] in -1..1: soft colours, flat shapes on them, some grain."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        cells = (1, 2, 4, 8)[number % 4]
        picture = _soft(generator.uniform(-1.0, 1.0, (3, cells + 1, cells + 1)), side)
        for _ in range(4):
            top, left = generator.integers(0, side, 2)
            height, width = generator.integers(side // 8, side // 2, 2)
            colour = generator.uniform(-1.0, 1.0, (3, 1, 1))
            picture[:, top : top + height, left : left + width] = colour
        picture += generator.normal(0.0, 0.03, picture.shape)
        yield picture.clip(-1.0, 1.0).astype(np.float32)


def _soft(grid: Array, side: int) -> Array:
    """The colours [3,n+1,n+1] at the corners of n x n cells, blended in between: [3,side,side]."""
    cells = grid.shape[1] - 1
    at = np.linspace(0.0, cells, side)
    # The weight of each corner for each pixel of a side: one at the corner, nothing a cell away.
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(cells + 1)))
    blended: Array = weights @ grid @ weights.T
    return blended
