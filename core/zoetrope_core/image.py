"""Pure image transforms from a uint8 frame to the inputs of the two encoders."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from zoetrope_core.specs import Array

_CUBIC_A = -0.75
"""The cubic convolution parameter of torch's bicubic interpolation."""


def for_vae(frame: Array) -> Array:
    """u8 [H,W,3] to f32 [1,3,H,W] in -1..1 (diffusers' `VaeImageProcessor.preprocess`)."""
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], dtype=np.float32)
    scaled: Array = planes / np.float32(255.0) * np.float32(2.0) - np.float32(1.0)
    return scaled


def for_clip(frame: Array, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """The CLIP encoder's input: resized with antialiasing in -1..1, then normalised.

    Args:
        frame: u8 [H,W,3].
        size: S, the side of the encoder's input in pixels.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.

    Returns:
        f32 [1,3,S,S]; the resize is `_resize_with_antialiasing` of diffusers' SVD pipeline: a Gaussian blur
        with reflected borders, then bicubic interpolation with aligned corners.
    """
    planes = for_vae(frame)[0]
    rows, columns = _resize_matrix(frame.shape[0], size), _resize_matrix(frame.shape[1], size)
    resized = rows @ planes @ columns.T
    normalise = np.array([mean, std], np.float32)[..., None, None]
    normalised: Array = ((resized + 1.0) / 2.0 - normalise[0]) / normalise[1]
    return normalised[None].astype(np.float32)


@lru_cache(maxsize=64)
def _resize_matrix(length: int, size: int) -> Array:
    """f32 [size,length]: blur and interpolation along one axis, both linear, as one matrix."""
    matrix = (_cubic_matrix(length, size) @ _blur_matrix(length, length / size)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _blur_matrix(length: int, factor: float) -> Array:
    """f64 [length,length]: Gaussian blur with reflected borders for a reduction by `factor`."""
    sigma = max((factor - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3)) | 1
    offsets = np.arange(taps) - taps // 2
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    matrix = np.zeros((length, length))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        source = _reflect(np.arange(length) + offset, length)
        np.add.at(matrix, (np.arange(length), source), weight)
    return matrix


def _reflect(index: Array, length: int) -> Array:
    """Indices reflected at both borders without repeating the border pixel."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded)


def _cubic_matrix(length: int, size: int) -> Array:
    """f64 [size,length]: cubic convolution with aligned corners and clamped borders."""
    position = np.arange(size) * ((length - 1) / (size - 1)) if size > 1 else np.zeros(1)
    base = np.floor(position).astype(int)
    matrix = np.zeros((size, length))
    for tap in range(-1, 3):
        weight = _cubic(position - (base + tap))
        np.add.at(matrix, (np.arange(size), np.clip(base + tap, 0, length - 1)), weight)
    return matrix


def _cubic(distance: Array) -> Array:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * _CUBIC_A * x - 4 * _CUBIC_A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
