"""Mistakes that are easy to make with Stable Video Diffusion, each as a way to break the pipeline.

A mutation is a function of a `Setup` that returns a broken one; patches last as long as the stack.
"""

import copy
from contextlib import ExitStack
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np

from zoetrope_core import guidance, latents, schedules
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import STAGES
from zoetrope_export.engines import TorchEngine
from zoetrope_export.rewrites import TemporalConv2d
from zoetrope_server import pipeline
from zoetrope_server.stages import LocalStages


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A pipeline to break: its facts, the modules of its stages, and the class that calls them."""

    manifest: Manifest
    modules: dict
    stack: ExitStack
    stages: type = LocalStages

    def build(self):
        engines = {name: TorchEngine(module, STAGES[name]) for name, module in self.modules.items()}
        return self.stages(engines)

    def patch(self, owner, name, value):
        self.stack.enter_context(mock.patch.object(owner, name, value))
        return self

    def with_module(self, stage, change):
        """The setup with a changed copy of one stage's module."""
        module = copy.deepcopy(self.modules[stage])
        change(module)
        return replace(self, modules=self.modules | {stage: module})


def fps_not_reduced(setup):
    right = latents.time_ids
    return setup.patch(latents, "time_ids", lambda fps, *rest: right(fps + 1, *rest))


def time_ids_zeroed(setup):
    return setup.patch(latents, "time_ids", lambda *_: np.zeros(3, np.float32))


def time_ids_permuted(setup):
    right = latents.time_ids
    return setup.patch(latents, "time_ids", lambda *ids: right(*ids)[[1, 0, 2]])


def timestep_zeroed(setup):
    def change(module):
        module.unet.time_proj.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0,))

    return setup.with_module("unet", change)


def noise_after_the_vae(setup):
    class Late(LocalStages):
        async def encode_latents(self, pixels):
            encoded = await super().encode_latents(pixels)
            return latents_augment(encoded)

    strengths = []

    def keep(pixels, strength, noise):
        strengths.append(strength)
        return pixels

    def latents_augment(encoded):
        grain = latents.noise(0, latents.AUGMENTATION, encoded.shape)
        return encoded + np.float32(strengths[-1]) * grain

    return replace(setup.patch(latents, "augment", keep), stages=Late)


def _unconditional_not_zero(setup, ndim):
    right = guidance.with_unconditional

    def wrong(conditional, rows):
        return np.stack([conditional] * rows) if conditional.ndim == ndim else right(conditional, rows)

    return setup.patch(guidance, "with_unconditional", wrong)


def unconditional_embedding_not_zero(setup):
    return _unconditional_not_zero(setup, 1)


def unconditional_latents_not_zero(setup):
    return _unconditional_not_zero(setup, 3)


def guidance_constant(setup):
    right = guidance.weights
    return setup.patch(guidance, "weights", lambda low, high, frames: right(high, high, frames))


def scaling_factor_dropped(setup):
    return replace(setup, manifest=replace(setup.manifest, scaling_factor=1.0))


def scaling_factor_twice(setup):
    return replace(setup, manifest=replace(setup.manifest, scaling_factor=setup.manifest.scaling_factor**2))


def clip_not_normalised(setup):
    facts = replace(setup.manifest, clip_mean=(0.0, 0.0, 0.0), clip_std=(1.0, 1.0, 1.0))
    return replace(setup, manifest=facts)


def decoder_frame_count_wrong(setup):
    """The decoder takes each frame of a chunk for a video of its own."""

    class OneByOne(LocalStages):
        async def decode(self, latents):
            return np.concatenate([await LocalStages.decode(self, frame[None]) for frame in latents])

    return replace(setup, stages=OneByOne)


def sigmas_shifted(setup):
    right = schedules.SCHEDULES["karras"]
    wrong = {"karras": lambda steps, **ends: right(steps + 1, **ends)[1:]}
    return setup.patch(pipeline, "SCHEDULES", wrong)


def _flipped(module):
    for part in module.modules():
        if isinstance(part, TemporalConv2d):
            part.conv.weight.data = part.conv.weight.data.flip(2)


def temporal_convolution_transposed_unet(setup):
    return setup.with_module("unet", _flipped)


def temporal_convolution_transposed_decoder(setup):
    return setup.with_module("vae_decoder", _flipped)


MUTATIONS = {
    mutation.__name__: mutation
    for mutation in (
        fps_not_reduced,
        time_ids_zeroed,
        time_ids_permuted,
        timestep_zeroed,
        noise_after_the_vae,
        unconditional_embedding_not_zero,
        unconditional_latents_not_zero,
        guidance_constant,
        scaling_factor_dropped,
        scaling_factor_twice,
        clip_not_normalised,
        decoder_frame_count_wrong,
        sigmas_shifted,
        temporal_convolution_transposed_unet,
        temporal_convolution_transposed_decoder,
    )
}
