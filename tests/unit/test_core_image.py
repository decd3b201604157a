"""Image transforms by their properties (parity with diffusers: tests/parity/test_image.py)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoetrope_core.image import for_clip, for_vae

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = st.integers(1, 70)


def test_for_vae_puts_channels_first_and_pixels_in_minus_one_to_one():
    frame = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    pixels = for_vae(frame)
    assert (pixels.dtype, pixels.shape) == (np.float32, (1, 3, 1, 256))
    assert pixels.flags.c_contiguous
    assert pixels[0, 0, 0] == pytest.approx(np.arange(256) / 127.5 - 1, abs=1e-6)
    assert (pixels.min(), pixels.max()) == (-1.0, 1.0)


def test_for_vae_keeps_the_channels_apart():
    frame = np.zeros((2, 3, 3), np.uint8)
    frame[..., 1] = 255
    pixels = for_vae(frame)
    assert [pixels[0, channel].mean() for channel in range(3)] == [-1.0, 1.0, -1.0]


@settings(max_examples=30)
@given(SIDE, SIDE, st.integers(0, 255), st.sampled_from([1, 2, 16, 33]))
def test_a_plain_frame_stays_plain_at_every_size(height, width, value, size):
    clip = for_clip(np.full((height, width, 3), value, np.uint8), size, MEAN, STD)
    assert (clip.dtype, clip.shape) == (np.float32, (1, 3, size, size))
    for channel in range(3):
        expected = (value / 255 - MEAN[channel]) / STD[channel]
        assert clip[0, channel] == pytest.approx(np.full((size, size), expected), abs=1e-4)


def test_the_same_size_changes_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    clip = for_clip(frame, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert clip[0].transpose(1, 2, 0) == pytest.approx(frame / 255, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(50, 40), (10, 13)])
def test_a_mirrored_frame_gives_a_mirrored_input(axis, shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    straight = for_clip(frame, 24, MEAN, STD)
    mirrored = for_clip(np.flip(frame, axis), 24, MEAN, STD)
    assert np.flip(mirrored, axis + 2) == pytest.approx(straight, abs=1e-4)


def test_rows_and_columns_are_not_mixed_up():
    frame = np.zeros((40, 90, 3), np.uint8)
    frame[:, 45:] = 255
    clip = for_clip(frame, 16, (0.5,) * 3, (0.5,) * 3)[0, 0]
    assert clip[:, 2] == pytest.approx(np.full(16, -1.0), abs=1e-4)
    assert clip[:, 13] == pytest.approx(np.full(16, 1.0), abs=1e-4)


def test_fine_stripes_blur_to_grey_instead_of_aliasing():
    frame = np.zeros((448, 448, 3), np.uint8)
    frame[:, ::2] = 255
    clip = for_clip(frame, 56, (0.5,) * 3, (0.5,) * 3)
    assert np.abs(clip).max() < 0.05
