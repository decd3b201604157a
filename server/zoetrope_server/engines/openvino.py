"""OpenVINO on the CPU: one compiled model for each static shape, since static shapes are what is fast."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino

from zoetrope_core.specs import Array
from zoetrope_server.cache import cache_dir, make_private
from zoetrope_server.engines import OPENVINO_FILE as FILE_NAME
from zoetrope_server.engines import EngineError, IsListed

MAX_COMPILED = 16
"""The most listed shapes that are kept compiled; the least recently used one gives way."""
MAX_UNLISTED = 4
"""The same of all others: requests for ever new shapes evict no listed one, and take little memory."""

_logger = logging.getLogger(__name__)
_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class OpenVinoEngine:
    """An OpenVINO model, reshaped to the static shapes of its inputs and compiled when they first occur.

    Compiled models of listed shapes are cached on disk beside the model, so that the next process only loads
    them. Others are not, since clients choose them and the disk would fill.
    """

    def __init__(self, directory: Path, *, precision: str, is_listed: IsListed | None = None) -> None:
        """Opens the model of the directory.

        Args:
            directory: where `model.xml` is.
            precision: what it runs at, `fp32` or `bf16`.
            is_listed: which shapes are listed; all when absent.

        Raises:
            EngineError: there is no such file.
        """
        self._path = directory / FILE_NAME
        if not self._path.is_file():
            raise EngineError(f"no engine at {self._path}: run `zoetrope export` again")
        self._core = openvino.Core()
        self._is_listed = is_listed or (lambda shapes: True)
        self._cache = _cache(directory)
        self._config = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._listed: OrderedDict[_Shapes, Any] = OrderedDict()
        self._unlisted: OrderedDict[_Shapes, Any] = OrderedDict()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage."""
        request = self._request(tuple((name, tuple(array.shape)) for name, array in sorted(inputs.items())))
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return {output.get_any_name(): results[output] for output in request.model_outputs}

    def _request(self, shapes: _Shapes) -> Any:
        """The inference request of a compiled shape."""
        listed = self._is_listed(dict(shapes))
        kept, most = (self._listed, MAX_COMPILED) if listed else (self._unlisted, MAX_UNLISTED)
        if shapes not in kept:
            while len(kept) >= most:
                kept.popitem(last=False)
            kept[shapes] = self._compile(shapes, self._config | (self._cache if listed else {}))
        kept.move_to_end(shapes)
        return kept[shapes]

    def _compile(self, shapes: _Shapes, config: Mapping[str, str]) -> Any:
        _logger.info("compiling %s for %s", self._path, dict(shapes))
        model = self._core.read_model(self._path)
        model.reshape({name: list(shape) for name, shape in shapes})
        return self._core.compile_model(model, "CPU", dict(config)).create_infer_request()


def _cache(directory: Path) -> dict[str, str]:
    """Where compiled models are kept: beside the model, or where that is read-only in the user's cache.

    OpenVINO loads what it finds there, so nothing is kept where others could have put it.
    """
    if os.access(directory, os.W_OK):
        return {"CACHE_DIR": str(directory / "cache")}
    kept = cache_dir() / "openvino"
    with contextlib.suppress(OSError):
        if make_private(kept):
            return {"CACHE_DIR": str(kept)}
    _logger.warning("compiled models are not kept: others can write to %s, or nobody can", kept)
    return {}
