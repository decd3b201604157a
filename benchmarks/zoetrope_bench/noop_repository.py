"""A model repository whose engines do nothing, beside a minimal loop of stage calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES, UNET
from zoetrope_export import pbtxt
from zoetrope_export.repository import VERSION, write_layout

MINIMAL = "minimal_loop"
_BARE = "bare_unet"
_SLEEPING = "from zoetrope_bench.noop import sleeping\n\nTritonPythonModel = sleeping({seconds!r})\n"
_MINIMAL_CONFIG = """\
name: "minimal_loop"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "steps" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "seconds" data_type: TYPE_FP64 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def write_noop_repository(path: Path, manifest: Manifest, seconds: Mapping[str, float] | None = None) -> Path:
    """Writes a repository for `zoetrope serve`: the real entry models over stages without arithmetic.

    Args:
        path: where it goes.
        manifest: its tensor shapes.
        seconds: how long an execution of a stage sleeps, by the stage's name; not at all without.

    Returns:
        `path`.
    """
    path.mkdir(parents=True)
    write_layout(path, manifest)
    for stage in STAGES:
        _write_model(path / stage, "NoopStage")
    for stage, asleep in (seconds or {}).items():
        (path / stage / VERSION / "model.py").write_text(_SLEEPING.format(seconds=asleep))
    _write_model(path / _BARE, "BareUnet", pbtxt.render(UNET, manifest).replace(UNET.name, _BARE, 1))
    _write_model(path / MINIMAL, "MinimalLoop", _MINIMAL_CONFIG)
    return path


def _write_model(folder: Path, model: str, config: str | None = None) -> None:
    (folder / VERSION).mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    source = (
        f"from zoetrope_bench.noop import {model} as TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
    )
    (folder / VERSION / "model.py").write_text(source)
