"""More latent channels for a trained autoencoder, without losing what it can do.

The first latents stay what they were. The new ones start as what a linear code of 4x4 pixels would add to
them (principal components of what is left), read out of the encoder's features by least squares; the decoder
doesn't read them yet.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderKLTemporalDecoder

from .start import QUIET

FACTOR, RIDGE = 4, 1e-3
STRENGTH = 0.7  # the standard deviation of the new latents


def features(vae: AutoencoderKLTemporalDecoder, images: torch.Tensor) -> torch.Tensor:
    """What the encoder's last convolution sees, a row for each latent position: f32 [N,C*9]."""
    seen: list[torch.Tensor] = []
    handle = vae.encoder.conv_out.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    vae.encode(images)
    handle.remove()
    return F.unfold(seen[0], 3, padding=1).transpose(1, 2).flatten(0, 1)


def residual_components(images: torch.Tensor, latents: torch.Tensor, count: int) -> torch.Tensor:
    """The main components of 4x4 patches that the latents do not explain, of unit variance: f32 [N,count]."""
    patches = F.unfold(images, FACTOR, stride=FACTOR).transpose(1, 2).flatten(0, 1)
    known = latents.permute(0, 2, 3, 1).flatten(0, 2)
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    left = patches - known @ torch.linalg.lstsq(known, patches).solution
    _, _, directions = torch.linalg.svd(left.T @ left)
    components = left @ directions[:count].T
    return components / components.std(dim=0)


def read_out(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [count,C*9] and biases [count] of the ridge regression of targets on inputs."""
    mean = inputs.mean(dim=0)
    centred = inputs - mean
    square = centred.T @ centred
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square))
    weights = torch.linalg.solve(square, centred.T @ targets).T
    return weights, targets.mean(dim=0) - weights @ mean


@torch.no_grad()
def grow(
    small: AutoencoderKLTemporalDecoder, large: AutoencoderKLTemporalDecoder, images: torch.Tensor
) -> None:
    """Gives `large`, which differs only in having more latents, what `small` knows; images [B,3,H,W]."""
    few, many = small.config.latent_channels, large.config.latent_channels
    known, fresh = small.state_dict(), large.state_dict()
    fresh.update({name: weight for name, weight in known.items() if weight.shape == fresh[name].shape})
    latents = small.encode(images).latent_dist.mode()
    targets = STRENGTH * residual_components(images, latents, many - few)
    weights, biases = read_out(features(small, images), targets)
    head, shift = fresh["encoder.conv_out.weight"], fresh["encoder.conv_out.bias"]
    head.zero_()
    shift.fill_(QUIET)
    head[:few], shift[:few] = known["encoder.conv_out.weight"][:few], known["encoder.conv_out.bias"][:few]
    head[few:many], shift[few:many] = weights.view(many - few, *head.shape[1:]), biases
    fresh["quant_conv.weight"].copy_(torch.eye(2 * many)[..., None, None])
    fresh["quant_conv.weight"][:few, :few] = known["quant_conv.weight"][:few, :few]
    fresh["quant_conv.bias"].zero_()[:few] = known["quant_conv.bias"][:few]
    reader = fresh["decoder.conv_in.weight"]
    reader.zero_()[:, :few] = known["decoder.conv_in.weight"]
    large.load_state_dict(fresh)
