"""Guidance weights: a ramp over the frames, summing to 1 over the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core.guidance import weights, with_unconditional

SCALE = st.floats(0.0, 30.0)


@given(SCALE, SCALE, st.integers(1, 64))
def test_rows_sum_to_one_in_every_frame(low, high, frames):
    rows = weights(low, high, frames)
    assert rows.dtype == np.float32
    assert rows.shape == (1 if high <= 1.0 else 2, frames)
    assert rows.sum(axis=0) == pytest.approx(np.ones(frames), abs=1e-5)


@given(SCALE, st.floats(1.0, 30.0, exclude_min=True), st.integers(2, 64))
def test_the_conditional_row_is_a_straight_ramp(low, high, frames):
    unconditional, conditional = weights(low, high, frames)
    expected = [low + (high - low) * frame / (frames - 1) for frame in range(frames)]
    assert conditional == pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)
    assert unconditional == pytest.approx(1 - np.array(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, 0.5), (3.0, 1.0)])
def test_a_maximum_of_at_most_one_is_no_guidance(low, high):
    assert np.array_equal(weights(low, high, 3), np.ones((1, 3), np.float32))


def test_one_frame_has_the_minimum():
    assert weights(1.5, 3.0, 1) == pytest.approx(np.array([[-0.5], [1.5]]))


@pytest.mark.parametrize("shape", [(8,), (4, 2, 3)])
def test_the_unconditional_row_is_zeros_and_first(shape):
    conditional = np.full(shape, 2.0, np.float32)
    assert np.array_equal(with_unconditional(conditional, 1), conditional[None])
    two = with_unconditional(conditional, 2)
    assert (two.shape, two.dtype) == ((2, *shape), np.float32)
    assert not two[0].any()
    assert np.array_equal(two[1], conditional)


@given(SCALE, st.floats(1.0, 30.0, exclude_min=True), st.integers(1, 25), st.integers(0, 99))
def test_the_weighted_sum_is_classifier_free_guidance(low, high, frames, seed):
    unconditional, conditional = np.random.default_rng(seed).standard_normal((2, frames))
    rows = weights(low, high, frames)
    scale = np.linspace(low, high, frames)
    expected = unconditional + scale * (conditional - unconditional)
    assert (rows * np.stack([unconditional, conditional])).sum(axis=0) == pytest.approx(expected, abs=1e-4)
