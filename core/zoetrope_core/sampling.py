"""Samplers in the style of k-diffusion: the model is a callable `denoised = D(x, sigma)`.

All take the same arguments:

    model: the denoiser D.
    x: f32 [F,C,h,w], noise of standard deviation sqrt(sigmas[0]^2 + 1); not changed.
    sigmas: f32 [steps + 1], falling, the last is 0.
    on_step: awaited after each step.
    draw: fresh noise for the samplers that add some; the others never ask.

and return the clean latents f32 [F,C,h,w].
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log
from typing import Protocol

import numpy as np

from zoetrope_core.specs import Array

Denoiser = Callable[[Array, float], Awaitable[Array]]
"""From noisy latents f32 [F,C,h,w] and their sigma to the estimate of the clean latents, same shape."""

Draw = Callable[[int], Awaitable[Array]]
"""From the number of a step, from 1, to its standard normal noise f32 [F,C,h,w]."""


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


async def no_noise(number: int) -> Array:
    """Stands for `draw` where a sampler is deterministic."""
    raise TypeError("this sampler adds noise in its steps and needs `draw`")


class Sampler(Protocol):
    """See the module."""

    async def __call__(
        self, model: Denoiser, x: Array, sigmas: Array, on_step: OnStep, draw: Draw = no_noise
    ) -> Array:
        """The clean latents f32 [F,C,h,w]."""
        ...


async def euler(model: Denoiser, x: Array, sigmas: Array, on_step: OnStep, draw: Draw = no_noise) -> Array:
    """First order: Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without churn and correction.

    Equal to diffusers' `EulerDiscreteScheduler`: x + d (s' - s) with d = (x - D) / s is written as
    x (s'/s) + D (1 - s'/s), which needs no temporary of the derivative.
    """
    x = x.astype(np.float32, copy=True)
    scaled = np.empty_like(x)
    for number, sigma, following in _pairs(sigmas):
        denoised = await model(x, sigma)
        _move(x, denoised, following / sigma, scaled)
        await on_step(Step(number=number, count=len(sigmas) - 1, sigma=sigma, x=x, denoised=denoised))
    return x


async def heun(model: Denoiser, x: Array, sigmas: Array, on_step: OnStep, draw: Draw = no_noise) -> Array:
    """Second order, two calls of the model a step: Karras et al. 2022, algorithm 2 without churn.

    The last step, which ends at 0, has one call. A step reports the later of its two estimates.
    """
    for number, sigma, following in _pairs(sigmas):
        denoised = await model(x, sigma)
        if following:
            slope = (x - denoised) / np.float32(sigma)
            ahead = x + slope * np.float32(following - sigma)
            denoised = await model(ahead, following)
            slope += (ahead - denoised) / np.float32(following)
            x = x + slope * np.float32((following - sigma) / 2)
        else:
            x = denoised
        await on_step(Step(number=number, count=len(sigmas) - 1, sigma=sigma, x=x, denoised=denoised))
    return x


async def dpmpp_2m(model: Denoiser, x: Array, sigmas: Array, on_step: OnStep, draw: Draw = no_noise) -> Array:
    """DPM-Solver++(2M), second order with one call a step: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.

    In terms of sigma an exponential integrator's step is Euler's on an estimate that the one before it
    extrapolates. The first step and the last one, which ends at 0, are first order, as in diffusers'
    `EDMDPMSolverMultistepScheduler`.
    """
    x = x.astype(np.float32, copy=True)
    scaled = np.empty_like(x)
    last: tuple[float, Array] | None = None
    for number, sigma, following in _pairs(sigmas):
        denoised = await model(x, sigma)
        ahead = denoised
        if last is not None and following:
            weight = np.float32(log(sigma / following) / (2 * log(last[0] / sigma)))
            ahead = denoised + (denoised - last[1]) * weight
        _move(x, ahead, following / sigma, scaled)
        last = sigma, denoised
        await on_step(Step(number=number, count=len(sigmas) - 1, sigma=sigma, x=x, denoised=denoised))
    return x


async def lcm(model: Denoiser, x: Array, sigmas: Array, on_step: OnStep, draw: Draw = no_noise) -> Array:
    """For distilled checkpoints: each step is an answer, noised again to the next sigma.

    Multistep consistency sampling, Song et al. 2023 (arXiv 2303.01469), algorithm 1.
    """
    for number, sigma, following in _pairs(sigmas):
        if following:
            # The noise is drawn while the model computes.
            denoised, noise = await asyncio.gather(model(x, sigma), draw(number))
            x = denoised + noise * np.float32(following)
        else:
            x = denoised = await model(x, sigma)
        await on_step(Step(number=number, count=len(sigmas) - 1, sigma=sigma, x=x, denoised=denoised))
    return x


SAMPLERS: Mapping[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "lcm": lcm}
"""The samplers by the name that a request gives."""


def _pairs(sigmas: Array) -> Iterator[tuple[int, float, float]]:
    """The number from 1, the sigma and the next sigma of each step."""
    values = sigmas.tolist()
    yield from ((number, *pair) for number, pair in enumerate(zip(values, values[1:], strict=False), start=1))


def _move(x: Array, denoised: Array, keep: float, scaled: Array) -> None:
    """X = x keep + denoised (1 - keep), in place; `scaled` is overwritten."""
    np.multiply(denoised, np.float32(1.0) - np.float32(keep), out=scaled)
    np.multiply(x, np.float32(keep), out=x)
    np.add(x, scaled, out=x)
