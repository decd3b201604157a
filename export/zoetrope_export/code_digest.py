"""The digest of the code that makes a repository: an image that was built again may hold other code.

The version of the package does not tell: it changes with a release, and a fix comes before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import zoetrope_core
import zoetrope_export
from zoetrope_export.repository import ENTRY_MODELS, entry_models
from zoetrope_server import engines
from zoetrope_server.engines.sidecar import checksum


def code_files() -> dict[str, Path]:
    """Entry models and the modules that build and compare engines, by names that any install gives.

    Raises:
        ExportError: the entry models are missing.
    """
    copied = {
        f"{ENTRY_MODELS}/{file.relative_to(model.parent).as_posix()}": file
        for model in entry_models()
        for file in model.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    return copied | _modules()


def code_digest(files: Mapping[str, Path]) -> str:
    """SHA-256 of the names and contents of files, wherever they lie."""
    whole = hashlib.sha256()
    for name, file in sorted(files.items()):
        whole.update(f"{name}\0{checksum(file)}\n".encode())
    return whole.hexdigest()


def _modules() -> dict[str, Path]:
    """A wheel has the entry models inside the package, a checkout has not: they are no modules of it."""
    found = {}
    for package in (zoetrope_core, zoetrope_export, engines):
        folder = Path(str(package.__file__)).parent
        for file in folder.rglob("*.py"):
            place = file.relative_to(folder)
            if place.parts[0] != ENTRY_MODELS:
                found[f"{package.__name__}/{place.as_posix()}"] = file
    return found
