"""What one request moves through shared memory, from the stage contracts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zoetrope_core.contract import MAX_IMAGE_BYTES
from zoetrope_core.manifest import Manifest, Size
from zoetrope_server.doctor.findings import Finding, Level

_MIB = 1 << 20
_ROWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The tensors of the largest request.

    Attributes:
        size: its frame size.
        frames: its frame count.
        stages: bytes of the inputs and outputs of one call of each stage.
        picture: bytes of the largest picture that is taken.
    """

    size: Size
    frames: int
    stages: Mapping[str, int]
    picture: int = MAX_IMAGE_BYTES

    @property
    def tensors(self) -> int:
        """Bytes of the inputs and outputs of all stages."""
        return sum(self.stages.values())

    def __str__(self) -> str:
        """The sum, written out."""
        parts = " + ".join(f"{name} {size / _MIB:.1f}" for name, size in self.stages.items())
        return (
            f"a request of {self.size[1]}x{self.size[0]} and {self.frames} frames moves "
            f"{parts} = {self.tensors / _MIB:.1f} MiB, and a picture of at most {self.picture / _MIB:.0f} MiB"
        )


def largest(manifest: Manifest) -> Traffic:
    """The traffic of the largest size and frame count that are served, with guidance."""
    size = max(manifest.sizes, key=math.prod)
    frames = max((*manifest.num_frames, *(manifest.frame_range or ())))
    height, width = manifest.latent_size(size)
    symbols = manifest.symbols() | {
        "K": _ROWS,
        "F": frames,
        "f": min(manifest.decode_chunk_size, frames),
        "H": size[0],
        "W": size[1],
        "h": height,
        "w": width,
    }
    stages = {
        stage.name: sum(
            math.prod(spec.shape(symbols)) * np.dtype(spec.numpy_dtype).itemsize
            for spec in (*stage.inputs, *stage.outputs)
        )
        for stage in manifest.stages()
    }
    return Traffic(size=size, frames=frames, stages=stages)


def room(manifest: Manifest, *, free: int, max_active: int) -> Finding:
    """Whether the largest requests fit into shared memory.

    Args:
        manifest: the facts of the repository.
        free: what of /dev/shm is free, in bytes.
        max_active: how many requests run at the same time.
    """
    traffic = largest(manifest)
    wanted = max_active * (traffic.tensors + traffic.picture)
    found = f"{traffic}; {max_active} at once: {wanted / _MIB:.0f} MiB; free: {free / _MIB:.0f} MiB"
    if free >= wanted:
        return Finding(name="room for requests", level=Level.OK, found=found)
    level = Level.ERROR if free < traffic.tensors else Level.WARNING
    advice = f"give /dev/shm {math.ceil(wanted / _MIB)} MiB (docker run --shm-size), or lower --max-active"
    return Finding(name="room for requests", level=level, found=found, advice=advice)
