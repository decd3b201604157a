"""Schedules: arrays of falling sigmas that end in 0 (parity: tests/parity/test_schedules.py)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core.request import field_rules
from zoetrope_core.schedules import AYS_SVD, SCHEDULES, ays, karras

ENDS = {"sigma_min": 0.002, "sigma_max": 700.0}


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 200))
def test_sigmas_fall_from_the_noisiest_to_exactly_zero(name, steps):
    sigmas = SCHEDULES[name](steps, **ENDS, rho=7.0)
    assert (sigmas.dtype, sigmas.shape) == (np.float32, (steps + 1,))
    assert np.isfinite(sigmas).all()
    assert (np.diff(sigmas) < 0).all()
    assert sigmas[0] == pytest.approx(700.0, rel=1e-6)
    assert sigmas[-1] == 0.0


@given(st.integers(2, 200), st.floats(1e-3, 0.1), st.floats(1.0, 1000.0), st.floats(1.0, 10.0))
def test_karras_is_even_in_the_root_of_sigma(steps, low, high, rho):
    sigmas = karras(steps, sigma_min=low, sigma_max=high, rho=rho)
    assert sigmas[0] == pytest.approx(high, rel=1e-6)
    assert sigmas[-2] == pytest.approx(low, rel=1e-5)
    roots = sigmas[:-1].astype(np.float64) ** (1 / rho)
    assert np.diff(roots) == pytest.approx(np.full(steps - 1, (roots[-1] - roots[0]) / (steps - 1)), rel=1e-3)


def test_ays_at_10_steps_is_what_was_published():
    assert ays(10, **ENDS) == pytest.approx(np.float32(AYS_SVD), rel=1e-6)


def test_ays_at_other_step_counts_passes_through_the_published_sigmas():
    assert ays(19, **ENDS)[::2][:10] == pytest.approx(np.float32(AYS_SVD[:-1]), rel=1e-6)
    assert ays(2, **ENDS) == pytest.approx(np.float32([700.0, 0.034, 0.0]), rel=1e-6)
    between = ays(19, **ENDS)[1]
    assert between == pytest.approx((700.0 * 54.5) ** 0.5, rel=1e-6)


def test_a_request_can_name_every_schedule():
    assert set(field_rules()["schedule"].choices) == set(SCHEDULES)
