"""Samplers, schedules, guidance and deadlines through the real server, by its frames and Triton's counts."""

import numpy as np
import pytest
from rawtriton import PHOTO, psnr, settled, streamed

from zoetrope_core.errors import DeadlineExceeded
from zoetrope_core.schedules import AYS_SVD

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 4), ("heun", 7), ("dpmpp_2m", 4), ("lcm", 4)])
def test_a_sampler_calls_the_unet_as_often_as_it_says(client, server, sampler, calls):
    before = settled(server)
    first = streamed(client, seed=4, num_inference_steps=4, sampler=sampler)
    assert settled(server) - before == calls
    assert np.array_equal(first, streamed(client, seed=4, num_inference_steps=4, sampler=sampler))
    if sampler != "euler":
        assert psnr(first, streamed(client, seed=4, num_inference_steps=4)) < 60


def test_explicit_sigmas_are_a_schedule(client, server):
    named = streamed(client, seed=6, num_inference_steps=10, schedule="ays")
    before = settled(server)
    assert np.array_equal(named, streamed(client, seed=6, sigmas=AYS_SVD[:-1]))
    assert settled(server) - before == 10, "the number of steps is that of the sigmas"
    assert not np.array_equal(named, streamed(client, seed=6, num_inference_steps=10))


def test_guidance_holds_inside_its_interval_alone(client):
    def frames(**fields):
        return streamed(client, seed=7, num_inference_steps=5, **fields)

    guided, plain = frames(), frames(max_guidance_scale=1.0)
    assert np.array_equal(frames(guidance_interval=(0, 10_000)), guided)
    assert np.array_equal(frames(guidance_interval=(9_000, 10_000)), plain)
    partly = frames(guidance_interval=(1, 50))
    assert not np.array_equal(partly, guided) and not np.array_equal(partly, plain)


def test_a_deadline_that_cannot_be_met_is_refused_before_any_work(client, server):
    assert client.generate(PHOTO, num_inference_steps=3, deadline_s=60).data
    before = settled(server)
    with pytest.raises(DeadlineExceeded) as raised:
        client.generate(PHOTO, num_inference_steps=200, deadline_s=0.5)
    assert raised.value.details["earliest_finish_s"] > 0.5 and raised.value.details["retry_after_s"] >= 1
    assert settled(server) == before
