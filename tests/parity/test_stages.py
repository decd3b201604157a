"""Each stage against diffusers' own modules: PyTorch stages and engines, batches, one and two rows."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from parity import lab

ENGINES = [("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
LEAST_DB = {"fp32": 80.0, "bf16": 40.0}

pytestmark = [
    pytest.mark.parametrize("case", lab.CASES),
    pytest.mark.parametrize(("engine", "precision"), ENGINES, ids=["-".join(each) for each in ENGINES]),
]


def draw(*shape, scale=1.0, seed=0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def close(expected, actual, least_db):
    assert expected.shape == actual.shape
    assert lab.psnr(expected, actual) >= least_db


@torch.inference_mode()
def test_image_encoder(bench, case, engine, precision):
    of = bench(case)
    pixels = draw(2, 3, 224, 224)
    expected = of.checkpoint.image_encoder()(torch.from_numpy(pixels)).image_embeds.numpy()
    actual = of.engines(engine, precision)["image_encoder"].run({"pixel_values": pixels})["image_embeds"]
    close(expected, actual, LEAST_DB["fp32"])


@torch.inference_mode()
def test_vae_encoder(bench, case, engine, precision):
    of = bench(case)
    pixels = draw(2, 3, *of.case.architecture.size, scale=0.5)
    expected = of.checkpoint.vae().encode(torch.from_numpy(pixels)).latent_dist.mode().numpy()
    actual = of.engines(engine, precision)["vae_encoder"].run({"pixels": pixels})["latents"]
    close(expected, actual, LEAST_DB["fp32"])


@torch.inference_mode()
def test_vae_decoder(bench, case, engine, precision):
    of = bench(case)
    shape = of.case.architecture
    height, width = of.manifest.latent_size(shape.size)
    scaled = torch.from_numpy(draw(1, 3, shape.latent_channels, height, width))
    vae = of.checkpoint.vae()
    decoded = vae.decode(scaled[0] / vae.config.scaling_factor, num_frames=3).sample
    images = VaeImageProcessor().postprocess(decoded, output_type="pil")
    expected = np.stack([np.asarray(image) for image in images])
    inputs = {"latents": scaled.numpy() / np.float32(of.manifest.scaling_factor)}
    actual = of.engines(engine, precision)["vae_decoder"].run(inputs)
    close(expected[None], actual["frames"], {"fp32": 70.0, "bf16": 40.0}[precision])
    assert actual["finite"].tolist() == [[True]]


@pytest.mark.parametrize("rows", [1, 2])
@torch.inference_mode()
def test_unet(bench, case, engine, precision, rows):
    """Two videos at different steps, each against one step of diffusers' loop of its own."""
    of = bench(case)
    inputs = unet_inputs(of, rows, sigmas=(0.9, 12.0))
    expected = np.stack(
        [one_step(of, rows, {k: torch.from_numpy(v[i]) for k, v in inputs.items()}) for i in (0, 1)]
    )
    actual = of.engines(engine, precision)["unet"].run(inputs)["denoised"]
    for video in (0, 1):
        close(expected[video], actual[video], LEAST_DB[precision])


def unet_inputs(of, rows, sigmas):
    shape, batch = of.case.architecture, len(sigmas)
    height, width = of.manifest.latent_size(shape.size)
    frames, channels = shape.num_frames, shape.latent_channels
    sigma = np.array(sigmas, np.float32)[:, None]
    ramp = np.linspace(1.0, 3.0, frames, dtype=np.float32)
    return {
        "latents": draw(batch, frames, channels, height, width) * np.hypot(1.0, sigma)[..., None, None, None],
        "sigma": sigma,
        "image_latents": draw(batch, rows, channels, height, width, seed=1),
        "image_embeds": draw(batch, rows, shape.embedding_dim, seed=2),
        "added_time_ids": np.array([[6, 127, 0.02], [11, 30, 0.3]], np.float32),
        "weights": np.stack([{1: [ramp * 0 + 1], 2: [1 - ramp, ramp]}[rows]] * batch).astype(np.float32),
    }


def one_step(of, rows, video):
    """The denoised latents of one video as diffusers' pipeline and scheduler compute them."""
    scheduler = EulerDiscreteScheduler.from_pretrained(of.checkpoint.directory, subfolder="scheduler")
    scheduler.set_timesteps(sigmas=[float(video["sigma"]), 0.0])
    (timestep,) = scheduler.timesteps
    latents = video["latents"][None]
    noisy = scheduler.scale_model_input(torch.cat([latents] * rows), timestep)
    image = video["image_latents"][:, None].expand(-1, latents.shape[1], -1, -1, -1)
    predicted = of.checkpoint.unet()(
        torch.cat([noisy, image], dim=2),
        timestep,
        encoder_hidden_states=video["image_embeds"][:, None],
        added_time_ids=video["added_time_ids"][None].expand(rows, -1),
    ).sample
    if rows == 2:
        unconditional, conditional = predicted.chunk(2)
        scale = video["weights"][1][None, :, None, None, None]
        predicted = unconditional + scale * (conditional - unconditional)
    return scheduler.step(predicted, timestep, latents).pred_original_sample[0].numpy()
