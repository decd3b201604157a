"""Seeded noise: the same everywhere and under numpy 1.26 and 2.x, independent between seeds and streams."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core.latents import (
    AUGMENTATION,
    INITIAL,
    augment,
    augmentation_noise,
    initial_noise,
    noise,
    time_ids,
)

SEED = st.integers(0, 2**63 - 1)
GOLDEN = [
    (0, 0, [-0.149321914, -1.372316122, 0.007864747, -0.023257872, -0.079818115], "1922eda2dfd850ac"),
    (0, 1, [-1.449684381, 1.372538447, -1.763652563, -0.899454534, 1.614002347], "d2a740fabbf179f8"),
    (7, 1, [-0.189539209, -0.411073476, -0.004353286, 1.529875398, -1.715139747], "432dda942f0ad729"),
    (2**63 - 1, 0, [0.111670710, 0.582058430, -0.100038923, -2.227457285, -0.096557110], "cd4773f03f72a48a"),
]


@pytest.mark.parametrize(("seed", "stream", "first", "digest"), GOLDEN)
def test_golden_values(seed, stream, first, digest):
    assert noise(seed, stream, (5,)) == pytest.approx(np.array(first), rel=1e-6)
    assert hashlib.sha256(noise(seed, stream, (3, 4, 5, 6)).tobytes()).hexdigest()[:16] == digest


@given(SEED, st.sampled_from([AUGMENTATION, INITIAL]))
def test_the_same_seed_gives_the_same_noise(seed, stream):
    first, second = noise(seed, stream, (3, 5)), noise(seed, stream, (3, 5))
    assert first.dtype == np.float32
    assert np.array_equal(first, second)


def test_seeds_and_streams_are_independent():
    seeds = (0, 1, 2, 7, 2**32 - 1, 2**32, 2**32 + 1, 2**32 + 7, 2**33, 2**62, 2**63 - 1)
    draws = [noise(seed, stream, (4096,)) for seed in seeds for stream in (AUGMENTATION, INITIAL)]
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


def test_noise_is_standard_normal():
    sample = noise(3, INITIAL, (100_000,)).astype(np.float64)
    assert sample.mean() == pytest.approx(0, abs=0.02)
    assert sample.std() == pytest.approx(1, abs=0.01)
    assert (sample**4).mean() == pytest.approx(3, abs=0.15)


def test_the_global_state_of_numpy_is_neither_read_nor_changed():
    np.random.seed(1)
    first, before = noise(5, INITIAL, (4,)), np.random.get_state()[1].copy()
    np.random.seed(2)
    assert np.array_equal(noise(5, INITIAL, (4,)), first)
    np.random.seed(1)
    assert np.array_equal(np.random.get_state()[1], before)


def test_augmentation_adds_noise_of_its_strength():
    pixels = np.linspace(-1, 1, 3 * 64 * 64, dtype=np.float32).reshape(1, 3, 64, 64)
    grain = augmentation_noise((64, 64), seed=9)
    augmented = augment(pixels, 0.02, grain)
    assert (augmented.dtype, augmented.shape) == (np.float32, pixels.shape)
    assert (augmented - pixels).std() == pytest.approx(0.02, rel=0.05)
    assert augmented - pixels == pytest.approx(0.02 * noise(9, AUGMENTATION, pixels.shape), abs=1e-6)
    assert np.array_equal(augment(pixels, 0.0, grain), pixels)


def test_initial_noise_has_the_variance_of_data_and_noise():
    sample = initial_noise((25, 4, 8, 8), 3.0, seed=1)
    assert (sample.dtype, sample.shape) == (np.float32, (25, 4, 8, 8))
    assert sample == pytest.approx(noise(1, INITIAL, (25, 4, 8, 8)) * 10**0.5, rel=1e-6)


def test_the_augmentation_does_not_touch_the_initial_noise():
    one = augmentation_noise((8, 8), seed=4).ravel()
    other = initial_noise((1, 3, 8, 8), 0.0, seed=4).ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


@pytest.mark.parametrize("sigma_max", [700, 700.0, np.float32(700)])
def test_the_type_of_sigma_does_not_matter(sigma_max):
    assert initial_noise((2,), sigma_max, 0).dtype == np.float32
    assert initial_noise((2,), sigma_max, 0) == pytest.approx(noise(0, INITIAL, (2,)) * 700.000714, rel=1e-6)


def test_time_ids_hold_fps_minus_one():
    ids = time_ids(7, 127, 0.02)
    assert ids.dtype == np.float32
    assert ids.tolist() == [6.0, 127.0, np.float32(0.02)]
