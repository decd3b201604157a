"""Checks of one model repository on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES, StageSpec
from zoetrope_server.doctor import libraries as engines
from zoetrope_server.doctor import stage_files, traffic
from zoetrope_server.doctor.findings import Finding, Level, refused
from zoetrope_server.doctor.libraries import Library
from zoetrope_server.engines import ENGINES, EngineError
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.installation import TritonInstallation
from zoetrope_server.launcher.parity import FILE_NAME as PARITY_FILE
from zoetrope_server.launcher.parity import Verdict, verdict
from zoetrope_server.launcher.workspace import check_repository

_ENTRY_MODELS = ("image_to_video", "image_to_video_unary")
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
_EXPORT = "export again with `zoetrope export`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What of this machine matters to a repository.

    Attributes:
        libraries: what `probe` said of each module.
        gpu: the GPU; None without one.
        cpu_flags: what the CPU can do; empty when the kernel does not say.
        free_shm: what of /dev/shm is free, in bytes.
        max_active: how many requests run at the same time.
        triton: the Triton that would run; None when there is none.
    """

    libraries: Mapping[str, Library]
    gpu: Gpu | None
    cpu_flags: Sequence[str]
    free_shm: int
    max_active: int
    triton: TritonInstallation | None


def examine(path: Path, here: Here) -> list[Finding]:
    """All checks of a repository; the later ones only where the manifest can be read."""
    try:
        repository = check_repository(path)
        stages = _stages(repository)
        backends = [stage_files.native_backend(repository, spec) for spec in stages]
    except (LaunchError, EngineError) as error:
        return [refused("repository", error)]
    except OSError as error:
        return [Finding(name="repository", level=Level.ERROR, found=str(error), advice="give its folder")]
    first = [readable(repository), models(repository, stages), parity(repository)]
    try:
        served = Manifest.load(repository)
    except (OSError, ValueError) as error:
        return [*first, Finding(name="manifest", level=Level.ERROR, found=str(error), advice=_EXPORT)]
    first.append(manifest(served))
    if first[-1].level is Level.ERROR:
        return first
    return [
        *first,
        *([library(served, here)] if None in backends else []),
        *(
            _stage(repository, spec, served, backend, here)
            for spec, backend in zip(stages, backends, strict=True)
        ),
        precision(served, here.cpu_flags),
        compiled(repository, served),
        traffic.room(served, free=here.free_shm, max_active=here.max_active),
    ]


def _stages(repository: Path) -> tuple[StageSpec, ...]:
    """The stages that the manifest names; those of every repository where it cannot be read."""
    try:
        return Manifest.load(repository).stages()
    except (OSError, ValueError):
        return tuple(STAGES.values())


def readable(repository: Path, allowed: Callable[[Path, int], bool] = os.access) -> Finding:
    """Whether every file of the repository can be read.

    Args:
        repository: the model repository.
        allowed: what `os.access` says.
    """
    files = [repository, *repository.rglob("*")]
    closed = [path for path in files if not allowed(path, os.R_OK | (os.X_OK if path.is_dir() else 0))]
    if closed:
        found = f"{len(closed)} of {len(files)} files cannot be read, such as {closed[0]}"
        advice = f"chmod -R a+rX {repository}"
        return Finding(name="repository", level=Level.ERROR, found=found, advice=advice)
    return Finding(name="repository", level=Level.OK, found=f"{repository}, {len(files)} files")


def models(repository: Path, stages: Sequence[StageSpec]) -> Finding:
    """Whether the entry models and those of the stages are there."""
    missing = [
        str(file.relative_to(repository))
        for name in (*_ENTRY_MODELS, *(spec.name for spec in stages))
        for file in (repository / name / "config.pbtxt", repository / name / "1")
        if not file.exists()
    ]
    missing += [
        f"{name}/1/model.py" for name in _ENTRY_MODELS if not (repository / name / "1" / "model.py").is_file()
    ]
    if missing:
        found = f"missing: {', '.join(missing)}"
        return Finding(name="models", level=Level.ERROR, found=found, advice=_EXPORT)
    found = f"{len(_ENTRY_MODELS)} entry models, {len(stages)} stages"
    return Finding(name="models", level=Level.OK, found=found)


def parity(repository: Path) -> Finding:
    """What the exporter found when it compared the engines with the checkpoint."""
    try:
        said = verdict(repository)
    except LaunchError as error:
        return replace(refused("parity", error), advice=_EXPORT)
    if said is Verdict.PASSED:
        return Finding(
            name="parity", level=Level.OK, found="the engines compute what the checkpoint computes"
        )
    if said is Verdict.ABSENT:
        found = f"there is no {PARITY_FILE}: nobody compared the engines with a checkpoint"
        return Finding(name="parity", level=Level.NOTE, found=found, advice=_EXPORT)
    found = "the engines failed the parity gate; the export allowed it"
    return Finding(
        name="parity", level=Level.WARNING, found=found, advice=f"{_EXPORT}, at a higher precision"
    )


def manifest(served: Manifest) -> Finding:
    """Whether this release hosts the engine and the precision of the repository."""
    kind = f"{served.engine} {served.precision}"
    if served.precision not in ENGINES.get(served.engine, ()):
        known = ", ".join(f"{name} {each}" for name, kinds in ENGINES.items() for each in kinds)
        found = f"{kind} is not supported here; supported: {known}"
        return Finding(name="manifest", level=Level.ERROR, found=found, advice=_EXPORT)
    if not served.sizes or not served.num_frames:
        found = "it lists no size or no frame count"
        return Finding(name="manifest", level=Level.ERROR, found=found, advice=_EXPORT)
    sizes = ", ".join(f"{width}x{height}" for height, width in served.sizes)
    frames = ", ".join(map(str, served.num_frames))
    return Finding(name="manifest", level=Level.OK, found=f"{kind}, {sizes}, {frames} frames")


def library(served: Manifest, here: Here) -> Finding:
    """Whether the engine of the repository can run here; unlike for other engines, it must."""
    found = engines.engine(served.engine, here.libraries, here.gpu)
    level = Level.ERROR if found.level is Level.NOTE else found.level
    return replace(found, name="engine of the repository", level=level)


def precision(served: Manifest, cpu_flags: Sequence[str]) -> Finding:
    """Whether the CPU computes in the precision of the engines, where they run on the CPU."""
    name = "precision"
    if served.precision != "bf16":
        return Finding(name=name, level=Level.OK, found=served.precision)
    has = sorted(_BF16_FLAGS.intersection(cpu_flags))
    if has:
        return Finding(name=name, level=Level.OK, found=f"bf16, and the CPU has {', '.join(has)}")
    if not cpu_flags:
        found = "bf16, and the kernel does not say what the CPU can do"
        return Finding(name=name, level=Level.NOTE, found=found)
    found = "bf16, but the CPU has neither AMX nor AVX512-BF16: slow, and no better than fp32"
    return Finding(name=name, level=Level.WARNING, found=found, advice="export with --precision fp32")


def compiled(repository: Path, served: Manifest, allowed: Callable[[Path, int], bool] = os.access) -> Finding:
    """Whether OpenVINO can keep what it compiles beside the models."""
    name = "compiled models"
    if served.engine != "openvino":
        return Finding(name=name, level=Level.OK, found=f"{served.engine} compiles nothing when it serves")
    folders = [stage_files.version_folder(repository, stage) for stage in served.stages()]
    closed = [folder for folder in folders if not allowed(folder, os.W_OK)]
    if not closed:
        return Finding(name=name, level=Level.OK, found="kept beside the models")
    found = f"{closed[0]} cannot be written, so they are kept in a temporary folder"
    advice = "nothing, or make the repository writable if starts are slow after reboots"
    return Finding(name=name, level=Level.NOTE, found=found, advice=advice)


def _stage(repository: Path, spec: StageSpec, served: Manifest, backend: str | None, here: Here) -> Finding:
    if backend is None:
        return stage_files.stage(repository, spec, served, here.libraries, here.gpu)
    engine = stage_files.native_stage(repository, spec, served, backend, here.gpu)
    if engine.level is Level.ERROR:
        return engine
    hosted = native(spec, backend, here.triton)
    if hosted.level is Level.ERROR:
        return hosted
    if engine.level is not Level.OK:
        return engine
    return replace(hosted, found=f"{engine.found}; {hosted.found}")


def native(spec: StageSpec, backend: str, triton: TritonInstallation | None) -> Finding:
    """Whether Triton has the backend of its own that a stage asks for."""
    name = f"stage {spec.name}"
    source = triton.backend_source if triton is not None else None
    folder = source / "backends" if source is not None and triton is not None and triton.embedded else source
    if folder is None:
        found = f"hosted by Triton's {backend} backend, which could not be looked for"
        return Finding(name=name, level=Level.NOTE, found=found)
    if (folder / backend).is_dir():
        return Finding(name=name, level=Level.OK, found=f"hosted by Triton's {backend} backend")
    found = f"needs Triton's {backend} backend, and {folder} has none"
    advice = "serve it in NVIDIA's Triton container, or export with --host python"
    return Finding(name=name, level=Level.ERROR, found=found, advice=advice)
