"""Samplers in the style of k-diffusion: the model is a callable `denoised = D(x, sigma)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from zoetrope_core.specs import Array

Denoiser = Callable[[Array, float], Awaitable[Array]]
"""From noisy latents f32 [F,C,h,w] and their sigma to the estimate of the clean latents, same shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that has just ended: its number from 1, how many there are, its sigma, and both latents."""

    number: int
    count: int
    sigma: float
    x: Array
    denoised: Array


OnStep = Callable[[Step], Awaitable[None]]
"""Called after each step; raising ends the loop (cancellation, deadline)."""


async def denoise(model: Denoiser, x: Array, sigmas: Array, on_step: OnStep) -> Array:
    """The Euler sampler: Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without churn.

    Args:
        model: the denoiser D.
        x: f32 [F,C,h,w], noise of standard deviation sqrt(sigmas[0]^2 + 1); not changed.
        sigmas: f32 [steps + 1], falling, the last is 0.
        on_step: awaited after each step.

    Returns:
        f32 [F,C,h,w]: the clean latents. Equal to diffusers' `EulerDiscreteScheduler`: x + d (s' - s) with
        d = (x - D) / s is written as x (s'/s) + D (1 - s'/s), which needs no temporary of the derivative.
    """
    x = x.astype(np.float32, copy=True)
    scaled = np.empty_like(x)
    for number, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True), start=1):
        denoised = await model(x, float(sigma))
        keep = np.float32(following / sigma)
        np.multiply(denoised, np.float32(1.0) - keep, out=scaled)
        np.multiply(x, keep, out=x)
        np.add(x, scaled, out=x)
        await on_step(Step(number=number, count=len(sigmas) - 1, sigma=float(sigma), x=x, denoised=denoised))
    return x
