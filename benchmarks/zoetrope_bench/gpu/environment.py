"""The Python that the parts run in: with this source tree, and with wheels that the machine lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[3]
"""The source tree."""
SOURCES = tuple(ROOT / name for name in ("core", "families", "server", "client", "export", "benchmarks"))


def prepare(scratch: Path, wheels: Path | None) -> tuple[Path, dict[str, str]]:
    """The interpreter of the parts, and the environment variables that they get.

    Args:
        scratch: a directory that lasts as long as the run: compilers begin with empty caches there.
        wheels: wheels to install, without a network and into an environment of the run's own; None for none.

    Raises:
        subprocess.CalledProcessError: the wheels cannot be installed.
    """
    caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "ZOETROPE_CACHE_DIR")
    variables = {name: str(scratch / name.lower()) for name in caches}
    variables["PYTHONUNBUFFERED"] = "1"
    if wheels is None:
        known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join([*map(str, SOURCES), *filter(None, known)])
        return Path(sys.executable), variables
    return _environment(scratch / "environment", wheels), variables


def _environment(place: Path, wheels: Path) -> Path:
    """A virtual environment with the wheels, this source tree, and all that this interpreter has.

    Triton's stages take the environment of the `python3` beside them and no PYTHONPATH: hence the file.
    """
    files = sorted(map(str, wheels.rglob("*.whl")))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    site = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if files:
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
        ]
        subprocess.run([*install, "--target", str(site), *files], check=True)
    found = dict.fromkeys([*map(str, SOURCES), *map(sysconfig.get_path, ("purelib", "platlib"))])
    (site / "zoetrope-gpu.pth").write_text("\n".join(found) + "\n")
    return python
