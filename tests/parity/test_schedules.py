"""Schedules and sampler against diffusers' EulerDiscreteScheduler in SVD's configuration."""

import numpy as np
import pytest

from zoetrope_core.latents import initial_noise, noise
from zoetrope_core.request import field_rules
from zoetrope_core.sampling import dpmpp_2m, euler
from zoetrope_core.schedules import AYS_SVD, ays, karras

torch = pytest.importorskip("torch")
schedulers = pytest.importorskip("diffusers.schedulers")

SVD = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
"""The scheduler_config.json of SVD's checkpoints."""
ENDS = {"sigma_min": SVD["sigma_min"], "sigma_max": SVD["sigma_max"]}
STEPS = [*range(1, 51), 75, 100, 200]
SHAPE = (5, 4, 3, 6)


def scheduler(steps=None, **changes):
    made = schedulers.EulerDiscreteScheduler(**{**SVD, **changes})
    if steps:
        made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("steps", STEPS)
def test_karras_is_diffusers_schedule(steps):
    reference = scheduler(steps).sigmas.numpy()
    assert reference.shape == (steps + 1,)
    assert karras(steps, **ENDS) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("ends", [(0.002, 80.0), (0.01, 14.6), (0.05, 700.0)])
@pytest.mark.parametrize("steps", [4, 25])
def test_karras_with_other_ends(steps, ends):
    low, high = ends
    reference = scheduler(steps, sigma_min=low, sigma_max=high).sigmas.numpy()
    assert karras(steps, sigma_min=low, sigma_max=high) == pytest.approx(reference, rel=1e-6)


def test_the_ays_sigmas_are_those_of_diffusers():
    published = schedulers.AysSchedules["StableDiffusionVideoSigmas"]
    assert list(AYS_SVD) == published
    assert ays(len(published) - 1, **ENDS) == pytest.approx(np.array(published), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 8, 25])
def test_the_timesteps_of_the_unet_are_a_quarter_of_the_log_of_sigma(steps):
    timesteps = scheduler(steps).timesteps.numpy()
    assert timesteps == pytest.approx(0.25 * np.log(karras(steps, **ENDS)[:-1]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("sigma_max", [700.0, 80.0, 1.0])
def test_the_initial_noise_has_diffusers_standard_deviation(sigma_max):
    made = scheduler(8, sigma_max=sigma_max)
    latents = initial_noise((3, 4), sigma_max, seed=5)
    assert latents == pytest.approx(noise(5, 1, (3, 4)) * float(made.init_noise_sigma), rel=1e-6)


def unet(scaled, c_noise):
    """Something that is not linear in either argument, as f32 numpy."""
    return np.tanh(scaled * np.float32(0.7) + np.float32(c_noise)) * np.float32(1.3)


async def denoiser(x, sigma):
    """The Karras preconditioning around `unet`: what the compiled UNet stage holds in its graph."""
    total = sigma**2 + 1
    output = unet(x / np.float32(total**0.5), 0.25 * np.log(sigma))
    return x / np.float32(total) - output * np.float32(sigma / total**0.5)


def by_diffusers(x, steps):
    """The loop of StableVideoDiffusionPipeline with diffusers' scheduler object; the latents of each step."""
    made, latents, history = scheduler(steps), torch.from_numpy(x), []
    for timestep in made.timesteps:
        scaled = made.scale_model_input(latents, timestep)
        output = torch.from_numpy(unet(scaled.numpy(), float(timestep)))
        latents = made.step(output, timestep, latents).prev_sample
        history.append(latents.numpy().copy())
    return history


async def ignore(step):
    pass


@pytest.mark.parametrize("steps", [1, 2, 5, 25, 50])
async def test_every_step_is_diffusers_step(steps):
    sigmas, before = karras(steps, **ENDS), initial_noise(SHAPE, SVD["sigma_max"], seed=3)
    for number, reference in enumerate(by_diffusers(before, steps)):
        ours = await euler(denoiser, before, sigmas[number : number + 2], ignore)
        # diffusers computes the derivative in f32, which costs digits of the size of the latents.
        tolerance = 1e-6 * np.abs(reference).max() + 5e-7 * np.abs(before).max()
        assert np.abs(ours - reference).max() < tolerance, f"step {number + 1} of {steps}"
        before = reference


@pytest.mark.parametrize("steps", [5, 25, 50])
async def test_the_whole_loop_is_diffusers_loop(steps):
    x = initial_noise(SHAPE, SVD["sigma_max"], seed=3)
    ours = await euler(denoiser, x, karras(steps, **ENDS), ignore)
    reference = by_diffusers(x, steps)[-1]
    assert np.abs(ours - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("forgotten", ["c_noise", "c_in"])
async def test_the_comparison_notices_a_wrong_denoiser(forgotten):
    async def wrong(x, sigma):
        total = sigma**2 + 1
        scaled = x if forgotten == "c_in" else x / np.float32(total**0.5)
        output = unet(scaled, 0.0 if forgotten == "c_noise" else 0.25 * np.log(sigma))
        return x / np.float32(total) - output * np.float32(sigma / total**0.5)

    x = initial_noise(SHAPE, SVD["sigma_max"], seed=3)
    result = await euler(wrong, x, karras(5, **ENDS), ignore)
    reference = by_diffusers(x, 5)[-1]
    assert np.abs(result - reference).max() > 1e-2 * np.abs(reference).max()


def test_every_step_count_of_a_request_is_compared():
    rule = field_rules()["num_inference_steps"]
    assert {rule.low, rule.high} <= set(STEPS)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
async def test_dpmpp_2m_is_diffusers_edm_solver(steps):
    made = schedulers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.002, sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction", rho=7.0
    )
    made.set_timesteps(steps)
    sigmas = made.sigmas.numpy()
    x = initial_noise(SHAPE, float(sigmas[0]), seed=3)
    latents = torch.from_numpy(x)
    for timestep in made.timesteps:
        scaled = made.scale_model_input(latents, timestep)
        output = torch.from_numpy(unet(scaled.numpy(), float(timestep)))
        latents = made.step(output, timestep, latents).prev_sample
    ours = await dpmpp_2m(denoiser, x, sigmas, ignore)
    reference = latents.numpy()
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()
