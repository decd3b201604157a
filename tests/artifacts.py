"""Checkpoints and repositories that tests share, made once per machine under the key of what they depend on.

The store outlives a run; parallel workers wait for each other. Copy an entry before you change it.
ZOETROPE_TEST_STORE names another directory than `zoetrope/tests` in the user's cache.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from zoetrope_export import architectures, random_checkpoint
from zoetrope_export.checkpoint import open_checkpoint
from zoetrope_export.code_digest import code_digest
from zoetrope_export.exporting import Plan, default_chunk, export_repository
from zoetrope_export.profiles import with_ranges
from zoetrope_export.repository_key import repository_key

_KEPT_S = 7 * 24 * 3600
_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")


def checkpoint(architecture, seed=0):
    """The directory of a checkpoint with random weights."""
    modules = (architectures, random_checkpoint)
    facts = {
        "architecture": asdict(architecture),
        "seed": seed,
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "code": code_digest({module.__name__: Path(module.__file__) for module in modules}),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return stored(
        f"checkpoint-{digest}",
        lambda path: random_checkpoint.write_random_checkpoint(architecture, path, seed=seed),
    )


def repository(checkpoint, *, engine, precision="fp32", sizes, frames, chunk=None, max_batch=1, **facts):
    """A repository of the checkpoint, exported with the parity gate as `zoetrope export` does it.

    Args:
        checkpoint: the checkpoint's directory.
        engine: the engine's name.
        precision: of the stages that have a choice.
        sizes: frame sizes (H, W).
        frames: frame counts.
        chunk: frames that are decoded at once.
        max_batch: videos that may share an execution of the UNet.
        facts: further facts of the manifest, such as `trained_size`.
    """
    opened = open_checkpoint(checkpoint)
    manifest = opened.manifest(
        engine=engine,
        precision=precision,
        sizes=sizes,
        num_frames=frames,
        decode_chunk_size=chunk or default_chunk(frames[0]),
        max_batch_size=max_batch,
        **facts,
    )
    plan = Plan(checkpoint=opened, manifest=with_ranges(manifest, (), between=None), out=store())

    def make(path):
        export_repository(Plan(checkpoint=opened, manifest=plan.manifest, out=path))

    return stored(f"repository-{repository_key(plan)}", make)


def store():
    """The directory of all artifacts, made when it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("ZOETROPE_TEST_STORE") or cache / "zoetrope" / "tests")
    path.mkdir(parents=True, exist_ok=True)
    return path


def stored(name, make):
    """The entry `name` of the store; `make(path)` writes it where it is missing."""
    path = store() / name
    with FileLock(store() / f"{name}.lock"):
        if not path.is_dir():
            _sweep()
            with tempfile.TemporaryDirectory(prefix=f"{name}-", suffix=".partial", dir=store()) as scratch:
                make(Path(scratch, "made"))
                Path(scratch, "made").rename(path)
        os.utime(path)
    return path


def _sweep():
    """Removes what no run has used for a week."""
    for entry in store().iterdir():
        if entry.is_dir() and entry.stat().st_mtime < time.time() - _KEPT_S:
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)
