"""Phase 2: the image encoder and the UNet (`python -m demo.training.video --vae FOLDER --out FOLDER`).

Small windows first, at a quarter of the cost, then whole frames. Weights are averaged over time (EMA).
"""

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import pictures, scenes
from .buffer import Batch, ClipBuffer
from .denoiser import Denoiser, v_loss
from .loop import Run, plot, set_learning_rate
from .optimizer import MatrixOptimizer
from .start import slim

logger = logging.getLogger(__name__)
SIGMA_MEAN, SIGMA_STD = 1.0, 1.8  # of ln sigma
DROPPED = 0.12  # share of steps without image condition, for classifier-free guidance
MATRIX_RATE, RATE, STRAIGHT_RATE, EMA = 2e-3, 1e-3, 1e-4, 0.998
WINDOW, REGION, WHOLE = (16, 24), (20, 30), (32, 48)
WINDOWS_A_STEP, WHOLES_A_STEP, FIRST_CLIPS, CAPACITY, STEPS_A_CLIP = 4, 2, 16, 800, 4
REPORT_EVERY = 25
SHORT, SHORT_SHARE = 8, 0.5  # in the phase of windows, batches that hold only the first frames
FIRST_SEED = 500_000_000


def noise_levels(size: int, generator: torch.Generator) -> torch.Tensor:
    """Log-normal sigmas f32 [size]."""
    return (torch.randn(size, generator=generator) * SIGMA_STD + SIGMA_MEAN).exp()


def train_step(
    denoiser: nn.Module, batch: Batch, seed: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses [B] and noise levels [B] of one batch."""
    generator = torch.Generator().manual_seed(seed)
    sigma = noise_levels(len(batch.clean), generator)
    noise = torch.randn(batch.clean.shape, generator=generator) * sigma.view(-1, 1, 1, 1, 1)
    keep = (torch.rand(len(sigma), generator=generator) > DROPPED).float()
    with torch.autocast(device, torch.bfloat16):
        denoised = denoiser(
            *(tensor.to(device) for tensor in (batch.clean + noise, sigma)),
            *(tensor.to(device) for tensor in (batch.image_latents, batch.pictures, batch.time_ids, keep)),
        )
    return v_loss(denoised, batch.clean.to(device), sigma.to(device)), sigma


def log_losses(run: Run, losses: torch.Tensor, sigma: torch.Tensor) -> None:
    """Adds the mean loss, and those of weak and strong noise."""
    losses = losses.detach().cpu()
    weak = losses[sigma < 1].mean() if (sigma < 1).any() else losses.mean()
    strong = losses[sigma > 4].mean() if (sigma > 4).any() else losses.mean()
    run.add(loss=losses.mean().item(), weak_noise=weak.item(), strong_noise=strong.item())


def scaling_factor(vae_folder: Path) -> float:
    """1/std of the latents of an autoencoder's folder."""
    return float(AutoencoderKLTemporalDecoder.load_config(vae_folder)["scaling_factor"])


def empty_buffer(vae_folder: Path, device: str) -> ClipBuffer:
    """A buffer that encodes with the autoencoder of phase 1."""
    vae = slim(AutoencoderKLTemporalDecoder.from_pretrained(vae_folder)).to(device).eval()
    return ClipBuffer(vae, [picture.load() for picture in pictures.TRAINING], CAPACITY)


def next_batch(clips: ClipBuffer, step: int, whole: bool) -> Batch:
    """Makes new clips when it is time, then draws: windows first, whole frames later."""
    region, shape = (WHOLE, WHOLE) if whole else (REGION, WINDOW)
    while sum(item.latents.shape[2] >= region[0] for item in clips.items) < FIRST_CLIPS:
        clips.add(FIRST_SEED + step * FIRST_CLIPS + len(clips.items), region)
    if step % STEPS_A_CLIP == 0:
        clips.add(step, region)
    rng = np.random.default_rng((3, step))
    frames = SHORT if not whole and rng.random() < SHORT_SHARE else scenes.FRAMES
    return clips.batch(WHOLES_A_STEP if whole else WINDOWS_A_STEP, shape, frames, rng)


def is_straight(name: str) -> bool:
    """Whether a weight belongs to the path that `start_static` laid; it learns slowly."""
    path = (
        "unet.conv_in.",
        "conv_norm_out.",
        "conv_out.",
        "up_blocks.2.resnets.1.spatial_res_block.conv_shortcut.",
    )
    return any(part in name for part in path)


def train(
    vae: Annotated[Path, typer.Option(help="The autoencoder of phase 1.")],
    out: Annotated[Path, typer.Option(help="Folder for states, log and result.")],
    minutes: Annotated[float, typer.Option(help="Budget of training time.")] = 60,
    windows_until: Annotated[float, typer.Option(help="Share of the budget spent on windows.")] = 0.85,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Trains image encoder and UNet; run again with the same folder to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, denoiser = Run(out, minutes), Denoiser(scaling_factor(vae)).to(device)
    average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    optimizer = MatrixOptimizer(denoiser, MATRIX_RATE, RATE, STRAIGHT_RATE, is_straight)
    run.load(denoiser=denoiser, average=average, optimizer=optimizer)
    clips = empty_buffer(vae, device)
    logger.info("%.2f M parameters", sum(p.numel() for p in denoiser.parameters()) / 1e6)
    for step in run.steps():
        set_learning_rate(optimizer, run)
        batch = next_batch(clips, step, whole=run.share >= windows_until)
        losses, sigma = train_step(denoiser, batch, step, device)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(denoiser)
        log_losses(run, losses, sigma)
        if step % REPORT_EVERY == REPORT_EVERY - 1:
            run.report()
            run.save(denoiser=denoiser, average=average, optimizer=optimizer)
    run.save(denoiser=denoiser, average=average, optimizer=optimizer)
    plot(out / "losses.csv", out / "losses.png")


if __name__ == "__main__":
    typer.run(train)
