"""The forecast: shared engines, and what requests cost."""

from dataclasses import replace

import pytest
from fakes import MANIFEST

from zoetrope_core.request import GenerateRequest
from zoetrope_server import forecast
from zoetrope_server.forecast import Costs, finish_times


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "expected"),
    [
        ([], [], 2, []),
        ([3.0], [], 2, [3.0]),
        ([1.0, 3.0], [], 2, [2.0, 4.0]),  # shared until the first is done at 2, then the rest alone
        ([2.0], [5.0, 1.0], 1, [2.0, 7.0, 8.0]),  # one after the other
        ([1.0, 2.0], [1.0], 2, [2.0, 4.0, 4.0]),
        ([], [2.0, 2.0], 4, [4.0, 4.0]),
        ([0.0, 1.0], [], 2, [0.0, 1.0]),
    ],
)
def test_finish_times_of_shared_engines(running, waiting, slots, expected):
    assert finish_times(running, waiting, slots) == pytest.approx(expected)


def request(**fields):
    return GenerateRequest(**fields).validate(MANIFEST)


def test_costs_are_known_per_shape_once_measured():
    costs, usual = Costs(), request(num_inference_steps=10)
    assert costs.seconds(usual) is None
    costs.learn(usual, denoise_s=10.0, total_s=14.0, sharing=2.0)
    assert costs.seconds(usual) == pytest.approx(0.5 * 10 + 2)
    assert costs.seconds(request(num_inference_steps=30)) == pytest.approx(0.5 * 30 + 2)
    assert costs.seconds(request(num_inference_steps=10, sampler="heun")) == pytest.approx(0.5 * 19 + 2)
    assert costs.seconds(request(max_guidance_scale=1.0)) is None
    assert costs.seconds(request(num_frames=3)) is None


def test_costs_follow_what_is_measured_now():
    costs, usual = Costs(), request(num_inference_steps=1)
    for _ in range(30):
        costs.learn(usual, denoise_s=1.0, total_s=1.0, sharing=1.0)
    for _ in range(30):
        costs.learn(usual, denoise_s=3.0, total_s=3.0, sharing=1.0)
    assert costs.seconds(usual) == pytest.approx(3.0, rel=1e-3)


def test_the_shapes_served_last_are_remembered(monkeypatch):
    monkeypatch.setattr(forecast, "MOST_SHAPES", 3)
    ranged = replace(MANIFEST, frame_range=(1, 9))
    usual = GenerateRequest(num_frames=6).validate(ranged)
    costs = Costs()
    for frames in range(1, 10):
        other = GenerateRequest(num_frames=frames).validate(ranged)
        for each in (usual, other):
            costs.learn(each, denoise_s=1.0, total_s=2.0, sharing=1.0)
    known = [
        frames for frames in range(1, 10) if costs.seconds(replace(usual, num_frames=frames)) is not None
    ]
    assert known == [6, 8, 9]
    assert len(costs._rows) == 3
