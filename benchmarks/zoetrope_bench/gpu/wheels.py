"""The wheels that a GPU machine without a network lacks: what they are, and what fetches them.

    python -m zoetrope_bench.gpu.wheels PACK [PACK ...] --out DIRECTORY

It runs where there is a network. A pack is small enough to be carried at once; parts that need more than one
name their packs. `make gpu WHEELS=DIRECTORY` then installs all of the directory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoetrope_bench.gpu.environment import ROOT

LIST = Path(__file__).with_name("wheels.json")
MOST_BYTES = 60_000_000
"""The most that a pack may weigh."""
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)


def packs() -> dict[str, Any]:
    """The packs by name: the parts that need each, and its wheels with their sizes in bytes."""
    found: dict[str, Any] = json.loads(LIST.read_text())["packs"]
    return found


def fetch_command(requirements: Sequence[str], out: Path) -> list[str]:
    """What downloads wheels for Python 3.12 on 64-bit Linux, and nothing that they need."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC] + [
        "manylinux2014_x86_64",
        "manylinux1_x86_64",
    ]
    target = ["--python-version", "3.12", "--implementation", "cp"]
    target += [word for platform in platforms for word in ("--platform", platform)]
    fixed = ["--no-deps", "--only-binary=:all:", *target, "--dest", str(out)]
    return [sys.executable, "-m", "pip", "download", "--quiet", *fixed, *requirements]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetches packs; returns 0 when all of them are there."""
    known = packs()
    parser = argparse.ArgumentParser(prog="zoetrope_bench.gpu.wheels")
    parser.add_argument("packs", nargs="+", choices=known)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    for name in options.packs:
        place = options.out / name
        place.mkdir(parents=True, exist_ok=True)
        wanted = [f"{each['name']}=={each['version']}" for each in known[name]["wheels"]]
        subprocess.run(fetch_command(wanted, place), check=True)
        if known[name].get("own"):
            own = [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--wheel-dir",
                str(place),
                str(ROOT),
            ]
            subprocess.run(own, check=True)
        size = sum(file.stat().st_size for file in place.iterdir())
        sys.stdout.write(f"{place}: {size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
