"""The whole pipeline against `StableVideoDiffusionPipeline`.

`--log-cli-level=INFO` shows the PSNR of each.
"""

import logging

import numpy as np
import pytest
from parity import lab

from zoetrope_server.stages import LocalStages

_logger = logging.getLogger(__name__)


@pytest.mark.parametrize("case", lab.CASES)
def test_the_reference_is_worth_comparing_with(bench, case):
    """Frames that are all black, all white or all alike would hide every mistake."""
    frames = bench(case).diffusers_frames()
    assert np.isin(frames, (0, 255)).mean() < 0.1
    assert np.ptp(np.percentile(frames, (5, 95))) > 100
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 5


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("case", lab.CASES)
def test_fp32_frames_are_those_of_diffusers(bench, case, engine):
    of = bench(case)
    frames = lab.zoetrope_frames(of.manifest, LocalStages(of.engines(engine, "fp32")), of.case)
    lab.check_parity(of.diffusers_frames(), frames)


@pytest.mark.parametrize("case", lab.CASES)
def test_bf16_frames_are_close_to_those_of_diffusers(bench, case):
    of = bench(case)
    frames = lab.zoetrope_frames(of.manifest, LocalStages(of.engines("openvino", "bf16")), of.case)
    _logger.info("%s: %.1f dB", case, lab.psnr(of.diffusers_frames(), frames))
    lab.check_parity(of.diffusers_frames(), frames, least_db=35.0, most_levels=None)
