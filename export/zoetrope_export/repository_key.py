"""The key of an export: a name for everything that its repository depends on, known before anything is built.

Two exports with one key are the same, parity report and compiled shapes included. Of two keys the engines may
still be the same: no graph is traced for it, so the code and the libraries that trace stand for them. What
one engine file depends on is in its sidecar.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from zoetrope_core.specs import Array
from zoetrope_export import inductor_build, tensorrt_build
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.code_digest import code_digest, code_files
from zoetrope_export.errors import ExportError
from zoetrope_export.exporting import Plan
from zoetrope_server.engines.gpu import Gpu, detect_gpu
from zoetrope_server.engines.sidecar import checksum
from zoetrope_server.engines.tensorrt import LIBRARIES

_DIGITS = 10
_TRACERS = ("zoetrope", "torch", "diffusers", "transformers", "onnx", "onnxscript")
_LONGEST_NAME = 24


def repository_key(plan: Plan, gpu: Gpu | None = None) -> str:
    """The key of a plan, such as `svd-xt-fp16-sm90-1f2e3d4c5b`; fit for the name of a folder or a label.

    Args:
        plan: what to export.
        gpu: the GPU of this machine; asked for when absent.

    Raises:
        ExportError: the engine cannot be built here, or the entry models are missing.
    """
    place = engine_place(plan, gpu or detect_gpu())
    facts = {
        "checkpoint": checkpoint_digest(plan.checkpoint),
        "manifest": plan.manifest.to_dict(),
        "host": plan.host,
        "profiles": plan.options.profiles,
        "workspace_gib": plan.options.workspace_gib,
        "warm_up": plan.warm_up,
        "verify": plan.verify,
        "picture": None if plan.picture is None else _picture_digest(plan.picture),
        "allow_drift": plan.allow_drift,
        "place": place,
        "versions": {name: metadata.version(name) for name in _TRACERS},
        "code": code_digest(code_files()),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^a-z0-9]+", "-", plan.manifest.checkpoint.lower())[:_LONGEST_NAME].strip("-")
    return f"{name or 'checkpoint'}-{plan.manifest.precision}-{place['target']}-{digest[:_DIGITS]}"


def engine_place(plan: Plan, gpu: Gpu | None) -> Mapping[str, str]:
    """The library of the engine and what it builds for; the GPU itself only where kernels are timed on it."""
    engine = plan.manifest.engine
    if engine in LIBRARIES:
        library = tensorrt_build.load_library(engine)
        wanted = plan.options.compute_capability
        target = tensorrt_build.choose_target(engine, library, wanted, gpu)
        return {"version": library.__version__, "target": target} | _timed_on(engine == "tensorrt", gpu)
    if engine == "aot-inductor":
        on_gpu = inductor_build.device() == "cuda"
        place = {"version": _version("torch"), "target": inductor_build.target()}
        return place | _timed_on(on_gpu, gpu)
    return {"version": _version(engine), "target": engine}


def checkpoint_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the names and contents of a checkpoint's files, wherever its folder lies."""
    whole = hashlib.sha256()
    for file in checkpoint.files():
        whole.update(f"{_place_of(file, checkpoint)}\0{checksum(file)}\n".encode())
    return whole.hexdigest()


def _version(module: str) -> str:
    """What the module says itself: its distribution may have another name, such as `onnxruntime-gpu`."""
    try:
        return str(importlib.import_module(module).__version__)
    except (ImportError, OSError, AttributeError) as error:
        raise ExportError(f"this engine needs {module}: pip install 'zoetrope[export]' ({error})") from error


def _picture_digest(picture: Array) -> str:
    return hashlib.sha256(f"{picture.shape}\0".encode() + picture.tobytes()).hexdigest()


def _place_of(file: Path, checkpoint: Checkpoint) -> str:
    return file.relative_to(checkpoint.directory).as_posix()


def _timed_on(timed: bool, gpu: Gpu | None) -> dict[str, str]:
    return {"gpu": gpu.name, "driver": gpu.driver} if timed and gpu is not None else {}
