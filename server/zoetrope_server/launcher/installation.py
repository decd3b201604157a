"""Finds Triton: a `tritonserver` on PATH (a container), else the one inside the nvidia-pytriton wheel."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from zoetrope_server.cache import cache_dir, make_private
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.python import PythonFacts, tag

_logger = logging.getLogger(__name__)
Version = tuple[int, int]

# The wheel does not say which Triton it carries.
_TRITON_OF_WHEEL: Mapping[str, Version] = {"0.7": (2, 51)}
OLDEST: Version = (2, 51)
"""The oldest Triton that is supported."""
_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonInstallation:
    """One tritonserver and what it needs around it.

    Attributes:
        binary: the `tritonserver` executable.
        backend_source: for a system Triton its folder of backends (None: the built-in default); for the
            embedded one the folder that `assemble_backends` takes the parts from.
        library_dirs: folders for LD_LIBRARY_PATH.
        version: major and minor version; the oldest supported one when it cannot be told.
        embedded: whether it comes from the nvidia-pytriton wheel.
    """

    binary: Path
    backend_source: Path | None
    library_dirs: tuple[Path, ...]
    version: Version
    embedded: bool


def find_installation(
    python: PythonFacts | None = None, environ: Mapping[str, str] | None = None
) -> TritonInstallation:
    """The Triton to run: the first `tritonserver` on PATH, else the embedded one.

    Raises:
        LaunchError: there is none, or the embedded one cannot host this Python.
    """
    environ = os.environ if environ is None else environ
    binary = shutil.which("tritonserver", path=environ.get("PATH", ""))
    if binary is not None:
        return _system_installation(Path(binary), environ)
    return embedded_installation(wheel_root(), python or PythonFacts.current(), wheel_version())


def embedded_installation(package: Path | None, python: PythonFacts, wheel: str | None) -> TritonInstallation:
    """The Triton in the folder of the `pytriton` package, checked against the Python that its stubs will run.

    Raises:
        LaunchError: the wheel is not installed, or it cannot host this Python.
    """
    if package is None:
        raise LaunchError(
            "no Triton found: install the server extra (pip install 'zoetrope[server]'), "
            "or put a tritonserver on PATH (the NGC container has one)"
        )
    root = package / "tritonserver"
    installation = TritonInstallation(
        binary=root / "bin" / "tritonserver",
        backend_source=root,
        library_dirs=(libpython_dir(python), package.parent / "nvidia_pytriton.libs"),
        version=embedded_version(wheel),
        embedded=True,
    )
    check_interpreter(python)
    check_stub(root, python)
    check_numpy(python, installation.version)
    return installation


def embedded_version(wheel: str | None) -> Version:
    """The version of the Triton inside an nvidia-pytriton wheel of this version."""
    return _TRITON_OF_WHEEL.get(".".join((wheel or "").split(".")[:2]), OLDEST)


def assemble_backends(installation: TritonInstallation, python: PythonFacts, fallback: Path) -> Path | None:
    """The folder for `--backend-directory`; None leaves Triton's own default.

    The embedded Triton lacks a stub beside its backend library, so the parts are copied together once into
    the user's cache folder and found again at the next start.

    Args:
        installation: what `find_installation` returned.
        python: whose stub is taken.
        fallback: an existing folder of the user's to use when the cache folder cannot be written, or others
            can write to it.
    """
    source = installation.backend_source
    if source is None or not installation.embedded:
        return source
    name = f"triton-{tag(installation.version)}-py{tag(python.version)}"
    try:
        if make_private(cache_dir() / name):
            return _assemble(source, python, cache_dir() / name)
        problem = "others can write there"
    except OSError as error:
        problem = str(error)
    _logger.warning("cannot use %s (%s); using %s for this run", cache_dir() / name, problem, fallback)
    return _assemble(source, python, fallback / name)


def _assemble(source: Path, python: PythonFacts, target: Path) -> Path:
    parts = [source / "backends" / "python" / name for name in _BACKEND_FILES]
    parts.append(source / "python_backend_stubs" / tag(python.version) / _STUB)
    if not all(_same(part, target / "python" / part.name) for part in parts):
        _logger.info("assembling Triton's python backend in %s", target)
        for part in parts:
            _copy_atomically(part, target / "python" / part.name)
    return target


def _same(part: Path, copy: Path) -> bool:
    return copy.is_file() and copy.stat().st_size == part.stat().st_size and os.access(copy, os.R_OK)


def _copy_atomically(part: Path, target: Path) -> None:
    """A server that starts at the same moment sees the old file or the whole new one, never a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copy2(part, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _system_installation(binary: Path, environ: Mapping[str, str]) -> TritonInstallation:
    root = binary.resolve().parent.parent
    backends = root / "backends"
    return TritonInstallation(
        binary=binary,
        backend_source=backends if backends.is_dir() else None,
        library_dirs=(),
        version=_system_version(root, environ),
        embedded=False,
    )


def _system_version(root: Path, environ: Mapping[str, str]) -> Version:
    """The version the container states in a file and a variable; `tritonserver` itself has no --version."""
    stated = root / "TRITON_VERSION"
    text = stated.read_text() if stated.is_file() else environ.get("TRITON_SERVER_VERSION", "")
    match = re.match(r"\s*(\d+)\.(\d+)", text)
    if match is None:
        _logger.warning("the version of %s is unknown; newer flags are left out", root)
        return OLDEST
    return int(match[1]), int(match[2])


def wheel_root() -> Path | None:
    """The folder of the `pytriton` package, found without importing it (the import changes the process)."""
    spec = util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def wheel_version() -> str | None:
    """The version of the nvidia-pytriton wheel; None when it is not installed."""
    try:
        return metadata.version("nvidia-pytriton")
    except metadata.PackageNotFoundError:
        return None


def libpython_dir(python: PythonFacts) -> Path:
    """The folder of the shared libpython; raises LaunchError when there is none."""
    folder = python.shared_library_dir()
    if folder is None:
        raise LaunchError(
            f"{python.executable} has no shared {python.library}, which Triton's python backend needs: "
            f"install it (Debian: apt install libpython{tag(python.version)}), use a Python built with "
            "--enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), or run in a Triton container"
        )
    return folder


def check_interpreter(python: PythonFacts) -> None:
    """Raises LaunchError when stage processes would run another Python than this one."""
    found = python.executable.parent / "python3"
    if not found.exists() or found.resolve() != python.executable.resolve():
        raise LaunchError(
            f"stage processes would take the environment of {found}, which is not {python.executable}: "
            "install Zoetrope into a virtual environment"
        )


def check_stub(root: Path, python: PythonFacts) -> None:
    """Raises LaunchError when the Triton in the folder `root` has no stub for this Python."""
    if (root / "python_backend_stubs" / tag(python.version) / _STUB).is_file():
        return
    stubs = sorted((root / "python_backend_stubs").glob("*/" + _STUB), key=lambda path: path.parent.name)
    supported = ", ".join(path.parent.name for path in stubs) or "none"
    raise LaunchError(
        f"the embedded Triton has no stub for Python {tag(python.version)} (it has: {supported}): "
        "use one of those versions, or run in a Triton container"
    )


def check_numpy(python: PythonFacts, version: Version) -> None:
    """Raises LaunchError for numpy 2: the stub of 2.51 then sends 0 bytes and aborts on BYTES inputs."""
    if python.numpy is None:
        raise LaunchError(
            "numpy is not installed, and Triton's python backend needs it: pip install 'numpy<2'"
        )
    if int(python.numpy.split(".")[0]) >= 2:
        raise LaunchError(
            f"the embedded Triton {tag(version)} corrupts tensors under numpy {python.numpy}: "
            "pip install 'numpy<2', or run in a current Triton container"
        )
