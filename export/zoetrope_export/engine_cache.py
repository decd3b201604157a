"""Built engines kept by what they were built from, so that the same engine is never built twice."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from filelock import FileLock, Timeout

from zoetrope_server.engines import EngineError
from zoetrope_server.engines.sidecar import EngineKey, Sidecar, sidecar_path, verify

_COPY_BYTES = 1 << 24
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """An engine in the cache: its file, its sidecar, and whether it was there already."""

    file: Path
    sidecar: Sidecar
    hit: bool


class EngineCache:
    """A folder of engine files with their sidecars, safe for builders that run at the same time."""

    def __init__(self, root: Path) -> None:
        """Takes the folder; it is made when the first engine is built. Deleting it is always safe."""
        self.root = root

    def fetch(self, key: EngineKey, build: Callable[[Path], None]) -> Cached:
        """The engine of a key, built if there is none that is whole.

        Args:
            key: all that changes the engine.
            build: writes the engine to the path that it is given.

        Returns:
            The engine; of several processes that ask at the same time one builds and the others wait.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root / key.file_name()
        lock = FileLock(f"{file}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("%s: another process is building it; waiting", file.name)
            lock.acquire()
        try:
            return self._hit(file) or self._build(key, file, build)
        finally:
            lock.release()

    def _hit(self, file: Path) -> Cached | None:
        """The engine that is there, if it is whole."""
        if not sidecar_path(file).exists():
            return None
        try:
            return Cached(file=file, sidecar=verify(file, {}), hit=True)
        except EngineError as error:
            _logger.warning("built again: %s", error)
            return None

    def _build(self, key: EngineKey, file: Path, build: Callable[[Path], None]) -> Cached:
        """Builds into a scratch file and puts it in place, its sidecar last."""
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.root, prefix=f".{key.stage}-") as folder:
            scratch = Path(folder) / file.name
            build(scratch)
            sidecar = Sidecar.of(scratch, key, time.perf_counter() - began)
            scratch.replace(file)
        sidecar.save(file)
        return Cached(file=file, sidecar=sidecar, hit=False)


def default_root() -> Path:
    """Where engines are kept: `zoetrope/engines` in the user's cache folder (XDG_CACHE_HOME)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoetrope" / "engines"


def place(cached: Cached, directory: Path) -> Path:
    """Puts a cached engine and its sidecar into a folder, as a second name of the same file if it can be.

    Returns:
        The engine's path there.
    """
    target = directory / cached.file.name
    try:
        os.link(cached.file, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(cached.file, target)
    cached.sidecar.save(target)
    return target


def graph_digests(graph: Path) -> tuple[str, str]:
    """SHA-256 of an ONNX graph without its weights, and of its weights, both in hexadecimal.

    Args:
        graph: the graph's file; weights beside it are read too.
    """
    model = onnx.load(str(graph), load_external_data=False)
    weights = hashlib.sha256()
    for tensor in model.graph.initializer:
        weights.update(tensor.name.encode())
        weights.update(tensor.raw_data)
        tensor.ClearField("raw_data")
    for name in sorted({_location(tensor) for tensor in model.graph.initializer} - {""}):
        with (graph.parent / name).open("rb") as stream:
            while chunk := stream.read(_COPY_BYTES):
                weights.update(chunk)
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(), weights.hexdigest()


def _location(tensor: Any) -> str:
    """The file of a tensor's data beside the graph; empty when the data is in the graph."""
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")
