"""Where the autoencoder starts: as a small picture and its bilinear enlargement, not as noise.

Every residual branch starts at zero. Along the straight path run the three colours: averaged by the
downsampling convolutions, turned into luminance and two colour differences as latents, interpolated by the
upsampling ones. The last GroupNorms would remove each group's mean; two constants beside each colour, +K
and -K, fill its group, so that the norm is nearly linear and the mean can be recovered. Minutes on a CPU are
spent on detail this way, not on finding out that pictures are smooth.
"""

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, TemporalResnetBlock, Upsample2D
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

CONSTANT, SHIFT, GROUP = 4.0, 8.0, 3
QUIET = -9.0  # the logarithm of the latents' variance
COLOURS = torch.tensor([[2 / 3, 2 / 3, 2 / 3], [2.5, 0.0, -2.5], [-1.25, 2.5, -1.25]])  # latents from R, G, B


@torch.no_grad()
def straighten(vae: AutoencoderKLTemporalDecoder) -> None:
    """Sets the weights in place; needs widths of 96, so that a normalisation group has three channels."""
    silence_branches(vae)
    carry(vae.encoder.conv_in, torch.eye(3), tap(3, [0, 1, 0]))
    carry(vae.decoder.conv_in, COLOURS.inverse(), tap(3, [0, 1, 0]))
    for module in vae.modules():
        if isinstance(module, Downsample2D):
            carry(module.conv, torch.eye(3), tap(3, [0.5, 0.5, 0]), strided=True)
        if isinstance(module, Upsample2D):
            carry(module.conv, torch.eye(3), tap(3, [0.25, 0.5, 0.25]), strided=True)
    read(vae.encoder.conv_norm_out, vae.encoder.conv_out, COLOURS)
    read(vae.decoder.conv_norm_out, vae.decoder.conv_out, torch.eye(3))
    channels = vae.config.latent_channels
    vae.encoder.conv_out.weight[channels:] = 0
    vae.encoder.conv_out.bias[channels:] = QUIET
    nn.init.dirac_(vae.quant_conv.weight)
    nn.init.zeros_(vae.quant_conv.bias)
    nn.init.dirac_(vae.decoder.time_conv_out.weight)
    nn.init.zeros_(vae.decoder.time_conv_out.bias)


def silence_branches(model: nn.Module) -> None:
    """Residual branches start at zero."""
    for module in model.modules():
        if isinstance(module, ResnetBlock2D | TemporalResnetBlock):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
        if isinstance(module, TransformerSpatioTemporalModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
        if isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
            nn.init.zeros_(module.to_out[0].bias)


def tap(size: int, weights: list[float]) -> torch.Tensor:
    """The outer product of a one-dimensional filter with itself, f32 [size,size]."""
    line = torch.tensor(weights[:size])
    return line[:, None] * line


def carry(conv: nn.Conv2d, matrix: torch.Tensor, kernel: torch.Tensor, strided: bool = False) -> None:
    """Colours pass through `conv` by a matrix and a filter; the constants beside them come from its bias."""
    step = GROUP if strided else 1
    for colour in range(3):
        row = colour * GROUP
        conv.weight[row : row + GROUP] = 0
        conv.bias[row : row + GROUP] = torch.tensor([0.0, CONSTANT, -CONSTANT])
        for source in range(3):
            conv.weight[row, source * step] = matrix[colour, source] * kernel


def read(norm: nn.GroupNorm, conv: nn.Conv2d, matrix: torch.Tensor) -> None:
    """Makes GroupNorm, SiLU and `conv` return the colours times a matrix."""
    norm.weight[: 3 * GROUP] = CONSTANT * (2 / 3) ** 0.5
    norm.bias[: 3 * GROUP] = SHIFT
    conv.weight[:3] = 0
    conv.bias[:3] = 0
    for colour in range(3):
        for source in range(3):
            weights = torch.tensor([1.0, -0.5, -0.5]) * matrix[colour, source]
            conv.weight[colour, source * GROUP : (source + 1) * GROUP, 1, 1] = weights


class Straight(nn.Module):
    """Stands for a residual block whose branch is zero."""

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Returns its input."""
        return hidden


def slim(vae: AutoencoderKLTemporalDecoder) -> AutoencoderKLTemporalDecoder:
    """Takes out, in place, the branches at full and half resolution that stay zero in a short training.

    They cost more than half of the time. `widen` puts them back for the checkpoint: the outputs are the same,
    and a longer training may use them.
    """
    for block in vae.encoder.down_blocks[:2]:
        block.resnets[0] = Straight()
    last = vae.decoder.up_blocks[-1]
    last.resnets[0], last.resnets[1].temporal_res_block = Straight(), Straight()
    return vae


def widen(
    slimmed: AutoencoderKLTemporalDecoder, whole: AutoencoderKLTemporalDecoder
) -> AutoencoderKLTemporalDecoder:
    """Loads the weights of a slimmed autoencoder into a straightened whole one, which computes the same."""
    unexpected = whole.load_state_dict(slimmed.state_dict(), strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"not weights of this autoencoder: {unexpected}")
    whole.register_to_config(scaling_factor=slimmed.config.scaling_factor)
    return whole
