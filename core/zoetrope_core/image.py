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
    resized = _resize(_resize(for_vae(frame)[0], size).swapaxes(1, 2), size).swapaxes(1, 2)
    normalise = np.array([mean, std], np.float32)[..., None, None]
    normalised: Array = ((resized + 1.0) / 2.0 - normalise[0]) / normalise[1]
    return np.ascontiguousarray(normalised[None], dtype=np.float32)


def _resize(planes: Array, size: int) -> Array:
    """f32 [3,length,n] to f32 [3,size,n]: a weighted sum of a few shifted rows.

    Not a matrix product: BLAS threads that wait for each other cost more than the sum, and hang where
    another library of the process has changed what its threads may run on.
    """
    first, weights = _taps(planes.shape[1], size)
    resized = np.zeros((planes.shape[0], size, planes.shape[2]), np.float32)
    for tap in range(weights.shape[1]):
        resized += weights[:, tap, None] * planes[:, first + tap]
    return resized


@lru_cache(maxsize=64)
def _taps(length: int, size: int) -> tuple[Array, Array]:
    """Blur and interpolation along one axis: first source rows, int [size], and weights, f32 [size,taps]."""
    matrix = _matrix(length, size)
    used = matrix != 0
    first, last = used.argmax(1), length - 1 - used[:, ::-1].argmax(1)
    taps = int((last - first).max()) + 1
    first = np.minimum(first, length - taps)
    weights = np.take_along_axis(matrix, first[:, None] + np.arange(taps), 1)
    return first, weights.astype(np.float32)


def _matrix(length: int, size: int) -> Array:
    """f64 [size,length]: the weight of each source row in each target row."""
    position = np.arange(size) * ((length - 1) / max(size - 1, 1))
    base = np.floor(position).astype(int)
    offsets, kernel = _gaussian(length / size)
    matrix = np.zeros((size, length))
    for tap in range(-1, 3):
        cubic = _cubic(position - (base + tap))
        source = np.clip(base + tap, 0, length - 1)
        for offset, weight in zip(offsets, kernel, strict=True):
            np.add.at(matrix, (np.arange(size), _reflect(source + offset, length)), cubic * weight)
    return matrix


def _gaussian(factor: float) -> tuple[Array, Array]:
    """Offsets and weights of the blur before a reduction by `factor`."""
    sigma = max((factor - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3)) | 1
    offsets = np.arange(taps) - taps // 2
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    return offsets, kernel / kernel.sum()


def _reflect(index: Array, length: int) -> Array:
    """Indices reflected at both borders without repeating the border pixel."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded)


def _cubic(distance: Array) -> Array:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x**2 + 1
    far = ((x - 5) * x + 8) * _CUBIC_A * x - 4 * _CUBIC_A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
