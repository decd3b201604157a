"""Noise and latents: seeded per request, so that whoever shares the batch changes nothing."""

from __future__ import annotations

import numpy as np

from zoetrope_core.specs import Array

AUGMENTATION, INITIAL, STEPS = 0, 1, 2
"""The independent noise streams of one seed; step n of a sampler that adds noise has STEPS + n."""


def noise(seed: int, stream: int, shape: tuple[int, ...]) -> Array:
    """Standard normal noise f32 `shape` that depends on the seed, the stream and the shape alone."""
    # A spawn key, since SeedSequence([seed, 1]) would equal SeedSequence([seed + 2**32, 0]).
    sequence = np.random.SeedSequence(seed, spawn_key=(stream,))
    generator = np.random.Generator(np.random.Philox(sequence))
    return generator.standard_normal(shape, dtype=np.float32)


def augmentation_noise(size: tuple[int, int], seed: int) -> Array:
    """The noise f32 [1,3,H,W] that the image of a frame size (H, W) is augmented with."""
    return noise(seed, AUGMENTATION, (1, 3, *size))


def augment(pixels: Array, strength: float, noise: Array) -> Array:
    """Adds augmentation noise in pixel space, before the VAE encodes.

    Args:
        pixels: f32 [1,3,H,W] in -1..1.
        strength: the standard deviation of the noise (`noise_aug_strength`).
        noise: see `augmentation_noise`.

    Returns:
        f32 [1,3,H,W]; see `StableVideoDiffusionPipeline.__call__`, step 4.
    """
    augmented: Array = pixels + np.float32(strength) * noise
    return augmented


def initial_noise(shape: tuple[int, ...], sigma_max: float, seed: int) -> Array:
    """The latents that the sampler starts from.

    Args:
        shape: (F, C, h, w).
        sigma_max: the first sigma of the schedule.
        seed: the request's seed.

    Returns:
        f32 [F,C,h,w] of standard deviation sqrt(sigma_max^2 + 1): data of unit variance plus noise, as
        `EulerDiscreteScheduler.init_noise_sigma` has it.
    """
    return noise(seed, INITIAL, shape) * np.float32((float(sigma_max) ** 2 + 1.0) ** 0.5)


def step_noise(shape: tuple[int, ...], number: int, seed: int) -> Array:
    """The noise f32 `shape` that a sampler adds in its step `number`, from 1."""
    return noise(seed, STEPS + number, shape)


def time_ids(fps: int, motion_bucket_id: int, noise_aug_strength: float) -> Array:
    """The added time ids f32 [3]; SVD's UNet was conditioned on fps - 1."""
    return np.array([fps - 1, motion_bucket_id, noise_aug_strength], np.float32)
