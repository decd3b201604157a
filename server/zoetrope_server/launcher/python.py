"""Facts of the running Python that decide whether Triton's python backend can host it."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFacts:
    """What the stub process of Triton's python backend will meet.

    Attributes:
        executable: the interpreter; the `python3` in its folder is the one whose environment stubs take.
        version: major and minor version.
        library: file name of the shared libpython, such as `libpython3.11.so.1.0`.
        library_dirs: folders where it may lie, the likeliest first.
        numpy: version of the installed numpy, None without one.
    """

    executable: Path
    version: tuple[int, int]
    library: str
    library_dirs: tuple[Path, ...]
    numpy: str | None

    @classmethod
    def current(cls) -> PythonFacts:
        """The facts of the interpreter that runs this."""
        version = (sys.version_info.major, sys.version_info.minor)
        return cls(
            executable=Path(sys.executable),
            version=version,
            library=f"libpython{tag(version)}.so.1.0",
            library_dirs=_library_dirs(),
            numpy=_installed("numpy"),
        )

    def shared_library_dir(self) -> Path | None:
        """The folder that holds the shared libpython, None when there is none."""
        return next((folder for folder in self.library_dirs if (folder / self.library).is_file()), None)


def tag(version: tuple[int, int]) -> str:
    """Version as the wheels write it: `3.11`."""
    return f"{version[0]}.{version[1]}"


def _library_dirs() -> tuple[Path, ...]:
    """LIBDIR is right for most builds; Debian adds a multiarch folder, moved builds know their prefix."""
    libdir = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [libdir, Path(sys.base_prefix) / "lib"]
    if multiarch:
        candidates += [libdir / multiarch, Path("/usr/lib") / multiarch]
    return tuple(dict.fromkeys(candidates))


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
