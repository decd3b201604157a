"""What phase 2 trains: the image encoder and the UNet, as one EDM denoiser with SVD's conditioning."""

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .fields import FRAMES
from .start import silence_branches

CHANNELS, LATENTS = (64, 64, 128), 8
EMBEDDING = 128
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NORM_SPREAD, NORM_SHIFT = 1.15, 4.0
CLIP_SIZE = 224  # diffusers' pipeline has no other


def new_unet() -> UNetSpatioTemporalConditionModel:
    """An untrained UNet; attention only at the coarsest level, where it is cheap."""
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * LATENTS,
        out_channels=LATENTS,
        block_out_channels=CHANNELS,
        down_block_types=(
            "DownBlockSpatioTemporal",
            "DownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
        ),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        layers_per_block=1,
        cross_attention_dim=EMBEDDING,
        num_attention_heads=(2, 2, 4),
        num_frames=FRAMES,
        sample_size=40,
    )


def new_image_encoder() -> CLIPVisionModelWithProjection:
    """An untrained CLIP vision tower of two layers."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=3,
            patch_size=32,
            image_size=CLIP_SIZE,
            projection_dim=EMBEDDING,
        )
    )


@torch.no_grad()
def start_static(unet: UNetSpatioTemporalConditionModel, scale: float) -> None:
    """The untrained UNet, under strong noise, predicts that every frame is the picture.

    For v-prediction that is -scale * image latents. They run through the skip connection of the first
    convolution: channel 2k is image + noisy latents, 2k + 1 the noisy ones alone, so that the last GroupNorm
    (of pairs) keeps their difference, the image, with its mean.
    """
    silence_branches(unet)
    for channel in range(LATENTS):
        carry_static(unet, channel, scale)


def carry_static(unet: UNetSpatioTemporalConditionModel, channel: int, scale: float) -> None:
    """Gives a latent channel its straight path through two hidden channels, which nothing else writes."""
    last = unet.up_blocks[-1].resnets[-1]
    shortcut = last.spatial_res_block.conv_shortcut
    image, noisy = 2 * channel, 2 * channel + 1
    for row in (image, noisy):
        for conv in (unet.conv_in, shortcut, last.spatial_res_block.conv2, last.temporal_res_block.conv2):
            conv.weight[row], conv.bias[row] = 0, 0
        shortcut.weight[row, CHANNELS[0] + row] = 1
        unet.conv_in.weight[row, channel, 1, 1] = 1
        unet.conv_norm_out.weight[row], unet.conv_norm_out.bias[row] = NORM_SPREAD, NORM_SHIFT
        unet.conv_out.weight[:, row] = 0
    unet.conv_in.weight[image, LATENTS + channel, 1, 1] = scale
    unet.conv_out.weight[channel], unet.conv_out.bias[channel] = 0, 0
    unet.conv_out.weight[channel, image, 1, 1] = -1
    unet.conv_out.weight[channel, noisy, 1, 1] = 1


def clip_pixels(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures f32 [B,3,H,W] in 0..1 as the pipeline feeds them to CLIP: f32 [B,3,224,224]."""
    resize = pipeline_stable_video_diffusion._resize_with_antialiasing
    pixels = (resize(pictures * 2 - 1, (CLIP_SIZE, CLIP_SIZE)) + 1) / 2
    mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


class Denoiser(nn.Module):
    """D(x, sigma): the UNet under EDM preconditioning with v-prediction (Karras et al., 2022; SVD, 2023)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.unet, self.image_encoder = new_unet(), new_image_encoder()
        start_static(self.unet, scale)

    def forward(
        self,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        image_latents: torch.Tensor,
        pictures: torch.Tensor,
        time_ids: torch.Tensor,
        keep: torch.Tensor,
    ) -> torch.Tensor:
        """The denoised latents f32 [B,F,C,h,w].

        Args:
            noisy: f32 [B,F,C,h,w], scaled latents plus noise.
            sigma: f32 [B].
            image_latents: f32 [B,C,h,w], not scaled.
            pictures: f32 [B,3,H,W] in 0..1, the first frames.
            time_ids: f32 [B,3], fps - 1, motion bucket, noise augmentation.
            keep: f32 [B], 0 where both image conditions are dropped.
        """
        embedding = self.image_encoder(pixel_values=clip_pixels(pictures)).image_embeds[:, None] * keep.view(
            -1, 1, 1
        )
        image = (image_latents * keep.view(-1, 1, 1, 1))[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
        variance = sigma.view(-1, 1, 1, 1, 1) ** 2 + 1
        stacked = torch.cat([noisy / variance.sqrt(), image], dim=2)
        predicted = self.unet(stacked, 0.25 * sigma.log(), embedding, time_ids).sample.float()
        return noisy / variance - predicted * sigma.view(-1, 1, 1, 1, 1) / variance.sqrt()


@torch.no_grad()
def adopt(denoiser: Denoiser, checkpoint: Path, scale: float) -> None:
    """Takes the weights of a trained checkpoint with fewer latents; the new ones start static."""
    known = UNetSpatioTemporalConditionModel.from_pretrained(checkpoint, subfolder="unet").float()
    few, weights, fresh = known.config.out_channels, known.state_dict(), denoiser.unet.state_dict()
    fresh.update({name: weight for name, weight in weights.items() if weight.shape == fresh[name].shape})
    reader = fresh["conv_in.weight"].zero_()
    reader[:, :few] = weights["conv_in.weight"][:, :few]
    reader[:, LATENTS : LATENTS + few] = weights["conv_in.weight"][:, few:]
    fresh["conv_out.weight"].zero_()[:few] = weights["conv_out.weight"]
    fresh["conv_out.bias"].zero_()[:few] = weights["conv_out.bias"]
    denoiser.unet.load_state_dict(fresh)
    for channel in range(few, LATENTS):
        carry_static(denoiser.unet, channel, scale)
    encoder = CLIPVisionModelWithProjection.from_pretrained(checkpoint, subfolder="image_encoder").float()
    denoiser.image_encoder.load_state_dict(encoder.state_dict())


def v_loss(denoised: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The squared error of the v-prediction for each of the batch: [B]."""
    weight = (sigma**2 + 1) / sigma**2
    return weight * F.mse_loss(denoised, clean, reduction="none").mean(dim=(1, 2, 3, 4))
