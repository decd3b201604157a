"""The seam between the pipeline and whatever computes the stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zoetrope_core.errors import NonFinite, StageFailed, ZoetropeError
from zoetrope_core.sampling import Denoiser
from zoetrope_core.specs import (
    IMAGE_ENCODER,
    UNET,
    VAE_DECODER,
    VAE_DECODER_FP32,
    VAE_ENCODER,
    Array,
    StageSpec,
)
from zoetrope_server.engines import Engine
from zoetrope_server.finite import require_finite

StageCall = Callable[[Mapping[str, Array]], Awaitable[dict[str, Array]]]
"""From the inputs of a stage that were not bound, with their batch dimension, to its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What stays the same over the steps of one video.

    Attributes:
        image_latents: f32 [K,C,h,w].
        image_embeds: f32 [K,E].
        added_time_ids: f32 [3].
        weights: f32 [K,F].
    """

    image_latents: Array
    image_embeds: Array
    added_time_ids: Array
    weights: Array

    def without_guidance(self) -> Conditioning:
        """The conditional row alone, with weight 1: K = 1, half of the work."""
        return Conditioning(
            image_latents=self.image_latents[-1:],
            image_embeds=self.image_embeds[-1:],
            added_time_ids=self.added_time_ids,
            weights=np.ones_like(self.weights[-1:]),
        )


class Stages(Protocol):
    """The compiled stages of one video; shapes without the batch dimension."""

    async def encode_image(self, pixel_values: Array) -> Array:
        """f32 [3,S,S] to the image embedding f32 [E]."""
        ...

    async def encode_latents(self, pixels: Array) -> Array:
        """f32 [3,H,W] in -1..1 to latents f32 [C,h,w], not scaled."""
        ...

    async def prepare(self, conditioning: Conditioning) -> Denoiser:
        """The denoiser of one video, with all that stays the same bound."""
        ...

    async def decode(self, latents: Array) -> Array:
        """Unscaled latents f32 [f,C,h,w] of one chunk to frames u8 [f,H,W,3]; raises NonFinite."""
        ...

    async def decode_fp32(self, latents: Array) -> Array:
        """The same at FP32, where the manifest says `fp32_decoder`."""
        ...


class ContractStages(ABC):
    """Stages over the tensors of the stage contracts; `bind` says how a stage is called."""

    @abstractmethod
    def bind(self, stage: StageSpec, constants: Mapping[str, Array]) -> StageCall:
        """A call of the stage with some inputs fixed for all calls."""

    async def encode_image(self, pixel_values: Array) -> Array:
        """See `Stages`."""
        outputs = await self.bind(IMAGE_ENCODER, {})({"pixel_values": pixel_values[None]})
        return require_finite(_first(outputs, "image_embeds"), IMAGE_ENCODER.name)

    async def encode_latents(self, pixels: Array) -> Array:
        """See `Stages`."""
        outputs = await self.bind(VAE_ENCODER, {})({"pixels": pixels[None]})
        return require_finite(_first(outputs, "latents"), VAE_ENCODER.name)

    async def prepare(self, conditioning: Conditioning) -> Denoiser:
        """See `Stages`."""
        names = ("image_latents", "image_embeds", "added_time_ids", "weights")
        call = self.bind(UNET, {name: getattr(conditioning, name)[None] for name in names})

        async def denoiser(x: Array, sigma: float) -> Array:
            outputs = await call({"latents": x[None], "sigma": np.array([[sigma]], np.float32)})
            return _first(outputs, "denoised")

        return denoiser

    async def decode(self, latents: Array) -> Array:
        """See `Stages`."""
        return await self._decode(VAE_DECODER, latents)

    async def decode_fp32(self, latents: Array) -> Array:
        """See `Stages`."""
        return await self._decode(VAE_DECODER_FP32, latents)

    async def _decode(self, decoder: StageSpec, latents: Array) -> Array:
        outputs = await self.bind(decoder, {})({"latents": latents[None]})
        if not outputs["finite"].all():
            raise NonFinite(f"{decoder.name} computed NaN or infinity", stage=decoder.name)
        return _first(outputs, "frames")


def _first(outputs: Mapping[str, Array], name: str) -> Array:
    """The output of the one video of the call, without the batch dimension."""
    video: Array = outputs[name][0]
    return video


class LocalStages(ContractStages):
    """Stages whose engines run in this process: parity tests, `zoetrope export`, profiling."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        """Takes the engine of each stage by the stage's name."""
        self._engines = engines

    def bind(self, stage: StageSpec, constants: Mapping[str, Array]) -> StageCall:
        """See `ContractStages`."""
        engine = self._engines[stage.name]

        async def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
            try:
                return engine.run({**constants, **inputs})
            except ZoetropeError:
                raise
            except Exception as error:
                raise StageFailed(f"{stage.name}: {error}", stage=stage.name) from error

        return call
