"""Latents to colours: the fit finds a linear map where there is one, and previews apply it."""

import numpy as np
import pytest

from zoetrope_core.preview import latent_rgb, preview

RNG = np.random.default_rng(0)
MAP = ((0.5, 0.1, 0.0), (-0.3, 0.2, 0.4), (0.0, 0.6, -0.2), (0.1, 0.0, 0.3), (0.05, -0.1, 0.2))


def colours(latents, rgb=MAP):
    """[..,C,h,w] to [..,3,h,w] by the definition, in FP64."""
    weights, bias = np.array(rgb[:-1]), np.array(rgb[-1])
    return np.einsum("...chw,cd->...dhw", latents.astype(float), weights) + bias[:, None, None]


def test_the_fit_finds_the_map_that_made_the_pictures():
    latents = RNG.normal(size=(5, 4, 6, 7)).astype(np.float32)
    flat = colours(latents).repeat(8, 2).repeat(8, 3)
    grain = RNG.normal(size=flat.shape).reshape(5, 3, 6, 8, 7, 8)
    grain -= grain.mean((3, 5), keepdims=True)  # within one latent only the mean counts
    found = latent_rgb(latents, (flat + grain.reshape(flat.shape)).astype(np.float32))
    assert len(found) == 5 and all(isinstance(value, float) for row in found for value in row)
    np.testing.assert_allclose(found, MAP, atol=1e-5)


def test_the_fit_has_the_least_error():
    latents = RNG.normal(size=(3, 4, 8, 8)).astype(np.float32)
    pixels = RNG.uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    pooled = pixels.reshape(3, 3, 8, 2, 8, 2).mean((3, 5))

    def error(rgb):
        return ((colours(latents, rgb) - pooled) ** 2).mean()

    best = np.array(latent_rgb(latents, pixels))
    for _ in range(20):
        assert error(best) < error(best + RNG.normal(0, 0.01, best.shape))


@pytest.mark.parametrize("scaling_factor", [1.0, 0.18215])
def test_a_preview_is_the_map_of_unscaled_latents(scaling_factor):
    latents = RNG.normal(0, 0.5, (6, 4, 3, 5)).astype(np.float32)
    frames = preview(latents * np.float32(scaling_factor), MAP, scaling_factor)
    assert frames.shape == (6, 3, 5, 3) and frames.dtype == np.uint8
    exact = (colours(latents).transpose(0, 2, 3, 1) * 127.5 + 127.5).clip(0, 255)
    assert np.abs(frames - exact).max() < 0.51


def test_a_preview_is_bounded_and_survives_what_is_not_finite():
    latents = np.zeros((1, 4, 1, 5), np.float32)
    latents[0, 0, 0] = [1e9, -1e9, np.nan, np.inf, -np.inf]
    red = preview(latents, ((1.0, 0.0, 0.0), *[(0.0, 0.0, 0.0)] * 4), 1.0)[0, 0, :, 0]
    assert red.tolist() == [255, 0, 128, 128, 128]
