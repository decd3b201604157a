"""Phase 1: the autoencoder (`python -m demo.training.vae --out FOLDER`).

Factor 4, four channels. Losses that need no downloaded network: L1 on pixels and on their gradients at two
scales, a very small KL. In part of the steps the latents are warped and must decode to the warped picture
(Kouzelis et al., "EQ-VAE", 2025): latents that move like pictures are what the denoiser can learn to move.
"""

import logging
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
import typer
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from . import pictures, scenes
from .loop import Run, plot, set_learning_rate
from .pictures import Picture
from .start import slim, straighten, widen

logger = logging.getLogger(__name__)
CHANNELS = (96, 96, 96)
CROP, STILLS, CLIPS, CLIP_FRAMES, POOL = 64, 8, 2, 4, 120
REPORT_EVERY = 25
PEAK_RATE, STRAIGHT_RATE, KL_WEIGHT, GRADIENT_WEIGHT = 2e-4, 5e-6, 1e-6, 0.5


def new_vae() -> AutoencoderKLTemporalDecoder:
    """An untrained autoencoder: 3 -> 4 channels, factor 4."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        sample_size=scenes.HEIGHT,
        force_upcast=True,
    )
    straighten(vae)
    return vae


def fit(picture: torch.Tensor) -> torch.Tensor:
    """The middle of a picture at the frames' size: f32 [3,H,W] in 0..1."""
    scale = max(scenes.HEIGHT / picture.shape[1], scenes.WIDTH / picture.shape[2])
    size = [math.ceil(side * scale - 1e-6) for side in picture.shape[1:]]
    picture = F.interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - scenes.HEIGHT) // 2, (size[1] - scenes.WIDTH) // 2
    return picture[:, top : top + scenes.HEIGHT, left : left + scenes.WIDTH]


class Pool:
    """Still pictures from which crops are taken; `renew` replaces one, so that it never runs dry."""

    def __init__(self, photographs: list[torch.Tensor], seed: int) -> None:
        self.photographs = photographs
        self.pictures = [self.draw(np.random.default_rng((seed, index))) for index in range(POOL)]

    def draw(self, rng: np.random.Generator) -> torch.Tensor:
        """One picture u8 [3,*CANVAS]: a photograph's part, shapes, or a scene's frame."""
        if rng.random() < 0.7:
            return (scenes.still_picture(rng, self.photographs) * 255).byte()
        layers = scenes.SCENES[str(rng.choice(["clouds", "water", "objects"]))][0](rng, self.photographs)
        picture = layers[0].texture
        for layer in layers[1:]:
            picture = picture + (layer.texture - picture) * layer.mask
        return (picture.clamp(0, 1) * 255).byte()

    def renew(self, rng: np.random.Generator) -> None:
        """Replaces one picture."""
        self.pictures[rng.integers(POOL)] = self.draw(rng)

    def crops(self, rng: np.random.Generator) -> torch.Tensor:
        """Random crops f32 [STILLS,3,CROP,CROP] in -1..1."""
        return torch.stack([crop(self.pictures[rng.integers(POOL)][None], rng)[0] for _ in range(STILLS)])


def crop(frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same random part of all frames u8 [F,3,H,W], perhaps mirrored: f32 [F,3,CROP,CROP] in -1..1."""
    top, left = rng.integers(frames.shape[2] - CROP), rng.integers(frames.shape[3] - CROP)
    part = frames[:, :, top : top + CROP, left : left + CROP].float() / 127.5 - 1
    part = part.flip(3) if rng.random() < 0.5 else part
    return part.transpose(2, 3) if rng.random() < 0.3 else part


def clip_crops(step: int, photographs: list[torch.Tensor], rng: np.random.Generator) -> torch.Tensor:
    """Crops of clips f32 [CLIPS*CLIP_FRAMES,3,CROP,CROP] in -1..1."""
    clips = [scenes.make_clip(step * CLIPS + index, photographs) for index in range(CLIPS)]
    starts = [rng.integers(scenes.FRAMES - CLIP_FRAMES) for _ in clips]
    cut = [(c.frames[s : s + CLIP_FRAMES] * 255).byte() for c, s in zip(clips, starts, strict=True)]
    return torch.cat([crop(frames, rng) for frames in cut])


def warps(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Random small rotations, scalings and shifts, f32 [count,2,3] for `affine_grid`."""
    angle, scale = rng.uniform(-0.2, 0.2, count), rng.uniform(0.75, 1.1, count)
    shift = rng.uniform(-0.1, 0.1, (2, count))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.stack([np.stack([cosine, -sine, shift[0]], 1), np.stack([sine, cosine, shift[1]], 1)], 1)
    return torch.from_numpy(matrix.astype(np.float32))


def warp(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Images [B,C,h,w] under affine maps in relative coordinates: the same for pixels and for latents."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)


def reconstruction_loss(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """L1 plus L1 of the gradients at two scales; [B,3,H,W] each."""
    error = made - wanted
    loss = error.abs().mean() + 2 * error.square().mean()
    for scale in (1, 2):
        small = F.avg_pool2d(error, scale) if scale > 1 else error
        gradients = small.diff(dim=2).abs().mean() + small.diff(dim=3).abs().mean()
        loss = loss + GRADIENT_WEIGHT * gradients
    return loss


def vae_loss(
    vae: AutoencoderKLTemporalDecoder, images: torch.Tensor, frames: int, matrices: torch.Tensor | None
):
    """The loss of a batch [B,3,H,W] in -1..1, of clips of `frames`, and its plain mean squared error."""
    posterior = vae.encode(images).latent_dist
    latents = posterior.sample()
    if matrices is not None:
        latents, images = warp(latents, matrices), warp(images, matrices)
    made = vae.decode(latents, num_frames=frames).sample.float()
    loss = reconstruction_loss(made, images) + KL_WEIGHT * posterior.kl().float().mean()
    return loss, (made - images).square().mean().item() / 4


@torch.no_grad()
def ceiling(vae: nn.Module, picture: torch.Tensor) -> float:
    """PSNR in dB of a picture f32 [3,H,W] in 0..1 after encoding and decoding."""
    latents = vae.encode(picture[None] * 2 - 1).latent_dist.mode()
    made = (vae.decode(latents, num_frames=1).sample[0].float() / 2 + 0.5).clamp(0, 1)
    return float(-10 * torch.log10((made - picture).square().mean()))


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKLTemporalDecoder, pool: Pool) -> None:
    """Writes 1/std of the latents into the config."""
    latents = torch.cat(
        [vae.encode(pool.crops(np.random.default_rng(index))).latent_dist.mode() for index in range(8)]
    )
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    logger.info("latents: mean %s std %s", latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist())


def train_step(vae: AutoencoderKLTemporalDecoder, pool: Pool, step: int, device: str):
    """Every third batch holds clips, the others stills; a quarter of them is warped."""
    rng = np.random.default_rng((1, step))
    pool.renew(rng)
    of_clips = step % 3 == 2
    images = clip_crops(step, pool.photographs, rng) if of_clips else pool.crops(rng)
    matrices = warps(len(images), rng).to(device) if rng.random() < 0.25 else None
    if matrices is not None and of_clips:
        matrices = matrices[::CLIP_FRAMES].repeat_interleave(CLIP_FRAMES, dim=0)
    with torch.autocast(device, torch.bfloat16):
        return vae_loss(vae, images.to(device), CLIP_FRAMES if of_clips else 1, matrices)


def groups(vae: nn.Module) -> list[dict[str, Any]]:
    """The residual branches learn fast; the straight path, whose biases are large, slowly."""
    names = ("conv_in.", "conv_norm_out.", "conv_out.", "quant_conv.", "samplers.")
    straight = [weight for name, weight in vae.named_parameters() if any(part in name for part in names)]
    chosen = {id(weight) for weight in straight}
    branches = [weight for weight in vae.parameters() if id(weight) not in chosen]
    return [
        {"params": branches, "lr": PEAK_RATE, "peak": PEAK_RATE},
        {"params": straight, "lr": STRAIGHT_RATE, "peak": STRAIGHT_RATE},
    ]


def train(
    out: Annotated[Path, typer.Option(help="Folder for states, log and result.")],
    minutes: Annotated[float, typer.Option(help="Budget of training time.")] = 30,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Trains the autoencoder; run again with the same folder to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, vae = Run(out, minutes), slim(new_vae()).to(device)
    optimizer = torch.optim.AdamW(groups(vae), betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    run.load(vae=vae, optimizer=optimizer)
    pool = Pool([picture.load() for picture in pictures.TRAINING], seed=run.step)
    held_out = [fit(Picture.load(picture)) for picture in pictures.HELD_OUT]
    logger.info("%.2f M parameters", sum(p.numel() for p in vae.parameters()) / 1e6)
    for step in run.steps():
        set_learning_rate(optimizer, run)
        loss, error = train_step(vae, pool, step, device)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        run.add(loss=loss.item(), psnr=-10 * math.log10(error))
        if step % REPORT_EVERY == REPORT_EVERY - 1:
            with torch.autocast(device, torch.bfloat16):
                scores = [ceiling(vae.eval(), picture.to(device)) for picture in held_out]
            vae.train()
            run.report(held_out_psnr=sum(scores) / len(scores))
            run.save(vae=vae, optimizer=optimizer)
    set_scaling_factor(vae.eval().cpu(), pool)
    widen(vae, new_vae()).save_pretrained(out / "vae")
    plot(out / "losses.csv", out / "losses.png")


if __name__ == "__main__":
    typer.run(train)
