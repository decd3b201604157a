"""Phase 2: the image encoder and the UNet (`python -m demo.training.video --vae FOLDER --out FOLDER`).

Small windows first, at a fraction of the cost, then whole frames. Weights are averaged over time.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn
from torch.optim.swa_utils import AveragedModel

from . import collect
from .buffer import Batch, ClipBuffer
from .denoiser import Denoiser, adopt, v_loss
from .fields import FRAMES
from .loop import Run, average_of, plot, set_learning_rate
from .optimizer import MatrixOptimizer
from .start import slim

logger = logging.getLogger(__name__)
SIGMA_MEAN, SIGMA_STD = 1.0, 1.8  # of ln sigma
DROPPED = 0.12  # share of steps without image condition, for classifier-free guidance
MATRIX_RATE, RATE, STRAIGHT_RATE = 1e-3, 5e-4, 5e-5
WINDOW, WHOLE, WHOLE_SHARE = (16, 24), (40, 64), 0.25
WINDOWS_A_STEP, WHOLES_A_STEP, FIRST_CLIPS, CAPACITY, STEPS_A_CLIP = 4, 1, 8, 400, 4
SHORT, SHORT_SHARE = 8, 0.5  # of the batches of windows, those that hold only the first frames
FIRST_SEED = 500_000_000


def noise_levels(size: int, generator: torch.Generator) -> torch.Tensor:
    """Log-normal sigmas f32 [size]."""
    return (torch.randn(size, generator=generator) * SIGMA_STD + SIGMA_MEAN).exp()


def denoising_losses(
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


def scaling_factor(vae: Path) -> float:
    """1/std of the latents of an autoencoder's directory."""
    return float(AutoencoderKLTemporalDecoder.load_config(vae)["scaling_factor"])


def empty_buffer(vae: Path, device: str, workers: int) -> ClipBuffer:
    """A buffer that encodes with the autoencoder of phase 1."""
    encoder = slim(AutoencoderKLTemporalDecoder.from_pretrained(vae)).to(device).eval()
    return ClipBuffer(encoder, collect.unpack(), CAPACITY, workers)


class Curriculum:
    """Mostly windows, some of few frames, then whole clips."""

    def __init__(self, clips: ClipBuffer, factor: int, first_step: int) -> None:
        self.clips, self.factor = clips, factor
        clips.start(FIRST_SEED + first_step * factor)
        for _ in range(FIRST_CLIPS * factor):
            clips.add()

    def batch(self, step: int, whole_share: float) -> Batch:
        """The batch of a step, of whole clips with some probability; makes new clips when it is time."""
        if step % STEPS_A_CLIP == 0:
            for _ in range(self.factor):
                self.clips.add()
        rng = np.random.default_rng((3, step))
        if rng.random() < whole_share:
            return self.clips.batch(WHOLES_A_STEP * self.factor, WHOLE, FRAMES, rng)
        frames = SHORT if rng.random() < SHORT_SHARE else FRAMES
        return self.clips.batch(WINDOWS_A_STEP * self.factor, WINDOW, frames, rng)


def is_straight(name: str) -> bool:
    """Whether a weight belongs to the path that `start_static` laid; it learns slowly."""
    path = (
        "unet.conv_in.",
        "conv_norm_out.",
        "conv_out.",
        "up_blocks.2.resnets.1.spatial_res_block.conv_shortcut.",
    )
    return any(part in name for part in path)


class Trainer:
    """The denoiser with its average and its optimizer."""

    def __init__(self, vae: Path, start: Path | None, device: str) -> None:
        scale = scaling_factor(vae)
        self.device, self.denoiser = device, Denoiser(scale)
        if start is not None:
            adopt(self.denoiser, start, scale)
        self.denoiser.to(device)
        self.average = AveragedModel(self.denoiser, avg_fn=average_of)
        self.optimizer = MatrixOptimizer(self.denoiser, MATRIX_RATE, RATE, STRAIGHT_RATE, is_straight)

    def step(self, batch: Batch, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One update; the losses and the noise levels."""
        losses, sigma = denoising_losses(self.denoiser, batch, seed, self.device)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.denoiser)
        return losses, sigma

    def parts(self) -> dict[str, Any]:
        """What a state holds."""
        return {"denoiser": self.denoiser, "average": self.average, "optimizer": self.optimizer}


def train(
    vae: Annotated[Path, typer.Option(help="The autoencoder of phase 1.")],
    out: Annotated[Path, typer.Option(help="Directory for states, log and result.")],
    minutes: Annotated[float, typer.Option(help="Budget of computing time.")] = 60,
    windows_until: Annotated[float, typer.Option(help="Share of the budget with windows.")] = 0.7,
    start: Annotated[
        Path | None, typer.Option(help="A trained checkpoint, also one with fewer latents.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that make clips; 0 makes them in this one.")] = 0,
    factor: Annotated[int, typer.Option(help="How many times the batch that a CPU is given.")] = 1,
    compiled: Annotated[bool, typer.Option(help="torch.compile the UNet.")] = False,
    pause_file: Annotated[Path | None, typer.Option(help="While this file exists, nothing runs.")] = None,
) -> None:
    """Trains image encoder and UNet; run again with the same directory to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, trainer = Run(out, minutes, pause_file, by_clock=device != "cpu"), Trainer(vae, start, device)
    run.load(**trainer.parts())
    if compiled:
        trainer.denoiser.unet.compile()
    curriculum = Curriculum(empty_buffer(vae, device, workers), factor, run.step)
    for step in run.steps():
        set_learning_rate(trainer.optimizer, run)
        batch = curriculum.batch(step, WHOLE_SHARE if run.share < windows_until else 1.0)
        log_losses(run, *trainer.step(batch, step))
        if run.report_is_due:
            run.report()
            run.save(**trainer.parts())
    run.report()
    run.save(**trainer.parts())
    plot(out / "losses.csv", out / "losses.png")


if __name__ == "__main__":
    typer.run(train)
