"""The smallest network of Stable Video Diffusion's architecture: for tests that export it in seconds."""

from zoetrope_export.architectures import Architecture

SMALLEST = Architecture(
    unet_channels=(32, 64),
    unet_heads=(1, 2),
    embedding_dim=32,
    vae_channels=(32, 32),
    clip_width=32,
    clip_layers=1,
    clip_heads=1,
    clip_patch=112,
)
