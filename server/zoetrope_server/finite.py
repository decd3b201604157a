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


async def decode_finite(
    decode: Callable[[Array], Awaitable[Array]], latents: Array, check: Callable[[], None]
) -> Array:
    """Decodes a chunk; one that is not finite is decoded again in halves, down to single frames.

    Args:
        decode: from latents to frames, see `zoetrope_server.stages.Stages`.
        latents: f32 [f,C,h,w], finite.
        check: raises when the request must not go on.

    Returns:
        Frames u8 [f,H,W,3].

    Raises:
        NonFinite: a single frame is not finite either.
    """
    check()
    try:
        return await decode(latents)
    except NonFinite:
        if len(latents) == 1:
            raise
    half = (len(latents) + 1) // 2
    _logger.warning("a chunk of %d frames was not finite; decoding %d at once", len(latents), half)
    parts = [await decode_finite(decode, part, check) for part in (latents[:half], latents[half:])]
    return np.concatenate(parts)
