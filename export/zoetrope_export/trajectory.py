"""A short real generation through the PyTorch stages: realistic activations to compare engines on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zoetrope_core import guidance, image, latents
from zoetrope_core.manifest import Manifest
from zoetrope_core.sampling import Step, euler
from zoetrope_core.schedules import karras
from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_DECODER_FP32, VAE_ENCODER, Array
from zoetrope_server.engines import Engine

STEPS = 3
_SEED = 0
_STRENGTH = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One call of a stage: its inputs and what PyTorch made of them, with their batch dimension."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


class Recorder:
    """An engine that keeps what goes in and comes out."""

    def __init__(self, engine: Engine) -> None:
        """Takes the engine that computes."""
        self._engine = engine
        self.samples: list[Sample] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Computes the outputs of the stage and keeps a copy of both."""
        outputs = self._engine.run(inputs)
        kept = {name: array.copy() for name, array in inputs.items()}
        self.samples.append(Sample(inputs=kept, outputs=outputs))
        return outputs


class Trajectory:
    """One generation, run stage by stage in the order of `Manifest.stages`: one at a time is loaded."""

    def __init__(self, manifest: Manifest, picture: Array, *, num_frames: int) -> None:
        """Prepares a generation of `num_frames` frames from a picture u8 [H,W,3] of the frame size."""
        self._manifest, self._num_frames = manifest, num_frames
        self._frame = picture
        self._results: dict[str, Array] = {}

    def run(self, stage: str, engine: Engine) -> list[Sample]:
        """Runs one stage on what the stages before it made.

        Args:
            stage: the name of the stage.
            engine: the PyTorch stage.

        Returns:
            The calls of the stage: one, or one for each of the `STEPS` sigmas.
        """
        recorder = Recorder(engine)
        step = {
            IMAGE_ENCODER.name: self._encode_image,
            VAE_ENCODER.name: self._encode_latents,
            UNET.name: self._denoise,
            VAE_DECODER.name: self._decode,
            VAE_DECODER_FP32.name: self._decode,
        }[stage]
        self._results[stage] = step(recorder)
        return recorder.samples

    def _encode_image(self, engine: Engine) -> Array:
        facts = self._manifest
        pixels = image.for_clip(self._frame, facts.clip_size, facts.clip_mean, facts.clip_std)
        return _first(engine, {"pixel_values": pixels}, "image_embeds")

    def _encode_latents(self, engine: Engine) -> Array:
        height, width = self._frame.shape[:2]
        grain = latents.augmentation_noise((height, width), _SEED)
        pixels = latents.augment(image.for_vae(self._frame), _STRENGTH, grain)
        return _first(engine, {"pixels": pixels}, "latents")

    def _denoise(self, engine: Engine) -> Array:
        facts = self._manifest
        weights = guidance.weights(1.0, 3.0, self._num_frames)
        encoded, embedding = self._results[VAE_ENCODER.name], self._results[IMAGE_ENCODER.name]
        constants = {
            "image_latents": guidance.with_unconditional(encoded, len(weights)),
            "image_embeds": guidance.with_unconditional(embedding, len(weights)),
            "added_time_ids": latents.time_ids(7, 127, _STRENGTH),
            "weights": weights,
        }
        batched = {name: array[None] for name, array in constants.items()}

        async def model(x: Array, sigma: float) -> Array:
            inputs = {"latents": x[None], "sigma": np.array([[sigma]], np.float32)}
            return _first(engine, {**inputs, **batched}, "denoised")

        sigmas = karras(STEPS, sigma_min=facts.sigma_min, sigma_max=facts.sigma_max, rho=facts.rho)
        start = latents.initial_noise((self._num_frames, *encoded.shape), float(sigmas[0]), _SEED)
        return asyncio.run(euler(model, start, sigmas, _pass_on))

    def _decode(self, engine: Engine) -> Array:
        chunk = min(self._manifest.decode_chunk_size, self._num_frames)
        clean = self._results[UNET.name][:chunk] / np.float32(self._manifest.scaling_factor)
        return _first(engine, {"latents": clean[None]}, "frames")


def _first(engine: Engine, inputs: Mapping[str, Array], output: str) -> Array:
    """The output of the one video of a call, without the batch dimension."""
    video: Array = engine.run(inputs)[output][0]
    return video


async def _pass_on(step: Step) -> None:
    """Nothing is to be done after a step."""


def sample_picture(height: int, width: int) -> Array:
    """A picture with smooth areas, edges and texture: u8 [height,width,3]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    disc = ((y - 0.55) ** 2 + (x - 0.4) ** 2 < 0.06).astype(float)
    texture = np.random.default_rng(0).normal(0.0, 0.04, (height, width, 3))
    planes = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.8 - 0.5 * x * y], axis=-1)
    levels = planes * (1 - 0.7 * disc[..., None]) + texture
    picture: Array = (levels.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
    return picture
