"""The host's time of a video: what is subtracted from the wall time, and what a deployment is."""

from dataclasses import replace

import pytest

from zoetrope_bench import host_time
from zoetrope_bench.host_time import HostTime, Measured
from zoetrope_bench.overhead import SVD_XT

SVD_XT_WEIGHTS = 1_524_623_082


@pytest.fixture
def deployed():
    return {each.name: each for each in host_time.deployments(SVD_XT, 25)}


def test_the_engines_take_what_their_calls_take(deployed):
    large, small = deployed.values()
    assert large.engine_ms == pytest.approx(25 * 220 + 4 * 60 + 2 * 20)
    assert small.engine_ms == pytest.approx(4 * 10 + 2 * 11 + 2 * 8)


def test_the_host_has_what_engines_steps_and_the_encoders_tail_have_not(deployed):
    large, _ = deployed.values()
    video = HostTime(wall=6100.0, engines=5780.0, tail=50.0, step=4.0, stages={"decode": 250.0})
    assert video.around(25) == pytest.approx(6100 - 5780 - 50 - 100)
    worse = replace(video, wall=6200.0)
    figures = {
        f.name: f
        for f in host_time.figures(large, Measured(alone=[video, worse, video], together_per_s=[0.5]))
    }
    around, step = figures["SVD-XT: the host around the loop"], figures["SVD-XT: a step beside the UNet"]
    assert (around.measured, around.target, around.passed) == (170.0, 150.0, False)
    assert (step.measured, step.target, step.passed) == (4.0, 5.0, True)


def test_the_largest_batches_are_those_that_the_exporter_chooses(deployed):
    from zoetrope_export.exporting import default_max_batch

    for each in deployed.values():
        height, width = each.manifest.latent_size(each.manifest.sizes[0])
        positions = each.manifest.num_frames[0] * height * width
        chosen = default_max_batch("fp16", weights=SVD_XT_WEIGHTS, positions=positions)
        assert each.manifest.max_batch_size == chosen, each.name
