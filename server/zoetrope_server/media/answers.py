"""What a decode worker answers, checked: its image may have taken it over."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any, TypeAlias

import numpy as np

from zoetrope_core.errors import InvalidImage
from zoetrope_server.media.decode import ImageLimits

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def pixels(reply: dict[str, Any], descriptors: list[int], limits: ImageLimits) -> Pixels:
    """A worker's answer as u8 [H, W, 3], without a copy. Raises InvalidImage when it is a refusal.

    The worker may have been taken over by its image. The seals make sure that it cannot change the pixels
    any more, nor truncate them, which would end this process with SIGBUS.
    """
    try:
        if "error" in reply:
            raise InvalidImage(reply["error"], **reply["details"])
        height, width, channels = reply["shape"]
        fcntl.fcntl(descriptors[0], fcntl.F_ADD_SEALS, _SEALS)
        length = os.fstat(descriptors[0]).st_size
        if channels != 3 or length != height * width * 3 or not 0 < height * width <= limits.max_pixels:
            raise ValueError(f"a worker answered {reply['shape']} with {length} bytes")
        mapped = mmap.mmap(descriptors[0], length, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        return np.frombuffer(mapped, np.uint8).reshape(height, width, 3)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def size(reply: dict[str, Any], descriptors: list[int], limits: ImageLimits) -> tuple[int, int]:
    """A worker's answer as (H, W). Raises InvalidImage when it is a refusal."""
    for descriptor in descriptors:
        os.close(descriptor)
    if "error" in reply:
        raise InvalidImage(reply["error"], **reply["details"])
    height, width = map(int, reply["size"])
    if min(height, width) < 1 or height * width > limits.max_pixels:
        raise ValueError(f"a worker answered a size of {width}x{height}")
    return height, width
