"""A model repository whose engines do nothing, beside a minimal loop of stage calls."""

from __future__ import annotations

from pathlib import Path

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES, UNET
from zoetrope_export.repository import copy_entry_models, render_config

MINIMAL = "minimal_loop"
_BARE = "bare_unet"
_MINIMAL_CONFIG = """\
name: "minimal_loop"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "steps" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "seconds" data_type: TYPE_FP64 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def write_noop_repository(path: Path, manifest: Manifest) -> Path:
    """Writes a repository for `zoetrope serve`: the real entry models over stages without arithmetic.

    Args:
        path: where it goes.
        manifest: its tensor shapes.

    Returns:
        `path`.
    """
    copy_entry_models(path)
    manifest.save(path)
    for stage in STAGES.values():
        _write_model(path / stage.name, render_config(stage, manifest), "NoopStage")
    bare = render_config(UNET, manifest).replace(f'"{UNET.name}"', f'"{_BARE}"', 1)
    _write_model(path / _BARE, bare, "BareUnet")
    _write_model(path / MINIMAL, _MINIMAL_CONFIG, "MinimalLoop")
    return path


def _write_model(folder: Path, config: str, model: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    source = (
        f"from zoetrope_bench.noop import {model} as TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
    )
    (folder / "1" / "model.py").write_text(source)
