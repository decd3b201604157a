"""The four stages as torch modules with exactly the tensors of `zoetrope_core.specs.STAGES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_DECODER_FP32, VAE_ENCODER
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.rewrites import rewrite_decoder, rewrite_unet

_TRACED_FRAMES = 4
"""Exporters trace at no more frames than this, however few are to be served."""
_FINITE_BOUND = 1e30
"""What counts as finite: far beyond any pixel, and exact enough in BF16, whose infinity begins at 3.4e38."""


class ImageEncoder(nn.Module):
    """The stage `image_encoder`."""

    def __init__(self, clip: Any) -> None:
        """Takes a `CLIPVisionModelWithProjection`."""
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels f32 [B,3,S,S] to image embeddings f32 [B,E]."""
        embeds: Tensor = self.clip(pixel_values=pixel_values).image_embeds
        return embeds


class VaeEncoder(nn.Module):
    """The stage `vae_encoder`."""

    def __init__(self, vae: Any) -> None:
        """Takes an `AutoencoderKLTemporalDecoder`."""
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.channels = vae.config.latent_channels

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels f32 [B,3,H,W] in -1..1 to the mode of the posterior f32 [B,C,h,w], not scaled."""
        moments: Tensor = self.quant_conv(self.encoder(pixels))
        return moments[:, : self.channels]


class Unet(nn.Module):
    """The stage `unet`: a Karras denoiser with guidance inside.

    The scalings are those of Karras et al. 2022 (arXiv 2206.00364), table 1, column "ours", for
    sigma_data = 1 and a network that predicts v, as `EulerDiscreteScheduler.step` has them.
    """

    def __init__(self, unet: Any) -> None:
        """Takes a `UNetSpatioTemporalConditionModel`, rewritten or not."""
        super().__init__()
        self.unet = unet

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        image_latents: Tensor,
        image_embeds: Tensor,
        added_time_ids: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """The estimate of the clean latents.

        Args:
            latents: f32 [B,F,C,h,w], noisy.
            sigma: f32 [B,1].
            image_latents: f32 [B,K,C,h,w].
            image_embeds: f32 [B,K,E].
            added_time_ids: f32 [B,3].
            weights: f32 [B,K,F], summing to 1 over K.

        Returns:
            f32 [B,F,C,h,w].
        """
        batch, frames, channels, height, width = latents.shape
        rows = image_latents.shape[1]
        s = sigma.reshape(batch, 1, 1, 1, 1)
        c_in = torch.rsqrt(s * s + 1.0)
        noisy = (latents * c_in).unsqueeze(1).expand(batch, rows, frames, channels, height, width)
        image = image_latents.unsqueeze(2).expand(batch, rows, frames, channels, height, width)
        velocity = self.unet(
            torch.cat([noisy, image], dim=3).flatten(0, 1),
            (0.25 * torch.log(sigma)).expand(batch, rows).flatten(),
            encoder_hidden_states=image_embeds.flatten(0, 1).unsqueeze(1),
            added_time_ids=added_time_ids.unsqueeze(1).expand(batch, rows, 3).flatten(0, 1),
            return_dict=False,
        )[0].reshape(batch, rows, frames, channels, height, width)
        guided = (velocity * weights[..., None, None, None]).sum(1)
        denoised: Tensor = latents * (c_in * c_in) - guided * (s * c_in)
        return denoised


class VaeDecoder(nn.Module):
    """The stage `vae_decoder`."""

    def __init__(self, vae: Any) -> None:
        """Takes an `AutoencoderKLTemporalDecoder`, rewritten or not."""
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes one chunk of frames.

        Args:
            latents: f32 [B,f,C,h,w], already divided by the scaling factor.

        Returns:
            Frames u8 [B,f,H,W,3], rounded as diffusers' `VaeImageProcessor.postprocess` and
            `numpy_to_pil` do, and whether all of a video was finite, bool [B,1]. The cast to uint8 comes
            last: TensorRT knows uint8 at the edge of a network only.
        """
        batch, frames = latents.shape[:2]
        indicator = torch.zeros(batch, frames, dtype=latents.dtype, device=latents.device)
        decoded = self.decoder(latents.flatten(0, 1), image_only_indicator=indicator, num_frames=frames)
        decoded = decoded.reshape(batch, frames, *decoded.shape[1:])
        # A comparison with NaN is false, in every engine and whatever a clamp would make of the NaN.
        bounded = (decoded.abs() < _FINITE_BOUND).to(torch.float32)
        finite = bounded.flatten(1).amin(dim=1, keepdim=True) > 0.5
        levels = torch.round((decoded * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0)
        return levels.permute(0, 1, 3, 4, 2).to(torch.uint8), finite


def _image_encoder(checkpoint: Checkpoint, max_frames: int | None) -> nn.Module:
    return ImageEncoder(checkpoint.image_encoder())


def _vae_encoder(checkpoint: Checkpoint, max_frames: int | None) -> nn.Module:
    return VaeEncoder(checkpoint.vae())


def _unet(checkpoint: Checkpoint, max_frames: int | None) -> nn.Module:
    most = max(max_frames or checkpoint.num_frames, _TRACED_FRAMES)
    return Unet(rewrite_unet(checkpoint.unet(), max_frames=most))


def _vae_decoder(checkpoint: Checkpoint, max_frames: int | None) -> nn.Module:
    return VaeDecoder(rewrite_decoder(checkpoint.vae()))


_BUILDERS: Mapping[str, Callable[[Checkpoint, int | None], nn.Module]] = {
    IMAGE_ENCODER.name: _image_encoder,
    VAE_ENCODER.name: _vae_encoder,
    UNET.name: _unet,
    VAE_DECODER.name: _vae_decoder,
    VAE_DECODER_FP32.name: _vae_decoder,
}


def stage_module(checkpoint: Checkpoint, stage: str, *, max_frames: int | None = None) -> nn.Module:
    """The module of a stage with the checkpoint's weights, rewritten, FP32, in evaluation mode.

    Args:
        checkpoint: the checkpoint.
        stage: the stage's name.
        max_frames: the most frames that the UNet is to take; None for the checkpoint's own count.
    """
    return _BUILDERS[stage](checkpoint, max_frames).eval().requires_grad_(False)
