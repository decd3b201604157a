"""The Triton model repository on disk: its layout, and how it is put in place all at once."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoetrope_core import manifest as manifests
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import StageSpec
from zoetrope_export import pbtxt
from zoetrope_export.errors import ExportError
from zoetrope_server.engines import ONNX_FILE
from zoetrope_server.engines.sidecar import Sidecar, find_engine

NATIVE_ENGINES = ("tensorrt", "onnxruntime")
"""Engines that Triton can host by a backend of its own."""
VERSION = "1"
"""The only version of each model."""
ENTRY_MODELS = "model_repository"
"""The folder of the entry models, in a wheel and in a checkout."""
_STAGE_MODEL = '''"""A compiled stage of Zoetrope as a Triton python model."""

from zoetrope_server.triton.stage import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_logger = logging.getLogger(__name__)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A folder to build a repository in, which takes the place of `target` when the block ends well.

    Args:
        target: where the repository is to lie; an older repository there is replaced.

    Raises:
        ExportError: `target` is something else than a repository, an empty folder or nothing.
    """
    check_target(target)
    target = target.resolve()  # a link stays, what it names is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        built = Path(scratch) / "new"
        built.mkdir()
        yield built
        _make_readable(built)
        old = Path(scratch) / "old"
        if target.exists():
            target.rename(old)
        try:
            built.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    _logger.info("wrote %s", target)


def _make_readable(directory: Path) -> None:
    """Lets everyone read: a server may run as another user, and some libraries write for the owner alone."""
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def check_target(target: Path, *kept: Path) -> None:
    """Refuses a target that must not or cannot be replaced.

    Args:
        target: the repository to be.
        kept: what must not lie in it, since it is replaced as a whole.

    Raises:
        ExportError: it is no repository, empty folder or nothing, a mount point, or holds what is kept.
    """
    whole = target.resolve()
    if held := next((path for path in kept if path.resolve().is_relative_to(whole)), None):
        raise ExportError(f"{target} is replaced as a whole, and {held} lies in it; choose another folder")
    if whole.is_mount():
        raise ExportError(f"{target} is a mount point, which cannot be replaced; choose a folder in it")
    if not target.exists():
        return
    if not target.is_dir():
        raise ExportError(f"{target} is a file; --out takes a folder")
    if any(target.iterdir()) and not (target / manifests.FILE_NAME).is_file():
        raise ExportError(
            f"{target} is not empty and no Zoetrope repository (it has no {manifests.FILE_NAME}); "
            "choose another folder"
        )


def stage_directory(repository: Path, stage: str) -> Path:
    """The version folder of a stage's model: where its engine lies."""
    return repository / stage / VERSION


def write_layout(repository: Path, manifest: Manifest, *, queue_delay_us: int = pbtxt.QUEUE_DELAY_US) -> None:
    """Writes everything but the engines: manifest, configurations and models, entry models.

    Args:
        repository: an existing folder.
        manifest: the facts of the repository.
        queue_delay_us: see `pbtxt.render`.
    """
    manifest.save(repository)
    for stage in manifest.stages():
        directory = stage_directory(repository, stage.name)
        directory.mkdir(parents=True)
        (directory / "model.py").write_text(_STAGE_MODEL)
        text = pbtxt.render(stage, manifest, queue_delay_us=queue_delay_us)
        (directory.parent / "config.pbtxt").write_text(text)
    for model in entry_models():
        shutil.copytree(model, repository / model.name, ignore=shutil.ignore_patterns("__pycache__"))


def check_host(host: str, engine: str) -> None:
    """Refuses a host that an engine does not have; raises ExportError."""
    if host not in ("python", "triton"):
        raise ExportError(f"--host {host}: python or triton")
    if host == "triton" and engine not in NATIVE_ENGINES:
        raise ExportError(f"--host triton: for {' and '.join(NATIVE_ENGINES)}; {engine} has the python host")


def make_native(repository: Path, stage: StageSpec, manifest: Manifest) -> None:
    """Turns a stage with its engine over to Triton's own backend: another configuration, no `model.py`.

    Args:
        repository: the repository, with the engine of the stage in it.
        stage: the stage.
        manifest: the facts of the repository.
    """
    directory = stage_directory(repository, stage.name)
    if manifest.engine == "tensorrt":
        engine = find_engine(directory, stage.name)
        profiles = len(Sidecar.load(engine).key.profiles)
        native = pbtxt.NativeHost(backend="tensorrt", file_name=engine.name, on_gpu=True, profiles=profiles)
    else:
        native = pbtxt.NativeHost(
            backend="onnxruntime", file_name=ONNX_FILE, on_gpu=manifest.precision != "fp32"
        )
    (directory.parent / "config.pbtxt").write_text(pbtxt.render(stage, manifest, native=native))
    (directory / "model.py").unlink()


def entry_models() -> list[Path]:
    """The folders of the entry models: package data of a wheel, or beside `export/` in a checkout.

    Raises:
        ExportError: they are missing.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / ENTRY_MODELS, package.parents[1] / ENTRY_MODELS):
        if folder.is_dir():
            return sorted(model for model in folder.iterdir() if (model / "config.pbtxt").is_file())
    raise ExportError(f"the entry models are missing: no {ENTRY_MODELS} folder; install zoetrope again")
