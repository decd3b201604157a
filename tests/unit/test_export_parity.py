"""The parity gate: its measures, its report, and the activations that it compares on."""

import json
import math

import numpy as np
import pytest
from fakes import MANIFEST

pytest.importorskip("diffusers")

from zoetrope_core.specs import STAGES, UNET, VAE_DECODER, VAE_DECODER_FP32  # noqa: E402
from zoetrope_export.parity import ParityReport, StageParity, compare, max_abs_error, psnr  # noqa: E402
from zoetrope_export.trajectory import STEPS, Sample, Trajectory, sample_picture  # noqa: E402
from zoetrope_server.engines import stage_precision  # noqa: E402


class Arithmetic:
    """Stages by arithmetic, with an error to add to every output that is a number."""

    def __init__(self, stage, error=0.0):
        self.stage, self.error = stage, error

    def run(self, inputs):
        first = next(iter(inputs.values()))
        outputs = {}
        for spec in self.stage.outputs:
            sizes = MANIFEST.symbols() | {
                "h": 4,
                "w": 6,
                "H": 32,
                "W": 48,
                "f": first.shape[1],
                "F": first.shape[1],
            }
            value = np.random.default_rng(0).uniform(0, 200, (len(first), *spec.shape(sizes)))
            value = value > -1 if spec.dtype == "BOOL" else value + self.error
            outputs[spec.name] = value.astype(spec.numpy_dtype)
        return outputs


def test_psnr_of_floats_has_their_range_for_a_peak():
    reference = np.array([-1.0, 0.0, 3.0], np.float32)
    assert psnr(reference, reference + 0.04) == pytest.approx(40.0, abs=0.01)
    assert psnr(reference * 1000, (reference + 0.04) * 1000) == pytest.approx(40.0, abs=0.01)


def test_psnr_of_bytes_has_255_for_a_peak():
    reference = np.zeros((4, 4), np.uint8)
    assert psnr(reference, reference + 1) == pytest.approx(20 * math.log10(255))


def test_equal_arrays_have_200_db_and_broken_ones_none():
    reference = np.array([0.0, 1.0], np.float32)
    assert psnr(reference, reference) == 200.0
    assert psnr(np.array([True]), np.array([False])) == 0.0
    assert psnr(reference, np.array([0.0, np.nan], np.float32)) == 0.0
    assert psnr(reference, reference[:1]) == 0.0
    assert max_abs_error(reference, reference[:1]) == math.inf
    assert max_abs_error(reference, np.array([0.5, np.inf], np.float32)) == math.inf
    assert max_abs_error(np.array([250], np.uint8), np.array([5], np.uint8)) == 245.0


@pytest.mark.parametrize(
    ("precision", "error", "passed"),
    [
        ("fp32", 0.0, True),
        ("fp32", 0.01, True),
        ("fp32", 1.0, False),
        ("bf16", 1.0, True),
        ("bf16", 9.0, False),
    ],
)
def test_a_stage_passes_within_the_tolerance_of_its_precision(precision, error, passed):
    inputs = {"latents": np.zeros((1, 3, 4, 4, 6), np.float32)}
    sample = Sample(inputs=inputs, outputs=Arithmetic(UNET).run(inputs))
    parity = compare(UNET, Arithmetic(UNET, error), [sample, sample], precision)
    assert (parity.stage, parity.precision, parity.samples) == ("unet", precision, 2)
    assert parity.max_abs_error == pytest.approx(error, abs=1e-4)
    assert parity.passed is passed


@pytest.mark.parametrize(
    ("engine", "precision", "encoders", "decoder"),
    [
        ("openvino", "bf16", "fp32", "bf16"),
        ("tensorrt", "fp16", "tf32", "fp16"),
        ("aot-inductor", "fp16", "tf32", "fp16"),
        ("tensorrt", "fp32", "fp32", "fp32"),
        ("aot-inductor", "fp32", "fp32", "fp32"),
    ],
)
def test_the_encoders_have_a_precision_of_their_own(engine, precision, encoders, decoder):
    kept = [stage_precision(stage, precision, engine) for stage in STAGES.values()]
    assert kept == [encoders, encoders, decoder, decoder]
    assert stage_precision(VAE_DECODER_FP32, precision, engine) == "fp32"


def test_a_flag_that_differs_fails():
    inputs = {"latents": np.zeros((1, 3, 4, 4, 6), np.float32)}
    outputs = Arithmetic(VAE_DECODER).run(inputs)
    sample = Sample(inputs=inputs, outputs=outputs | {"finite": ~outputs["finite"]})
    assert not compare(VAE_DECODER, Arithmetic(VAE_DECODER), [sample], "fp32").passed


def test_a_reference_that_is_not_finite_passes_nothing():
    """Both say so, and their frames are equal: garbage, not parity."""
    inputs = {"latents": np.zeros((1, 3, 4, 4, 6), np.float32)}
    outputs = Arithmetic(VAE_DECODER).run(inputs)
    broken = outputs | {"finite": ~outputs["finite"]}

    class Broken:
        def run(self, inputs):
            return broken

    assert not compare(VAE_DECODER, Broken(), [Sample(inputs=inputs, outputs=broken)], "bf16").passed


def test_the_report_is_json(tmp_path):
    stages = [
        StageParity(
            stage=name, precision="fp32", samples=1, max_abs_error=0.5, psnr_db=psnr, tolerance_db=70.0
        )
        for name, psnr in (("unet", 90.0), ("vae_decoder", 60.0))
    ]
    report = ParityReport(
        engine="onnxruntime", precision="fp32", size=(32, 48), num_frames=3, stages=tuple(stages)
    )
    report.save(tmp_path)
    body = json.loads((tmp_path / "parity.json").read_text())
    assert body["passed"] is report.passed is False
    assert [stage["passed"] for stage in body["stages"]] == [True, False]
    assert body["size"] == [32, 48]
    assert body["stages"][0]["psnr_db"] == 90.0


def test_the_trajectory_is_a_generation():
    trajectory = Trajectory(MANIFEST, sample_picture(32, 48), num_frames=6)
    samples = {name: trajectory.run(name, Arithmetic(stage)) for name, stage in STAGES.items()}
    assert [len(calls) for calls in samples.values()] == [1, 1, STEPS, 1]
    assert samples["image_encoder"][0].inputs["pixel_values"].shape == (1, 3, 224, 224)
    sigmas = [sample.inputs["sigma"].item() for sample in samples["unet"]]
    assert sigmas[0] == 700.0
    assert sigmas[-1] == pytest.approx(0.002)
    first, second, _ = (sample.inputs["latents"] for sample in samples["unet"])
    assert first.std() > second.std(), "a sample must not change when the generation goes on"
    assert not samples["unet"][0].inputs["image_latents"][0, 0].any()
    assert samples["vae_decoder"][0].inputs["latents"].shape == (1, 4, 4, 4, 6)


def test_the_sample_picture_has_light_and_shade():
    picture = sample_picture(40, 56)
    assert picture.shape == (40, 56, 3)
    assert picture.dtype == np.uint8
    assert np.ptp(np.percentile(picture, (5, 95))) > 100
    assert np.array_equal(picture, sample_picture(40, 56))
