"""The colours of latents: fitted on fixed pictures, with the checkpoint's own VAE."""

import numpy as np
import pytest

pytest.importorskip("diffusers")

from zoetrope_core.specs import VAE_ENCODER  # noqa: E402
from zoetrope_export.latent_colours import PICTURES, fit_latent_rgb, pictures  # noqa: E402

MIX = np.array([[0.3, 0.6, 0.1], [0.5, -0.4, 0.2], [-0.2, 0.1, 0.9], [0.0, 0.3, 0.3]])
SHIFT = np.array([0.2, -0.1, 0.0, 0.4])


class LinearEncoder:
    """A VAE encoder that mixes the mean colours of 8 x 8 pixels to four channels."""

    def __init__(self, factor=8):
        self.factor, self.seen = factor, []

    def run(self, inputs):
        (pixels,) = (inputs[spec.name] for spec in VAE_ENCODER.inputs)
        self.seen.append(pixels)
        batch, _, height, width = pixels.shape
        f = self.factor
        pooled = pixels.reshape(batch, 3, height // f, f, width // f, f).mean((3, 5))
        latents = np.einsum("cd,bdhw->bchw", MIX, pooled) + SHIFT[:, None, None]
        return {"latents": latents.astype(np.float32)}


@pytest.mark.parametrize("factor", [2, 8])
def test_the_fit_inverts_a_linear_encoder(factor):
    encoder = LinearEncoder(factor)
    rgb = np.array(fit_latent_rgb(encoder, factor))
    assert len(encoder.seen) == PICTURES and encoder.seen[0].dtype == np.float32
    colour = np.array([0.5, -0.25, 0.75])
    np.testing.assert_allclose((MIX @ colour + SHIFT) @ rgb[:-1] + rgb[-1], colour, atol=1e-4)


def test_the_pictures_are_always_the_same_and_span_all_colours():
    first, again = np.stack(list(pictures(32))), np.stack(list(pictures(32)))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (PICTURES, 3, 32, 32) and first.dtype == np.float32
    assert np.abs(first).max() <= 1.0
    samples = first.transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.linalg.eigvalsh(np.cov(samples)).min() > 0.1, "no colour direction is missing"
    assert np.ptp(samples, axis=1).min() > 1.9
