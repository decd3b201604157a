"""What is done about NaN and infinity: they are never encoded as a black video.

A low-precision decoder may overflow on some content. Its temporal layers mix fewer frames in a smaller chunk,
which often brings the sums back into range.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import numpy as np

from zoetrope_core.errors import NonFinite
from zoetrope_core.specs import Array

_logger = logging.getLogger(__name__)


def require_finite(array: Array, stage: str) -> Array:
    """The array; raises NonFinite with the stage that made it when something in it is NaN or infinite."""
    if not np.isfinite(array).all():
        raise NonFinite(f"{stage} computed NaN or infinity", stage=stage)
    return array


Decode = Callable[[Array], Awaitable[Array]]
"""From latents f32 [f,C,h,w] to frames u8 [f,H,W,3]; raises NonFinite, as `Stages.decode`."""


async def decode_finite(
    decode: Decode, latents: Array, check: Callable[[], None], *, exact: Decode | None = None
) -> Array:
    """Decodes a chunk; one that is not finite is decoded again in halves, and at last at FP32.

    Args:
        decode: the decoder.
        latents: f32 [f,C,h,w], finite.
        check: raises when the request must not go on.
        exact: the decoder at FP32, which gets the chunk as a whole; None where there is none.

    Returns:
        Frames u8 [f,H,W,3].

    Raises:
        NonFinite: a single frame is not finite either, nor the chunk at FP32.
    """
    try:
        return await _decode_in_halves(decode, latents, check)
    except NonFinite:
        if exact is None:
            raise
    check()
    _logger.warning("a single frame was not finite; decoding %d at FP32", len(latents))
    return await exact(latents)


async def _decode_in_halves(decode: Decode, latents: Array, check: Callable[[], None]) -> Array:
    """Decodes a chunk; one that is not finite is decoded again in halves, down to single frames."""
    check()
    try:
        return await decode(latents)
    except NonFinite:
        if len(latents) == 1:
            raise
    half = (len(latents) + 1) // 2
    _logger.warning("a chunk of %d frames was not finite; decoding %d at once", len(latents), half)
    parts = [await _decode_in_halves(decode, part, check) for part in (latents[:half], latents[half:])]
    return np.concatenate(parts)
