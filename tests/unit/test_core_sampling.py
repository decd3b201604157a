"""The sampler against denoisers whose solution is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoetrope_core.sampling import SAMPLERS, dpmpp_2m, euler, heun, lcm
from zoetrope_core.schedules import karras

SHAPE = (3, 4, 2, 5)


def schedule(steps, sigma_max=80.0):
    return karras(steps, sigma_min=0.002, sigma_max=sigma_max)


def noise(seed=0, scale=80.0):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32) * np.float32(scale)


async def ignore(step):
    pass


def gaussian(std):
    """The exact denoiser of data that is normal with standard deviation `std`."""

    async def model(x, sigma):
        return x * np.float32(std**2 / (std**2 + sigma**2))

    return model


async def test_a_model_that_knows_the_answer_gives_it():
    target = noise(1, 1.0)

    async def model(x, sigma):
        return target

    assert np.array_equal(await euler(model, noise(), schedule(7), ignore), target)


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
async def test_euler_on_gaussian_data_is_a_product(steps):
    std, sigmas, x = 0.5, schedule(steps), noise()
    exact = sigmas.astype(np.float64)
    shrink = std**2 / (std**2 + exact[:-1] ** 2)
    keep = exact[1:] / exact[:-1]
    expected = x * np.prod(keep + (1 - keep) * shrink)
    assert await euler(gaussian(std), x, sigmas, ignore) == pytest.approx(expected, rel=1e-4)


async def test_euler_converges_to_the_flow_with_first_order():
    std, x = 0.5, noise()
    flow = x * std / np.sqrt(std**2 + 80.0**2)
    errors = []
    for steps in (100, 200, 400):
        result = await euler(gaussian(std), x, schedule(steps), ignore)
        errors.append(np.abs(result / flow - 1).max())
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


async def test_the_model_sees_each_sigma_once_and_never_zero():
    seen = []

    async def model(x, sigma):
        assert (x.dtype, x.shape, type(sigma)) == (np.float32, SHAPE, float)
        seen.append(sigma)
        return np.zeros_like(x)

    sigmas = schedule(9)
    await euler(model, noise(), sigmas, ignore)
    assert seen == sigmas[:-1].tolist()


async def test_steps_are_reported_in_order_after_they_ended():
    reported, sigmas = [], schedule(4)

    async def on_step(step):
        reported.append((step.number, step.count, step.sigma, step.x.copy(), step.denoised.copy()))

    result = await euler(gaussian(1.0), noise(), sigmas, on_step)
    assert [entry[:3] for entry in reported] == [(i + 1, 4, float(sigmas[i])) for i in range(4)]
    assert np.array_equal(reported[-1][3], result)
    assert np.array_equal(reported[-1][4], result)


async def test_raising_in_on_step_ends_the_loop():
    calls = []

    async def model(x, sigma):
        calls.append(sigma)
        return x * 0

    async def on_step(step):
        if step.number == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await euler(model, noise(), schedule(9), on_step)
    assert len(calls) == 2


async def test_the_callers_noise_is_not_changed():
    x = noise()
    kept = x.copy()
    await euler(gaussian(1.0), x, schedule(3), ignore)
    assert np.array_equal(x, kept)


async def test_a_model_may_return_what_it_was_given():
    async def model(x, sigma):
        return x

    x = noise()
    assert await euler(model, x, schedule(5), ignore) == pytest.approx(x, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(1, 30), st.floats(0.1, 4.0), st.integers(0, 2**32 - 1))
async def test_the_sampler_is_linear_where_the_model_is(steps, factor, seed):
    x, sigmas = noise(seed), schedule(steps)
    once = await euler(gaussian(0.5), x, sigmas, ignore)
    scaled = await euler(gaussian(0.5), x * np.float32(factor), sigmas, ignore)
    assert scaled == pytest.approx(once * factor, rel=1e-3, abs=1e-6)


async def draw(number):
    return noise(100 + number, 1.0)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
async def test_every_sampler_ends_where_the_model_points_and_reports_each_step(sampler, steps):
    target, x, reported = noise(1, 1.0), noise(), []
    kept = x.copy()

    async def model(x, sigma):
        assert (x.dtype, x.shape, type(sigma)) == (np.float32, SHAPE, float) and sigma > 0
        return target

    async def on_step(step):
        reported.append((step.number, step.count, step.sigma))

    sigmas = schedule(steps)
    result = await sampler(model, x, sigmas, on_step, draw)
    assert result == pytest.approx(target, rel=1e-6, abs=1e-6) and result.dtype == np.float32
    assert reported == [(i + 1, steps, float(sigmas[i])) for i in range(steps)]
    assert np.array_equal(x, kept)


@pytest.mark.parametrize("sampler", [heun, dpmpp_2m])
async def test_second_order_samplers_converge_to_the_flow_with_second_order(sampler):
    """In a schedule that ends above 0, where every step is of second order (but one)."""
    std, x, errors = 0.5, noise().astype(np.float64), []
    flow = np.sqrt((std**2 + 0.3**2) / (std**2 + 80.0**2))
    for steps in (40, 80, 160):
        sigmas = karras(steps, sigma_min=0.3, sigma_max=80.0)[:-1]
        result = await sampler(gaussian(std), x.astype(np.float32), sigmas, ignore)
        errors.append(np.abs(result / (x * flow) - 1).max())
    assert errors[0] / errors[1] > 3.5 and errors[1] / errors[2] > 3.5, "Euler has 2"


async def test_heun_is_algorithm_2_of_karras_et_al():
    sigmas, seen = schedule(6), []

    async def model(x, sigma):
        seen.append(sigma)
        return np.tanh(x / np.float32(1 + sigma)) * np.float32(0.8)

    def slope(x, t):
        return (x - np.tanh(x / (1 + t)) * 0.8) / t

    x = noise().astype(np.float64)
    for t, following in zip(sigmas[:-1].astype(float), sigmas[1:].astype(float), strict=True):
        d = slope(x, t)
        ahead = x + (following - t) * d
        x = ahead if following == 0 else x + (following - t) * (d + slope(ahead, following)) / 2
    assert await heun(model, noise(), sigmas, ignore) == pytest.approx(x, rel=1e-4, abs=1e-4)
    assert len(seen) == 2 * 6 - 1


async def test_lcm_noises_each_answer_to_the_next_sigma():
    seen = []

    async def model(x, sigma):
        seen.append(x.copy())
        return np.full_like(x, sigma)

    sigmas = schedule(3)
    await lcm(model, noise(), sigmas, ignore, draw)
    for number in (1, 2):
        expected = sigmas[number - 1] + sigmas[number] * noise(100 + number, 1.0)
        assert seen[number] == pytest.approx(expected, rel=1e-6)


async def test_lcm_without_noise_is_an_error():
    with pytest.raises(TypeError, match="draw"):
        await lcm(gaussian(1.0), noise(), schedule(2), ignore)
