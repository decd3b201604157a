"""What the autoencoder is judged by in training: pixels, gradients, and a model of what the eye sees.

The perceptual term needs no downloaded network. As in Watson's model of visibility (Czolbe et al., "A loss
function for generative neural networks based on Watson's perceptual model", 2020), the error of each
coefficient of an 8x8 cosine transform counts in units of its visibility threshold, which rises with the
strength of that coefficient in the image: an error in the fur counts less than one in the sky.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812

BLOCK, MASKING, FLOOR = 8, 0.7, 0.02
GRADIENT_WEIGHT, SQUARE_WEIGHT, PERCEPTUAL_WEIGHT = 0.5, 4.0, 0.02
# Y, Cb, Cr of R, G, B in -1..1; the eye resolves colour less.
OPPONENT = torch.tensor([[0.299, 0.587, 0.114], [-0.084, -0.166, 0.25], [0.25, -0.209, -0.041]])


def cosines() -> torch.Tensor:
    """The orthonormal cosine transform of a block, f32 [BLOCK*BLOCK,1,BLOCK,BLOCK]."""
    n = torch.arange(BLOCK, dtype=torch.float32)
    basis = torch.cos((2 * n + 1) * n[:, None] * math.pi / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ux,vy->uvxy", basis, basis).reshape(BLOCK * BLOCK, 1, BLOCK, BLOCK)


def thresholds() -> torch.Tensor:
    """Visibility thresholds of the coefficients, f32 [BLOCK*BLOCK,1,1]: higher at high frequencies."""
    n = torch.arange(BLOCK, dtype=torch.float32)
    frequency = (n[:, None].square() + n.square()).sqrt().reshape(-1, 1, 1)
    return FLOOR * (1 + (frequency / 4).square())


def coefficients(images: torch.Tensor) -> torch.Tensor:
    """Cosine coefficients of half-overlapping blocks: [B,3,H,W] to f32 [3*B,BLOCK*BLOCK,h,w]."""
    planes = torch.einsum("dc,bchw->bdhw", OPPONENT.to(images.device), images)
    return F.conv2d(planes.flatten(0, 1)[:, None], cosines().to(images.device), stride=BLOCK // 2)


def perceptual_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean error of the coefficients in units of their masked thresholds; [B,3,H,W] in -1..1 each."""
    true, limit = coefficients(wanted), thresholds().to(made.device)
    masked = limit * (true.abs() / limit).clamp(min=1) ** MASKING
    return ((coefficients(made) - true) / masked).abs().mean()


def reconstruction_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1, squares, L1 of the gradients at two scales, and the perceptual term; [B,3,H,W] each."""
    error = made - wanted
    loss = error.abs().mean() + SQUARE_WEIGHT * error.square().mean()
    for scale in (1, 2):
        small = F.avg_pool2d(error, scale) if scale > 1 else error
        gradients = small.diff(dim=2).abs().mean() + small.diff(dim=3).abs().mean()
        loss = loss + GRADIENT_WEIGHT * gradients
    return loss + PERCEPTUAL_WEIGHT * perceptual_loss(made, wanted)
