"""Animated WebP: the frames, their size and their time."""

import io

import numpy as np
import pytest
from clips import moving
from PIL import Image

from zoetrope_server.media.animation import animated_webp


def opened(data):
    image = Image.open(io.BytesIO(data))
    frames, times = [], []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")))
        times.append(image.info["duration"])
    return image, np.stack(frames), times


@pytest.mark.parametrize(
    ("shape", "size"), [((64, 96), (96, 64)), ((62, 96), (192, 124)), ((8, 12), (24, 16))]
)
def test_size_time_and_pictures(shape, size):
    clip = moving(5, *shape)
    image, frames, times = opened(animated_webp(clip, fps=8))
    assert (image.format, image.size, image.n_frames, image.info["loop"]) == ("WEBP", size, 5, 0)
    assert times == [125] * 5
    factor = size[1] // shape[0]
    small = frames[:, ::factor, ::factor].astype(float)
    assert np.abs(small - clip).mean() < 12, "the pictures"
    assert np.abs(small - clip[::-1]).mean() > 2 * np.abs(small - clip).mean(), "in their order"


def test_one_frame_is_a_still():
    data = animated_webp(moving(1), fps=7)
    assert Image.open(io.BytesIO(data)).n_frames == 1


def test_equal_frames_give_equal_bytes():
    assert animated_webp(moving(4), fps=7) == animated_webp(moving(4), fps=7)
