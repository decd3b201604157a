"""The stage contracts: the one truth that pbtxt files, exported graphs, adapters and tests derive from.

Symbols of a shape (the batch dimension B, one row per video, always comes first and is not written):

    K condition rows of one video (2 with classifier-free guidance, 1 without), F frames, f frames of one
    decoder chunk, H x W pixels, h x w latents, C latent channels, E embedding, S side of the CLIP input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Dim = int | str
DTYPES: Mapping[str, type[np.generic]] = {"FP32": np.float32, "UINT8": np.uint8, "BOOL": np.bool_}
"""Triton's names of the dtypes that stages use (without the `TYPE_` of a pbtxt file)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a stage: its name, Triton dtype and dims without the batch dimension."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The dims with `sizes` put in for the symbols; a symbol that `sizes` lacks becomes -1 (dynamic)."""
        return tuple(dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in self.dims)

    @property
    def numpy_dtype(self) -> type[np.generic]:
        """The numpy scalar type of the elements."""
        return DTYPES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """A compiled stage: its tensors, and whether videos of several requests may share one execution."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool = True

    def symbols_of(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The values of the symbols in the inputs' shapes, which have their batch dimension: that is B."""
        found: dict[str, int] = {}
        for spec in self.inputs:
            batch, *dims = shapes[spec.name]
            found["B"] = batch
            found.update(
                {dim: size for dim, size in zip(spec.dims, dims, strict=True) if isinstance(dim, str)}
            )
        return found


def _f32(name: str, *dims: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype="FP32", dims=dims)


IMAGE_ENCODER = StageSpec(
    name="image_encoder",
    inputs=(_f32("pixel_values", 3, "S", "S"),),
    outputs=(_f32("image_embeds", "E"),),
)
"""The CLIP image encoder: normalised pixels to an embedding."""

VAE_ENCODER = StageSpec(
    name="vae_encoder",
    inputs=(_f32("pixels", 3, "H", "W"),),
    outputs=(_f32("latents", "C", "h", "w"),),
)
"""The VAE encoder: pixels in -1..1 to the mode of the posterior, not scaled."""

UNET = StageSpec(
    name="unet",
    inputs=(
        _f32("latents", "F", "C", "h", "w"),
        _f32("sigma", 1),
        _f32("image_latents", "K", "C", "h", "w"),
        _f32("image_embeds", "K", "E"),
        _f32("added_time_ids", 3),
        _f32("weights", "K", "F"),
    ),
    outputs=(_f32("denoised", "F", "C", "h", "w"),),
)
"""A Karras denoiser with guidance inside: noisy latents and sigma to the estimate of the clean latents."""

VAE_DECODER = StageSpec(
    name="vae_decoder",
    inputs=(_f32("latents", "f", "C", "h", "w"),),
    outputs=(
        TensorSpec(name="frames", dtype="UINT8", dims=("f", "H", "W", 3)),
        TensorSpec(name="finite", dtype="BOOL", dims=(1,)),
    ),
    batchable=False,
)
"""The temporal VAE decoder: unscaled latents of one chunk to uint8 frames, and whether all was finite."""

STAGES: Mapping[str, StageSpec] = {
    stage.name: stage for stage in (IMAGE_ENCODER, VAE_ENCODER, UNET, VAE_DECODER)
}
"""The four stages by name, in the order in which a request meets them."""
VAE_DECODER_FP32 = replace(VAE_DECODER, name="vae_decoder_fp32")
"""The decoder at FP32, beside one of less: what overflows there is decoded here."""
ALL_STAGES: Mapping[str, StageSpec] = {**STAGES, VAE_DECODER_FP32.name: VAE_DECODER_FP32}
"""The stages that a repository may hold, by name."""
STATIC_SYMBOLS = ("C", "E", "S")
"""Symbols whose value is the checkpoint's, not the request's."""
