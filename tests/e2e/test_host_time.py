"""`zoetrope bench overhead` over a real server: engines of known time, and what the host adds."""

from dataclasses import replace

import pytest

from zoetrope_bench import host_time

pytestmark = pytest.mark.e2e


@pytest.mark.serial
def test_a_video_takes_its_engines_and_the_host_and_videos_share_steps(noop_manifest):
    deployment = replace(
        host_time.deployments(noop_manifest, 4)[1],
        manifest=noop_manifest,
        request={"num_inference_steps": 8},
        seconds=host_time.engine_seconds(step=0.1, chunk=0.01, encoder=0.01),
    )
    measured = host_time.measure(deployment, rounds=1)
    (video,) = measured.alone
    assert deployment.engine_ms == pytest.approx(8 * 100 + 2 * 10 + 2 * 10)
    assert video.wall > video.engines - 10, "both encoders run at once, so that one of them costs nothing"
    assert 0 < video.step < 100 and video.tail >= 0
    assert min(measured.together_per_s) > 1.5 / (deployment.engine_ms / 1000), "four at once share steps"
