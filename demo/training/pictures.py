"""The freely licensed photographs that training may see, and those that it must never see."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SKIMAGE, SKLEARN, MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
PUBLIC, CC0, CCBY = "public domain", "CC0 1.0", "CC BY 2.0"
UNRESTRICTED, BSD = "no known copyright restrictions", "BSD-3-Clause"


@dataclass(frozen=True, slots=True)
class Picture:
    """One photograph inside an installed package, with its licence and maker."""

    folder: str
    file: str
    licence: str
    source: str

    @property
    def path(self) -> Path:
        """Where the package that ships it keeps the file."""
        package, *rest = self.folder.split("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{package} is not installed; it ships {self.file}")
        return Path(spec.origin).parent.joinpath(*rest, self.file)

    def load(self) -> torch.Tensor:
        """f32 [3,H,W] in 0..1."""
        pixels = np.asarray(Image.open(self.path).convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


TRAINING = (
    Picture(SKIMAGE, "astronaut.png", PUBLIC, "NASA, Eileen Collins"),
    Picture(SKIMAGE, "brick.png", CC0, "CC0Textures Bricks25"),
    Picture(SKIMAGE, "camera.png", CC0, "Lav Varshney"),
    Picture(SKIMAGE, "cell.png", CC0, "Schuermann et al., red blood cell"),
    Picture(SKIMAGE, "clock_motion.png", CC0, "Stefan van der Walt"),
    Picture(SKIMAGE, "coins.png", UNRESTRICTED, "Brooklyn Museum, coins from Pompeii"),
    Picture(SKIMAGE, "color.png", BSD, "the scikit-image project, colour wheel"),
    Picture(SKIMAGE, "grass.png", CC0, "linolafett, DeviantArt"),
    Picture(SKIMAGE, "gravel.png", CC0, "CC0Textures Gravel04"),
    Picture(SKIMAGE, "hubble_deep_field.jpg", PUBLIC, "NASA, Hubble eXtreme Deep Field"),
    Picture(SKIMAGE, "ihc.png", UNRESTRICTED, "Center for Microscopy and Molecular Imaging"),
    Picture(SKIMAGE, "moon.png", PUBLIC, "NASA"),
    Picture(SKIMAGE, "retina.jpg", CC0, "Häggström, Wikiversity J. Med. 2014"),
    Picture(SKLEARN, "china.jpg", CCBY, "danielbuechele, Flickr 6061409035"),
    Picture(MATPLOTLIB, "grace_hopper.jpg", PUBLIC, "US Navy, James S. Davis"),
)

HELD_OUT = (
    Picture(SKIMAGE, "rocket.jpg", PUBLIC, "SpaceX, launch of DSCOVR"),
    Picture(SKIMAGE, "chelsea.png", CC0, "Stefan van der Walt"),
    Picture(SKIMAGE, "coffee.png", CC0, "Rachel Michetti"),
    Picture(SKLEARN, "flower.jpg", CCBY, "vultilion, Flickr 6056698931"),
)
