"""Fitting an image into the video's size."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np
import pytest
from PIL import Image

from zoetrope_core.errors import InvalidRequest
from zoetrope_server.media.fit import FitMode, fit


def ramp(height: int, width: int) -> np.ndarray:
    """Red rises to the right, green downwards, over the whole range."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * (x + 0.5) / width, 255 * (y + 0.5) / height
    return np.stack([red, green, np.full_like(red, 77)], -1).round().astype(np.uint8)


@pytest.mark.parametrize("mode", get_args(FitMode))
def test_an_image_of_the_size_is_returned_as_it_is(mode: FitMode) -> None:
    image = ramp(32, 64)
    assert fit(image, (32, 64), mode) is image


@pytest.mark.parametrize("mode", get_args(FitMode))
@pytest.mark.parametrize("source", [(16, 16), (900, 1600), (1600, 900), (33, 57), (16, 3000), (3000, 16)])
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (136, 72), (576, 1024)])
def test_the_size_comes_out(mode: FitMode, source: tuple[int, int], size: tuple[int, int]) -> None:
    image = fit(ramp(*source), size, mode)
    assert image.shape == (*size, 3) and image.dtype == np.uint8


def test_the_default_is_crop() -> None:
    image = ramp(100, 300)
    assert np.array_equal(fit(image, (64, 64)), fit(image, (64, 64), "crop"))


def test_crop_keeps_the_centre_and_the_proportions() -> None:
    image = fit(ramp(100, 300), (50, 50), "crop")
    assert abs(int(image[25, 0, 0]) - 255 / 3) < 4 and abs(int(image[25, -1, 0]) - 2 * 255 / 3) < 4
    assert image[0, 25, 1] < 6 and image[-1, 25, 1] > 249
    tall = fit(ramp(300, 100), (50, 50), "crop")
    assert abs(int(tall[0, 25, 1]) - 255 / 3) < 4 and abs(int(tall[-1, 25, 1]) - 2 * 255 / 3) < 4
    assert tall[25, 0, 0] < 6 and tall[25, -1, 0] > 249


def test_crop_without_scaling_takes_the_pixels() -> None:
    image = ramp(64, 100)
    assert np.array_equal(fit(image, (64, 64), "crop"), image[:, 18:82])


def test_pad_letterboxes_in_black() -> None:
    image = np.full((100, 200, 3), 200, np.uint8)
    wide = fit(image, (64, 64), "pad")
    assert (wide[:16] == 0).all() and (wide[48:] == 0).all() and (wide[16:48] == 200).all()
    tall = fit(image.transpose(1, 0, 2), (64, 64), "pad")
    assert (tall[:, :16] == 0).all() and (tall[:, 48:] == 0).all() and (tall[:, 16:48] == 200).all()


def test_pad_without_scaling_keeps_the_pixels() -> None:
    image = ramp(64, 32)
    assert np.array_equal(fit(image, (64, 64), "pad")[:, 16:48], image)


def test_stretch_shows_everything() -> None:
    image = fit(ramp(100, 300), (64, 64), "stretch")
    assert np.abs(image.astype(int) - ramp(64, 64)).max() <= 3


def test_shrinking_averages_instead_of_picking() -> None:
    checks = np.indices((512, 512)).sum(0) % 2 * np.uint8(255)
    image = fit(np.repeat(checks[..., None], 3, -1).astype(np.uint8), (64, 64))
    assert np.abs(image[4:-4, 4:-4].astype(int) - 128).max() <= 3


@pytest.mark.parametrize("mode", get_args(FitMode))
def test_shortcuts_do_not_show(mode: FitMode) -> None:
    """Shrinking in two steps is a matter of speed only."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((1200, 900), Image.Resampling.BICUBIC))
    exact = coarse.resize((1200, 900), Image.Resampling.BICUBIC).resize((200, 150), Image.Resampling.LANCZOS)
    assert np.abs(fit(image, (150, 200), mode).astype(int) - np.asarray(exact)).mean() < 0.5


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        fit(ramp(32, 32), (64, 64), cast(FitMode, "zoom"))
    assert caught.value.details["field"] == "fit"
    assert caught.value.details["allowed"] == ["crop", "pad", "stretch"]
