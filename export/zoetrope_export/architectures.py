"""Architectures of the SVD family, as far as a randomly initialised checkpoint needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a checkpoint. Widths are multiples of 32, the group count of diffusers' norms.

    A UNet level of exactly 32 channels is blind to the timestep and the added time ids: a norm over groups
    of one channel takes away the constant that they add to the channel.

    Attributes:
        unet_channels: width of each level of the UNet; every level but the last has attention.
        unet_heads: attention heads of each level.
        unet_plain: levels at the top without attention, whose scores a CPU has no memory for.
        unet_layers: residual blocks of each level.
        time_ids_dim: length of the sinusoidal embedding of each added time id.
        embedding_dim: E, length of the image embedding.
        num_frames: the trained number of frames.
        size: the trained frame size (height, width) in pixels.
        vae_channels: width of each level of the VAE; n levels make the factor 2^(n-1).
        vae_layers: residual blocks of each level.
        latent_channels: C.
        scaling_factor: latents of the UNet are VAE latents times this.
        clip_width, clip_layers, clip_heads, clip_patch: the CLIP vision tower.
        clip_activation: its activation, by transformers' name.
        sigma_min, sigma_max: the Karras schedule.
        half: whether the weights are stored in FP16.
    """

    unet_channels: tuple[int, ...]
    unet_heads: tuple[int, ...]
    unet_plain: int = 0
    unet_layers: int = 1
    time_ids_dim: int = 32
    embedding_dim: int = 64
    num_frames: int = 14
    size: tuple[int, int] = (128, 192)
    vae_channels: tuple[int, ...] = (32, 32, 64, 64)
    vae_layers: int = 1
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    clip_width: int = 64
    clip_layers: int = 2
    clip_heads: int = 2
    clip_patch: int = 32
    clip_activation: str = "gelu"
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    half: bool = False

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of one side per latent of one side."""
        return 1 << (len(self.vae_channels) - 1)


TINY = Architecture(unet_channels=(32, 64, 64), unet_heads=(1, 2, 2))
"""Small enough for a laptop without a GPU: seconds for a video."""

SVD = Architecture(
    unet_channels=(320, 640, 1280, 1280),
    unet_heads=(5, 10, 20, 20),
    unet_layers=2,
    time_ids_dim=256,
    embedding_dim=1024,
    num_frames=14,
    size=(576, 1024),
    vae_channels=(128, 256, 512, 512),
    vae_layers=2,
    clip_width=1280,
    clip_layers=32,
    clip_heads=16,
    clip_patch=14,
    half=True,
)
"""stabilityai/stable-video-diffusion-img2vid."""

SVD_XT = replace(SVD, num_frames=25)
"""stabilityai/stable-video-diffusion-img2vid-xt."""

ARCHITECTURES: Mapping[str, Architecture] = {"tiny": TINY, "svd": SVD, "svd-xt": SVD_XT}
"""The architectures by the name that `--like` takes."""
