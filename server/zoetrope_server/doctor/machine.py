"""Checks of the machine, whatever it is to serve: Python, Triton, settings, ports, memory, folders."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from zoetrope_server.cache import cache_dir
from zoetrope_server.doctor.findings import Finding, Level, refused
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.exposure import EMBEDDED_RISK, FLAG, check_exposure, vulnerable
from zoetrope_server.launcher.installation import (
    OLDEST,
    TritonInstallation,
    check_interpreter,
    check_numpy,
    check_stub,
    embedded_version,
    find_installation,
    libpython_dir,
    wheel_root,
    wheel_version,
)
from zoetrope_server.launcher.ports import choose_ports, is_loopback, joined
from zoetrope_server.launcher.python import PythonFacts, tag
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.shm import SHM
from zoetrope_server.launcher.workspace import ENOUGH_SHM, make_runtime_dir
from zoetrope_server.settings import OrchestratorSettings

MIB = 1 << 20
_LITTLE_DISK = 1 << 30
_ENOUGH_FILES = 4096


def triton(python: PythonFacts, environ: Mapping[str, str]) -> list[Finding]:
    """Triton, and what it needs of this Python: the one on PATH is asked less than the embedded one."""
    if shutil.which("tritonserver", path=environ.get("PATH", "")) is not None:
        return [_python(python), system_triton(find_installation(python, environ))]
    return embedded_triton(wheel_root(), python, wheel_version())


def system_triton(installation: TritonInstallation) -> Finding:
    """A tritonserver on PATH: its version, and whether it has the python backend."""
    found = f"{installation.binary}, version {tag(installation.version)} or newer"
    source = installation.backend_source
    if source is not None and not (source / "python" / "libtriton_python.so").is_file():
        advice = "use a Triton with the python backend, such as NVIDIA's container"
        return Finding(
            name="triton", level=Level.ERROR, found=f"no python backend in {source}", advice=advice
        )
    if installation.version < OLDEST:
        advice = "use a current Triton container"
        found += f"; the oldest that is supported is {tag(OLDEST)}"
        return Finding(name="triton", level=Level.WARNING, found=found, advice=advice)
    return Finding(name="triton", level=Level.OK, found=found)


def embedded_triton(package: Path | None, python: PythonFacts, wheel: str | None) -> list[Finding]:
    """The Triton of the nvidia-pytriton wheel, each of its demands as a finding of its own.

    Args:
        package: the folder of the `pytriton` package; None when there is none.
        python: the facts of the Python that stages will run.
        wheel: the wheel's version.
    """
    if package is None:
        advice = "pip install 'zoetrope[server]', or put a tritonserver on PATH (the NGC container has one)"
        missing = Finding(name="triton", level=Level.ERROR, found="no Triton found", advice=advice)
        return [_python(python), missing]
    root, version = package / "tritonserver", embedded_version(wheel)
    binary = root / "bin" / "tritonserver"
    return [
        _attempt("python", lambda: check_interpreter(python), _python(python).found),
        _attempt("libpython", lambda: libpython_dir(python), f"{python.library}, shared"),
        _executable(binary)
        or _attempt(
            "triton",
            lambda: check_stub(root, python),
            f"{binary}, version {tag(version)}, stub for this Python",
        ),
        _attempt("numpy", lambda: check_numpy(python, version), f"{python.numpy}"),
    ]


def settings(flags: Mapping[str, object]) -> tuple[Finding, ServeSettings | None]:
    """What flags and environment say; None where `zoetrope serve` would refuse it."""
    try:
        merged = ServeSettings.merged(**flags)
        OrchestratorSettings()
    except LaunchError as error:
        advice = "correct the flag or the variable"
        return Finding(name="settings", level=Level.ERROR, found=error.message, advice=advice), None
    except ValidationError as error:
        wrong = "; ".join(
            f"ZOETROPE_{'_'.join(map(str, entry['loc'])).upper()} = {entry['input']!r}: {entry['msg']}"
            for entry in error.errors()
        )
        advice = "correct the environment"
        return Finding(name="settings", level=Level.ERROR, found=wrong, advice=advice), None
    old = merged.deprecations()
    if old:
        found, _, advice = old[0].partition(": ")
        return Finding(name="settings", level=Level.WARNING, found=found, advice=advice), merged
    given = sorted(merged.model_fields_set) or ["none given, all defaults"]
    return Finding(name="settings", level=Level.OK, found=", ".join(given)), merged


def addresses(settings: ServeSettings, installation: TritonInstallation | None) -> list[Finding]:
    """Whether the addresses are ones, this Triton may listen on them, and their ports are free."""
    try:
        hosts = settings.hosts()
    except LaunchError as error:
        return [refused("addresses", error)]
    found = [] if installation is None else [exposure(installation, hosts, settings)]
    return [*found, *ports(hosts, settings.ports())]


def exposure(installation: TritonInstallation, hosts: Mapping[str, str], settings: ServeSettings) -> Finding:
    """Whether strangers would reach a Triton that one request can end."""
    accepted = settings.expose_vulnerable_triton
    try:
        check_exposure(installation, hosts.values(), accepted=accepted)
    except LaunchError as error:
        return refused("exposure", error)
    listening = ", ".join(dict.fromkeys(hosts.values()))
    if not vulnerable(installation):
        return Finding(name="exposure", level=Level.OK, found=listening)
    if not all(map(is_loopback, hosts.values())):
        found = f"{listening}, with a Triton that a single request can end, as {FLAG} accepts"
        advice = "run a current Triton container"
        return Finding(name="exposure", level=Level.WARNING, found=found, advice=advice)
    why = f"; for loopback only: {EMBEDDED_RISK}" if installation.embedded else "; for loopback only"
    return Finding(name="exposure", level=Level.OK, found=f"{listening}{why}")


def open_files() -> Finding:
    """How many files the server may open; it raises the limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _ENOUGH_FILES:
        return Finding(name="open files", level=Level.OK, found=f"at most {hard}")
    advice = f"give at least {_ENOUGH_FILES} (ulimit -Hn, docker run --ulimit nofile=65536)"
    found = f"at most {hard}, and each connection takes one"
    return Finding(name="open files", level=Level.WARNING, found=found, advice=advice)


def ports(host: str | Mapping[str, str], wanted: Mapping[str, int]) -> list[Finding]:
    """Whether each wanted port can be listened on, and all of them together."""
    hosts = dict.fromkeys(wanted, host) if isinstance(host, str) else host
    alone = [
        _attempt(
            f"{name} port",
            partial(choose_ports, hosts, {name: port}),
            f"{joined(hosts[name], port)} is free" if port else f"any free one of {hosts[name]}",
        )
        for name, port in wanted.items()
    ]
    if all(finding.level is Level.OK for finding in alone):
        together = _attempt("ports", lambda: choose_ports(hosts, wanted), "")
        if together.level is Level.ERROR:
            return [*alone, together]
    return alone


def shared_memory(
    folder: Path = SHM, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
) -> Finding:
    """/dev/shm, through which all tensors travel.

    Args:
        folder: where it is mounted.
        usage: total, used and free bytes of a folder.
    """
    enough = f"give a container at least {ENOUGH_SHM // MIB} MiB"
    advice = f"{enough} (docker run --shm-size, or an emptyDir of medium Memory)"
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"{folder} cannot be written"
        return Finding(name="shared memory", level=Level.ERROR, found=found, advice="mount a tmpfs there")
    total, _, free = usage(folder)
    found = f"{free / MIB:.0f} of {total / MIB:.0f} MiB free in {folder}"
    level = Level.WARNING if free < ENOUGH_SHM else Level.OK
    return Finding(
        name="shared memory", level=level, found=found, advice=advice if level is not Level.OK else ""
    )


def runtime_folder(candidates: list[str] | None = None) -> Finding:
    """A folder for the control socket, whose path must be short."""
    try:
        folder = make_runtime_dir(candidates)
    except LaunchError as error:
        advice = "make one of them writable, or set XDG_RUNTIME_DIR or TMPDIR"
        return Finding(name="runtime folder", level=Level.ERROR, found=error.message, advice=advice)
    folder.rmdir()
    return Finding(name="runtime folder", level=Level.OK, found=str(folder.parent))


def cache_folder(folder: Path | None = None, little: int = _LITTLE_DISK) -> Finding:
    """The user's cache folder, where Triton's backend is assembled and the exporter keeps engines.

    Args:
        folder: the folder; the user's when absent.
        little: free disk, in bytes, that is worth a warning.
    """
    folder = cache_dir() if folder is None else folder
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable:
        found = f"{folder} cannot be written; a temporary folder is used for each run"
        advice = "set XDG_CACHE_HOME to a folder that can be written"
        return Finding(name="cache folder", level=Level.WARNING, found=found, advice=advice)
    free = shutil.disk_usage(existing).free
    engines = sum(path.stat().st_size for path in (folder / "engines").glob("*") if path.is_file())
    found = f"{folder}: {engines / MIB:.0f} MiB of engines, {free / MIB:.0f} MiB of disk free"
    if free < little:
        advice = f"free some disk (deleting {folder / 'engines'} is safe), or set XDG_CACHE_HOME"
        return Finding(name="cache folder", level=Level.WARNING, found=found, advice=advice)
    return Finding(name="cache folder", level=Level.OK, found=found)


def _python(python: PythonFacts) -> Finding:
    found = f"{tag(python.version)}, {python.executable}"
    return Finding(name="python", level=Level.OK, found=found)


def _executable(binary: Path) -> Finding | None:
    """An error unless the file can be executed."""
    if os.access(binary, os.X_OK):
        return None
    found = f"{binary} cannot be executed"
    advice = "install nvidia-pytriton again"
    return Finding(name="triton", level=Level.ERROR, found=found, advice=advice)


def _attempt(name: str, check: Callable[[], object], found: str) -> Finding:
    try:
        check()
    except LaunchError as error:
        return refused(name, error)
    return Finding(name=name, level=Level.OK, found=found)
