"""Kernels that TensorRT-RTX compiled in this place, kept for the next process.

Its engines hold no kernels of their own: each process compiles them anew, tens of seconds for a large UNet,
unless it is given what an earlier one compiled. The library itself refuses what another version, GPU or
driver compiled.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)
_MOST_SAVES = 32
"""Clients choose shapes: they must not make this process write for ever."""
Shapes = Mapping[str, tuple[int, ...]]


class RuntimeCache:
    """The compiled kernels of one engine, in a file beside it if that can be written."""

    def __init__(self, engine: Path) -> None:
        """Takes the engine's file."""
        self._file = engine.with_name(f"{engine.name}.kernels")
        self._cache: Any = None
        self._saved: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()

    def give(self, config: Any) -> None:
        """Gives what is kept to the configuration of a context; all contexts share it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._file.is_file() and not self._cache.deserialize(self._file.read_bytes()):
                _logger.info("%s is of another place: kernels are compiled anew", self._file.name)
        config.set_runtime_cache(self._cache)

    def save(self, shapes: Shapes) -> None:
        """Writes what is compiled, after the first run of each set of shapes; a failure is none."""
        key = tuple(sorted(shapes.items()))
        if key in self._saved or len(self._saved) >= _MOST_SAVES or self._cache is None:
            return
        self._saved.add(key)
        scratch = self._file.with_name(f".{self._file.name}-{os.getpid()}")
        try:
            scratch.write_bytes(memoryview(self._cache.serialize()))
            scratch.replace(self._file)
        except OSError as error:
            _logger.debug("compiled kernels are not kept: %s", error)
