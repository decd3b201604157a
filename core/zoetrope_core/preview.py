"""Latents to small pictures by a linear map: what the model sees by now, without decoding it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoetrope_core.specs import Array

LatentRgb = tuple[tuple[float, float, float], ...]
"""C + 1 rows of red, green and blue: one for each channel of the latents, then the bias."""


def latent_rgb(latents: Array, pixels: Array) -> LatentRgb:
    """The linear map from latents to colours with the least squared error.

    Args:
        latents: f32 [N,C,h,w], as the VAE encodes the pixels, not scaled.
        pixels: f32 [N,3,H,W] in -1..1; H is a multiple of h and W of w.

    Returns:
        The map; it explains the mean colour of the pixels that each latent stands for.
    """
    count, channels, height, width = latents.shape
    pooled = pixels.reshape(count, 3, height, pixels.shape[2] // height, width, -1).mean((3, 5))
    samples = latents.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    colours = pooled.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    with_bias = np.concatenate([samples, np.ones((len(samples), 1))], 1)
    solution = np.linalg.lstsq(with_bias, colours, rcond=None)[0]
    return tuple((float(red), float(green), float(blue)) for red, green, blue in solution)


def preview(denoised: Array, rgb: Sequence[Sequence[float]], scaling_factor: float) -> Array:
    """Pictures of the estimate of the clean latents.

    Args:
        denoised: f32 [F,C,h,w], what the denoiser gave (`Step.denoised`), scaled as the UNet has latents.
        rgb: the map, see `LatentRgb`.
        scaling_factor: latents of the UNet are VAE latents times this.

    Returns:
        u8 [F,h,w,3]; what is not finite is mid-grey.
    """
    weights, bias = np.asarray(rgb[:-1], np.float32), np.asarray(rgb[-1], np.float32)
    with np.errstate(invalid="ignore"):
        colours = np.tensordot(denoised, weights / np.float32(scaling_factor), axes=(1, 0)) + bias
    levels = np.nan_to_num(colours * 127.5 + 127.5, nan=127.5, posinf=127.5, neginf=127.5)
    return levels.round().clip(0.0, 255.0).astype(np.uint8)
