"""Fetches the photographs and packs them: `python -m demo.training.collect`.

Debian's packages come through apt from the releases that `images.csv` names, into directories of their own:
nothing is installed. The result, `state/images.npz`, is all that training needs on another machine.
"""

import io
import logging
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from .pictures import ALL, HELD_OUT, KEPT, PACKAGES, PYTHON, TRAINING, TRAINING_FOLDER, Picture

logger = logging.getLogger(__name__)
PACK = TRAINING_FOLDER / "state" / "images.npz"
LONGEST, JPEG_QUALITY = 720, 95
KEPT_LONGEST, KEPT_QUALITY = 480, 90


@dataclass(frozen=True, slots=True)
class Photograph:
    """Pixels u8 [3,H,W] and what moves in them: below or, for clouds, above a share of the height."""

    name: str
    pixels: torch.Tensor
    moves: dict[str, float]


def mirror() -> str:
    """The Debian mirror that this machine uses; raises FileNotFoundError when it knows none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    known = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    for address in known:
        if address.rstrip("/").endswith("/debian"):
            return address
    raise FileNotFoundError("apt knows no Debian mirror; the photographs come in Debian's packages")


def apt_environment(folder: Path, releases: Iterable[str]) -> dict[str, str]:
    """The environment in which apt knows these releases and keeps everything in `folder`."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    address = mirror()
    lines = [f"deb {address} {release} main\n" for release in sorted(set(releases))]
    (folder / "sources.list").write_text("".join(lines))
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    (folder / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    return {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}


def fetch(wanted: Iterable[Picture]) -> None:
    """Downloads and unpacks the Debian packages of some photographs that are not there yet."""
    missing = {p.package: p.release for p in wanted if p.release != PYTHON}
    missing = {name: release for name, release in missing.items() if not (PACKAGES / name).is_dir()}
    if not missing:
        return
    environment = apt_environment(PACKAGES.parent / "apt", missing.values())
    subprocess.run(["apt-get", "update", "--quiet"], env=environment, check=True)
    for name, release in missing.items():
        folder = PACKAGES.parent / "apt" / name
        folder.mkdir(exist_ok=True)
        command = ["apt-get", "download", "--quiet", f"{name}/{release}"]
        subprocess.run(command, env=environment, cwd=folder, check=True)
        (archive,) = folder.glob(f"{name}_*.deb")
        part = PACKAGES / f"{name}.part"
        subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True)
        part.rename(PACKAGES / name)


def pack(path: Path, some: Iterable[Picture]) -> None:
    """Writes photographs as JPEG, no side longer than LONGEST, into one file."""
    parts = {}
    for picture in some:
        file = io.BytesIO()
        picture.open(LONGEST).save(file, "JPEG", quality=JPEG_QUALITY)
        parts[picture.name] = np.frombuffer(file.getvalue(), dtype=np.uint8)
    np.savez(path, **parts)
    logger.info("%d photographs, %.1f MB", len(parts), path.stat().st_size / 1e6)


def keep(some: Iterable[Picture]) -> None:
    """Writes small copies of held-out photographs that Debian's packages ship into `demo/held_out`."""
    KEPT.mkdir(exist_ok=True)
    for picture in some:
        if picture.release != PYTHON and not (KEPT / picture.name).is_file():
            picture.open(KEPT_LONGEST).save(KEPT / picture.name, "JPEG", quality=KEPT_QUALITY)


def unpack(path: Path = PACK) -> list[Photograph]:
    """The packed photographs."""
    moves = {picture.name: picture.moves for picture in TRAINING}
    with np.load(path) as archive:
        images = {name: Image.open(io.BytesIO(archive[name].tobytes())) for name in archive.files}
    return [
        Photograph(name, torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), parse(moves[name]))
        for name, image in images.items()
    ]


def parse(moves: str) -> dict[str, float]:
    """`clouds:0.3 water:0.5` as a table."""
    return {kind: float(line) for kind, line in (entry.split(":") for entry in moves.split())}


def main(out: Annotated[Path, typer.Option(help="The pack.")] = PACK) -> None:
    """Fetches what `images.csv` names and packs the training photographs."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    PACKAGES.mkdir(parents=True, exist_ok=True)
    fetch(ALL)
    pack(out, TRAINING)
    keep(HELD_OUT)


if __name__ == "__main__":
    typer.run(main)
