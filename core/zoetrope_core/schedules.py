"""Noise schedules: arrays of sigmas from the noisiest to exactly 0, one more than there are steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from zoetrope_core.specs import Array

AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0)
"""Sigmas of "Align Your Steps" (arXiv 2404.14507) for Stable Video Diffusion, 10 steps."""


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """The schedule of Karras et al. 2022 (arXiv 2206.00364), equation 5.

    Args:
        steps: the number of denoising steps, at least 1.
        sigma_min: the last sigma before 0.
        sigma_max: the first sigma.
        rho: how strongly the steps gather at small sigmas.

    Returns:
        f32 [steps + 1]: falling sigmas, the last is 0. Equal to diffusers' `EulerDiscreteScheduler` with
        `use_karras_sigmas`.
    """
    ramp = np.linspace(0.0, 1.0, steps)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0).astype(np.float32)


def ays(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """The "Align Your Steps" schedule of SVD, log-linearly interpolated to any number of steps.

    Args:
        steps: the number of denoising steps, at least 1; 10 gives the published sigmas.
        sigma_min: not used; the published schedule fixes its own ends.
        sigma_max: not used.
        rho: not used.

    Returns:
        f32 [steps + 1]: falling sigmas, the last is 0.
    """
    published = np.log(AYS_SVD[:-1])
    grid = np.linspace(0.0, len(published) - 1, steps)
    sigmas = np.exp(np.interp(grid, np.arange(len(published)), published))
    return np.append(sigmas, 0.0).astype(np.float32)


SCHEDULES: Mapping[str, Callable[..., Array]] = {"karras": karras, "ays": ays}
"""The schedules by the name that a request gives."""
