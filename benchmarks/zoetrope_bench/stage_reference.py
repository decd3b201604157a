"""Diffusers' own modules, called as its pipeline calls them, and the floating point operations of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_ENCODER, Array
from zoetrope_export.checkpoint import Checkpoint

Call = Callable[[Any, Mapping[str, Tensor]], Tensor]


def _encode_image(clip: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    embeds: Tensor = clip(tensors["pixel_values"]).image_embeds
    return embeds


def _encode_latents(vae: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    latents: Tensor = vae.encode(tensors["pixels"]).latent_dist.mode()
    return latents


def _denoise(unet: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    velocity: Tensor = unet(
        tensors["sample"],
        tensors["timestep"],
        encoder_hidden_states=tensors["encoder_hidden_states"],
        added_time_ids=tensors["added_time_ids"],
        return_dict=False,
    )[0]
    return velocity


def _decode(vae: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    latents = tensors["latents"]
    frames: Tensor = vae.decode(latents, num_frames=len(latents)).sample
    return frames


_CALLS: Mapping[str, Call] = {
    IMAGE_ENCODER.name: _encode_image,
    VAE_ENCODER.name: _encode_latents,
    UNET.name: _denoise,
    VAE_DECODER.name: _decode,
}


def reference_call(stage: str) -> Call:
    """The call of diffusers' component that computes a stage; takes `reference_tensors`.

    The UNet's is one step of two rows, without the scalings and the guidance that the pipeline adds; the
    decoder's, one chunk, without the conversion to bytes. Our engines do these too.
    """
    return _CALLS[stage]


def reference_tensors(
    stage: str, inputs: Mapping[str, Array], device: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The inputs of a stage as diffusers' component takes them; the timestep stays FP32."""
    tensors = {name: torch.from_numpy(array).to(device, dtype) for name, array in inputs.items()}
    if stage == VAE_DECODER.name:
        return {"latents": tensors["latents"][0]}
    if stage != UNET.name:
        return tensors
    latents, image = tensors["latents"], tensors["image_latents"][0]
    rows, frames = len(image), latents.shape[1]
    noisy = latents.expand(rows, *latents.shape[1:])
    return {
        "sample": torch.cat([noisy, image[:, None].expand(rows, frames, *image.shape[1:])], dim=2),
        "timestep": (0.25 * torch.log(torch.from_numpy(inputs["sigma"][0, 0:1]))).to(device)[0],
        "encoder_hidden_states": tensors["image_embeds"][0][:, None],
        "added_time_ids": tensors["added_time_ids"].expand(rows, 3),
    }


def component(checkpoint: Checkpoint, stage: str) -> Any:
    """Diffusers' (or transformers') module behind a stage, with its weights, FP32."""
    if stage == IMAGE_ENCODER.name:
        return checkpoint.image_encoder()
    return checkpoint.unet() if stage == UNET.name else checkpoint.vae()


def hollow_component(checkpoint: Checkpoint, stage: str) -> Any:
    """The same module on the meta device: shapes without weights."""
    with torch.device("meta"):
        module = _untrained(checkpoint.directory, stage)
    return module.to("meta").eval()  # some parameters are made on the CPU in spite of the device above


def _untrained(checkpoint: Path, stage: str) -> Any:
    """The module behind a stage, as its configuration says."""
    if stage == IMAGE_ENCODER.name:
        return CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(checkpoint / "image_encoder"))
    if stage == UNET.name:
        unet = UNetSpatioTemporalConditionModel
        return unet.from_config(unet.load_config(checkpoint / "unet"))
    return AutoencoderKLTemporalDecoder.from_config(
        AutoencoderKLTemporalDecoder.load_config(checkpoint / "vae")
    )


def count_flops(module: Any, stage: str, inputs: Mapping[str, Array]) -> int:
    """Floating point operations of one call: two for each multiplication with its addition.

    Only convolutions, matrix products and attention are counted, as `FlopCounterMode` does.

    Args:
        module: the component, on the meta device; nothing is computed.
        stage: the stage's name.
        inputs: the stage's inputs, for their shapes.
    """
    tensors = reference_tensors(stage, inputs, "meta", torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reference_call(stage)(module, tensors)
    return int(counter.get_total_flops())
