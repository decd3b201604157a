"""Classifier-free guidance as weights over the condition rows of one video."""

from __future__ import annotations

import numpy as np

from zoetrope_core.specs import Array


def weights(minimum: float, maximum: float, num_frames: int) -> Array:
    """The weight of each condition row in each frame.

    Args:
        minimum: the guidance scale g of the first frame.
        maximum: the guidance scale of the last frame; at most 1 means no guidance at all, as in diffusers.
        num_frames: F.

    Returns:
        f32 [K,F], summing to 1 over K: K = 2 rows (unconditional 1 - g, conditional g) with g on a straight
        ramp, or K = 1 row of ones without guidance.
    """
    if maximum <= 1.0:
        return np.ones((1, num_frames), np.float32)
    scale = np.linspace(minimum, maximum, num_frames, dtype=np.float32)
    return np.stack([1.0 - scale, scale])


def with_unconditional(conditional: Array, rows: int) -> Array:
    """[K, ...]: the conditional tensor [...], after the unconditional row (zeros) when K is 2."""
    return np.stack([np.zeros_like(conditional)] * (rows - 1) + [conditional])
