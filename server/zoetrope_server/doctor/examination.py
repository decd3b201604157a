"""All checks in the order in which they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from zoetrope_server.doctor import libraries as engines
from zoetrope_server.doctor import machine, repository
from zoetrope_server.doctor.findings import Finding
from zoetrope_server.engines import ENGINES
from zoetrope_server.engines.gpu import detect_gpu
from zoetrope_server.engines.inductor import cpu_flags
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.installation import TritonInstallation, find_installation
from zoetrope_server.launcher.python import PythonFacts
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.shm import SHM
from zoetrope_server.settings import OrchestratorSettings


def examine(flags: Mapping[str, object], path: Path | None = None) -> list[Finding]:
    """Checks this machine, and a model repository on it.

    Args:
        flags: those of `zoetrope serve`; None stands for one that was not given.
        path: the model repository; none when absent.
    """
    python = PythonFacts.current()
    libraries = {module: engines.probe(module) for module in engines.needed()}
    gpu = detect_gpu()
    able = [engines.engine(name, libraries, gpu) for name in ENGINES]
    said, settings = machine.settings(flags)
    triton = _installation(python)
    findings = [
        *machine.triton(python, os.environ),
        engines.media(libraries[engines.MEDIA]),
        engines.gpu(gpu),
        *filter(None, [engines.driver(gpu, engines.cuda_version())]),
        *able,
        engines.any_engine(able),
        machine.shared_memory(),
        machine.open_files(),
        machine.runtime_folder(),
        machine.cache_folder(),
        said,
    ]
    if settings is not None:
        findings += machine.addresses(settings, triton)
    if path is not None:
        here = repository.Here(
            libraries=libraries,
            gpu=gpu,
            cpu_flags=cpu_flags(),
            free_shm=shutil.disk_usage(SHM).free if SHM.is_dir() else 0,
            max_active=_max_active(settings),
            triton=triton,
        )
        findings += repository.examine(path, here)
    return findings


def _max_active(settings: ServeSettings | None) -> int:
    """The limit that the orchestrator will be given; its default where that is not known."""
    given = settings.max_active if settings is not None else None
    default: int = OrchestratorSettings.model_fields["max_active"].default
    return default if given is None else given


def _installation(python: PythonFacts) -> TritonInstallation | None:
    try:
        return find_installation(python)
    except LaunchError:
        return None
