"""Encoders in a GPU: which of them work here, and what is used when one does not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

from zoetrope_server.media.containers import File, open_container
from zoetrope_server.media.formats import HARDWARE_SPECS, HARDWARE_STREAM_SPECS, Key, VideoSpec

_logger = logging.getLogger(__name__)

ENCODER_ERRORS = (av.FFmpegError, ValueError, OverflowError, MemoryError)
"""What PyAV raises where a codec cannot be opened or fails."""
_PROBE = np.zeros((256, 256, 3), np.uint8)  # larger than the least size of every encoder


class HardwareEncoders:
    """The hardware encoders that may be tried; a failure of one is logged once."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        """Takes the formats and codecs whose hardware encoder is tried first."""
        self._keys = frozenset(keys)
        self._told: set[str] = set()

    @classmethod
    def probed(cls) -> HardwareEncoders:
        """Those that encode a frame here; blocking, for up to a second or so."""
        found = {key: _failure(spec) for key, spec in HARDWARE_SPECS.items()}
        for key, error in found.items():
            name = HARDWARE_SPECS[key].encoder
            _logger.info("hardware encoder %s: %s", name, f"not here ({error})" if error else "in use")
        return cls(key for key, error in found.items() if error is None)

    @property
    def keys(self) -> frozenset[Key]:
        """The formats and codecs that have one."""
        return self._keys

    def spec(self, key: Key, *, streams: bool) -> VideoSpec | None:
        """The row of the hardware encoder to try first, if there is one."""
        specs = HARDWARE_STREAM_SPECS if streams else HARDWARE_SPECS
        return specs[key] if key in self._keys else None

    def failed(self, spec: VideoSpec, error: Exception) -> None:
        """Notes that an encoder could not be opened: all its sessions taken, or too small a frame."""
        level = logging.DEBUG if spec.encoder in self._told else logging.WARNING
        self._told.add(spec.encoder)
        _logger.log(level, "%s cannot be opened, software encodes instead: %s", spec.encoder, error)


NO_HARDWARE = HardwareEncoders()
"""Software alone."""


def _failure(spec: VideoSpec) -> Exception | None:
    """What keeps an encoder from encoding a frame here; None when nothing does."""
    file = File()
    try:
        container = open_container(
            file, spec, width=_PROBE.shape[1], height=_PROBE.shape[0], fps=Fraction(1), quality=50
        )
        try:
            container.add(_PROBE)
            container.finish()
        finally:
            container.close()
    except ENCODER_ERRORS as error:
        return error
    return None
