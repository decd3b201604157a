"""The stage contracts as the design has them."""

import numpy as np
import pytest

from zoetrope_core.specs import DTYPES, STAGES, STATIC_SYMBOLS, UNET, VAE_DECODER, TensorSpec

SIZES = {"K": 2, "F": 25, "f": 5, "H": 576, "W": 1024, "h": 72, "w": 128, "C": 4, "E": 1024, "S": 224}
SHAPES = {
    "image_encoder": [
        {"pixel_values": (3, 224, 224)},
        {"image_embeds": (1024,)},
    ],
    "vae_encoder": [
        {"pixels": (3, 576, 1024)},
        {"latents": (4, 72, 128)},
    ],
    "unet": [
        {
            "latents": (25, 4, 72, 128),
            "sigma": (1,),
            "image_latents": (2, 4, 72, 128),
            "image_embeds": (2, 1024),
            "added_time_ids": (3,),
            "weights": (2, 25),
        },
        {"denoised": (25, 4, 72, 128)},
    ],
    "vae_decoder": [
        {"latents": (5, 4, 72, 128)},
        {"frames": (5, 576, 1024, 3), "finite": (1,)},
    ],
}


def test_stages_come_in_the_order_of_a_request():
    assert list(STAGES) == list(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_design(name):
    stage = STAGES[name]
    for specs, shapes in zip((stage.inputs, stage.outputs), SHAPES[name], strict=True):
        assert {spec.name: spec.shape(SIZES) for spec in specs} == shapes


def test_only_the_decoder_runs_alone():
    assert [stage.name for stage in STAGES.values() if not stage.batchable] == ["vae_decoder"]


def test_dtypes():
    special = {"frames": np.uint8, "finite": np.bool_}
    for stage in STAGES.values():
        for spec in (*stage.inputs, *stage.outputs):
            assert spec.numpy_dtype is special.get(spec.name, np.float32)
            assert spec.dtype in DTYPES


def test_a_symbol_without_a_size_is_dynamic():
    sizes = {symbol: SIZES[symbol] for symbol in STATIC_SYMBOLS}
    assert UNET.inputs[0].shape(sizes) == (-1, 4, -1, -1)
    assert VAE_DECODER.outputs[0].shape({}) == (-1, -1, -1, 3)
    assert TensorSpec(name="x", dtype="FP32", dims=()).shape({}) == ()
