"""Randomly initialised checkpoints in diffusers' layout: for tests, benchmarks and the first demo.

With torch's default initialisation conditions barely show in the frames (a forgotten `fps - 1` costs
54 dB, a zeroed timestep 64 dB), so nothing that compares frames would notice such mistakes. Here every
layer keeps the variance of its input, and the layers through which a condition enters have a gain of
their own.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zoetrope_export.architectures import Architecture
from zoetrope_export.checkpoint import CLIP_SIZE, INDEX_NAME, image_processor

_logger = logging.getLogger(__name__)

_BIAS_STD = 0.1
_GAINS: tuple[tuple[str, float], ...] = (
    (r"time_embedding\.|add_embedding\.|time_emb_proj|time_pos_embed", 2.0),
    (r"attn2\.to_v|attn2\.to_out", 1.5),
    (r"unet\.conv_out", 1.6),
    (r"decoder\.conv_out", 1.0),
    (r"decoder\.time_conv_out", 0.8),
    (r"position_embedding|class_embedding|patch_embedding", 1.0),
)
"""Gains of the weights whose name matches, first match first; all others have 1."""


def write_random_checkpoint(architecture: Architecture, directory: Path, *, seed: int = 0) -> None:
    """Writes a checkpoint that `StableVideoDiffusionPipeline.from_pretrained` and `zoetrope export` load.

    Args:
        architecture: what to make.
        directory: where to; created when it does not exist.
        seed: the same seed gives the same weights.
    """
    dtype = torch.float16 if architecture.half else torch.float32
    pipeline = StableVideoDiffusionPipeline(
        vae=initialised(random_vae(architecture), "vae", seed, dtype),
        image_encoder=initialised(random_image_encoder(architecture), "image_encoder", seed, dtype),
        unet=initialised(random_unet(architecture), "unet", seed, dtype),
        scheduler=scheduler(architecture),
        feature_extractor=image_processor(),
    )
    pipeline.save_pretrained(directory)
    _name_image_processor(directory / INDEX_NAME)
    _logger.info("wrote a random checkpoint to %s", directory)


def _name_image_processor(index: Path) -> None:
    """Names CLIP's image processor as published checkpoints do: its backends are news to many releases."""
    index.write_text(index.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))


def random_unet(architecture: Architecture) -> Any:
    """The UNet of the architecture, with whatever weights diffusers gives it."""
    levels = len(architecture.unet_channels)
    attention = [architecture.unet_plain <= level < levels - 1 for level in range(levels)]
    return UNetSpatioTemporalConditionModel(
        sample_size=architecture.size[1] // architecture.vae_scale_factor,
        in_channels=2 * architecture.latent_channels,
        out_channels=architecture.latent_channels,
        down_block_types=tuple(f"{'CrossAttn' * each}DownBlockSpatioTemporal" for each in attention),
        up_block_types=tuple(f"{'CrossAttn' * each}UpBlockSpatioTemporal" for each in reversed(attention)),
        block_out_channels=architecture.unet_channels,
        addition_time_embed_dim=architecture.time_ids_dim,
        projection_class_embeddings_input_dim=3 * architecture.time_ids_dim,
        layers_per_block=architecture.unet_layers,
        cross_attention_dim=architecture.embedding_dim,
        num_attention_heads=architecture.unet_heads,
        num_frames=architecture.num_frames,
    )


def random_vae(architecture: Architecture) -> Any:
    """The VAE of the architecture, with whatever weights diffusers gives it."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(architecture.vae_channels),
        block_out_channels=architecture.vae_channels,
        layers_per_block=architecture.vae_layers,
        latent_channels=architecture.latent_channels,
        sample_size=architecture.size[1],
        scaling_factor=architecture.scaling_factor,
        force_upcast=True,
    )


def random_image_encoder(architecture: Architecture) -> Any:
    """The CLIP image encoder of the architecture, with whatever weights transformers gives it."""
    config = CLIPVisionConfig(
        hidden_size=architecture.clip_width,
        intermediate_size=4 * architecture.clip_width,
        projection_dim=architecture.embedding_dim,
        num_hidden_layers=architecture.clip_layers,
        num_attention_heads=architecture.clip_heads,
        image_size=CLIP_SIZE,
        patch_size=architecture.clip_patch,
        hidden_act=architecture.clip_activation,
    )
    return CLIPVisionModelWithProjection(config)


def scheduler(architecture: Architecture) -> Any:
    """The scheduler with the configuration of Stable Video Diffusion."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=architecture.sigma_min,
        sigma_max=architecture.sigma_max,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )


@torch.no_grad()
def initialised(model: nn.Module, component: str, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model with random weights that depend on the seed alone, in evaluation mode.

    Args:
        model: a component as the libraries make it.
        component: its name in the pipeline, such as `unet`.
        seed: the seed.
        dtype: what the weights are stored as.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        _initialise(f"{component}.{name}", parameter, generator)
    return (model.half() if dtype == torch.float16 else model).eval()


def _initialise(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Weights keep the variance of their input times the gain; norms stay near the identity."""
    if name.endswith("mix_factor"):
        parameter.normal_(0.0, 0.5, generator=generator)
    elif parameter.ndim <= 1:
        centre = 1.0 if name.endswith("weight") else 0.0
        parameter.normal_(centre, _BIAS_STD, generator=generator)
    else:
        fan_in = parameter[0].numel()
        parameter.normal_(0.0, _gain(name) * fan_in**-0.5, generator=generator)


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)
