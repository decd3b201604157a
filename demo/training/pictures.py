"""The freely licensed photographs that training may see, and those that it must never see.

`images.csv` names each with its package, licence and maker. Python packages are found where they are
installed; Debian's are unpacked by `python -m demo.training.collect`. Of those, the held-out photographs are
kept, small, in `demo/held_out`, so that a checkpoint can be judged from a clone.
"""

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TRAINING_FOLDER = Path(__file__).resolve().parent
PACKAGES = TRAINING_FOLDER / "state" / "packages"
KEPT = TRAINING_FOLDER.parent / "held_out"
PYTHON = "python"  # the release of those that are no Debian packages


@dataclass(frozen=True, slots=True)
class Picture:
    """One photograph inside a package, with its licence and maker; `release` is Debian's.

    `moves` names what would move in it, `clouds` above and `water` or `leaves` below a share of its height.
    """

    package: str
    release: str
    file: str
    licence: str
    source: str
    use: str
    moves: str

    @property
    def name(self) -> str:
        """The file's name; some packages keep one of the same name in several directories."""
        parts = Path(self.file).parts
        return parts[-4] + ".jpg" if parts[-2] == "images" and len(parts) > 4 else parts[-1]

    @property
    def path(self) -> Path:
        """Where the file is on this machine."""
        if (kept := KEPT / self.name).is_file():
            return kept
        path = self._installed() if self.release == PYTHON else PACKAGES / self.package / self.file
        if not path.is_file():
            raise FileNotFoundError(f"{self.package} ships {self.file}: python -m demo.training.collect")
        return path

    def _installed(self) -> Path:
        module, *rest = self.file.split("/")
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{self.package} is not installed; it ships {self.file}")
        return Path(spec.origin).parent.joinpath(*rest)

    def open(self, longest: int | None = None) -> Image.Image:
        """The photograph in RGB, no side longer than `longest`."""
        image = Image.open(self.path)
        if longest is not None:
            image.draft("RGB", (2 * longest, 2 * longest))
        image = image.convert("RGB")
        if longest is not None:
            image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return image

    def load(self, longest: int | None = None) -> torch.Tensor:
        """f32 [3,H,W] in 0..1."""
        pixels = np.asarray(self.open(longest), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_table() -> tuple[Picture, ...]:
    """Every photograph of `images.csv`."""
    with (TRAINING_FOLDER / "images.csv").open(newline="") as file:
        return tuple(Picture(**row) for row in csv.DictReader(file))


ALL = read_table()
TRAINING = tuple(picture for picture in ALL if picture.use == "training")
HELD_OUT = tuple(picture for picture in ALL if picture.use == "held out")
