"""Phase 1: the autoencoder (`python -m demo.training.vae --out DIRECTORY`).

Factor 4, eight channels: four keep 25.6 dB of the held-out photographs in the best linear code, eight keep
30.2. In part of the steps the latents are warped and must decode to the warped image (Kouzelis et al.,
"EQ-VAE", 2025): latents that move like images are what the denoiser can learn to move.
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
from torch.optim.swa_utils import AveragedModel

from . import collect, pictures
from .crops import CLIP_FRAMES, Crops
from .grow import grow
from .loop import Run, average_of, plot, set_learning_rate
from .losses import reconstruction_loss
from .optimizer import MatrixOptimizer
from .start import slim, straighten, widen

logger = logging.getLogger(__name__)
CHANNELS, LATENTS = (96, 96, 96), 8
SIZE, SMALL = (160, 256), (64, 64)
START_BATCHES = 12
MATRIX_RATE, RATE, STRAIGHT_RATE = 4e-4, 3e-4, 1e-5
KL_WEIGHT, ANCHOR_WEIGHT, WARPED = 1e-6, 0.1, 0.15


def new_vae(latents: int = LATENTS) -> AutoencoderKLTemporalDecoder:
    """An untrained autoencoder of factor 4."""
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=latents,
        sample_size=SIZE[0],
        force_upcast=True,
    )
    straighten(vae)
    return vae


def fit(picture: torch.Tensor, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """The middle of an image at the frames' size: f32 [3,H,W] in 0..1."""
    height, width = size
    scale = max(height / picture.shape[1], width / picture.shape[2])
    scaled = [math.ceil(side * scale - 1e-6) for side in picture.shape[1:]]
    picture = F.interpolate(picture[None], size=scaled, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (scaled[0] - height) // 2, (scaled[1] - width) // 2
    return picture[:, top : top + height, left : left + width]


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


@torch.no_grad()
def ceiling(vae: nn.Module, picture: torch.Tensor) -> float:
    """PSNR in dB of an image f32 [3,H,W] in 0..1 after encoding and decoding."""
    latents = vae.encode(picture[None] * 2 - 1).latent_dist.mode()
    made = (vae.decode(latents, num_frames=1).sample[0].float() / 2 + 0.5).clamp(0, 1)
    return float(-10 * torch.log10((made - picture).square().mean()))


class Trainer:
    """The autoencoder with its average, its optimizer and the one that it started from."""

    def __init__(self, start: Path | None, device: str, crops: Crops) -> None:
        self.device, self.anchor, self.factor = device, None, None
        whole = new_vae()
        if start is not None:
            known = AutoencoderKLTemporalDecoder.from_pretrained(start).float()
            self.factor = known.config.scaling_factor
            self.begin(whole, known, crops)
        self.vae = slim(whole).to(device).train()
        self.average = AveragedModel(self.vae, avg_fn=average_of)
        self.optimizer = MatrixOptimizer(self.vae, MATRIX_RATE, RATE, STRAIGHT_RATE, is_straight)

    def begin(
        self, whole: AutoencoderKLTemporalDecoder, known: AutoencoderKLTemporalDecoder, crops: Crops
    ) -> None:
        """Takes over a trained autoencoder; the latents of one with fewer are held where they are."""
        if known.config.latent_channels == LATENTS:
            whole.load_state_dict(known.state_dict())
            return
        batches = [crops.stills(np.random.default_rng((4, n)), SMALL) for n in range(START_BATCHES)]
        grow(known, whole, torch.cat(batches))
        self.anchor = slim(known).to(self.device).eval().requires_grad_(False)

    def loss(
        self, images: torch.Tensor, frames: int, matrices: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        """The loss of a batch f32 [B,3,H,W] in -1..1, of clips of `frames`, and its mean squared error."""
        with torch.autocast(self.device, torch.bfloat16):
            posterior = self.vae.encode(images).latent_dist
            latents, wanted = posterior.sample().float(), images
            if matrices is not None:
                latents, wanted = warp(latents, matrices), warp(images, matrices)
            made = self.vae.decode(latents, num_frames=frames).sample.float()
        loss = reconstruction_loss(made, wanted) + KL_WEIGHT * posterior.kl().float().mean()
        if self.anchor is not None:
            loss = loss + ANCHOR_WEIGHT * self.drift(images, posterior.mode().float())
        return loss, (made.detach() - wanted).square().mean().item() / 4

    def drift(self, images: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """How far the first latents are from those of the autoencoder that it started from."""
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16):
            known = self.anchor.encode(images).latent_dist.mode().float()
        return F.mse_loss(latents[:, : known.shape[1]], known)

    def step(self, crops: Crops, step: int) -> dict[str, float]:
        """One update; every fourth batch holds clips."""
        rng = np.random.default_rng((1, step))
        of_clips = step % 4 == 3
        images = (crops.clips(rng) if of_clips else crops.stills(rng)).to(self.device)
        matrices = warps(len(images), rng).to(self.device) if rng.random() < WARPED else None
        if matrices is not None and of_clips:
            matrices = matrices[::CLIP_FRAMES].repeat_interleave(CLIP_FRAMES, dim=0)
        torch.manual_seed(step)
        loss, error = self.loss(images, CLIP_FRAMES if of_clips else 1, matrices)
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.vae)
        return {"loss": loss.item(), "psnr": -10 * math.log10(error)}

    def parts(self) -> dict[str, Any]:
        """What a state holds."""
        return {"vae": self.vae, "average": self.average, "optimizer": self.optimizer}

    def scores(self, held_out: list[torch.Tensor]) -> dict[str, float]:
        """Mean and worst PSNR of the averaged weights on photographs that training never sees."""
        model = self.average.module.eval()
        values = [ceiling(model, picture.to(self.device)) for picture in held_out]
        return {"held_out_mean": sum(values) / len(values), "held_out_worst": min(values)}


def is_straight(name: str) -> bool:
    """Whether a weight belongs to the path that `straighten` laid, whose biases are large."""
    names = ("coder.conv_in.bias", "conv_norm_out.", "conv_out.", "quant_conv.", "samplers.")
    return any(part in name for part in names)


@torch.no_grad()
def finish(trainer: Trainer, crops: Crops) -> AutoencoderKLTemporalDecoder:
    """The whole autoencoder; its scaling factor is 1/std of its latents, or that of its start."""
    vae = trainer.average.module.eval().cpu()
    batches = [crops.stills(np.random.default_rng((2, index)), SMALL) for index in range(8)]
    latents = torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches])
    logger.info("latents: mean %s std %s", latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist())
    factor = float(1 / latents.std()) if trainer.factor is None else trainer.factor
    vae.register_to_config(scaling_factor=round(factor, 4))
    return widen(vae, new_vae())


def train(
    out: Annotated[Path, typer.Option(help="Directory for states, log and result.")],
    minutes: Annotated[float, typer.Option(help="Budget of computing time.")] = 60,
    start: Annotated[
        Path | None, typer.Option(help="A trained autoencoder, also one with fewer latents.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    factor: Annotated[int, typer.Option(help="How many times the batch that a CPU is given.")] = 1,
    pause_file: Annotated[Path | None, typer.Option(help="While this file exists, nothing runs.")] = None,
) -> None:
    """Trains the autoencoder; run again with the same directory to resume."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    run, crops = Run(out, minutes, pause_file, by_clock=device != "cpu"), Crops(collect.unpack(), factor)
    trainer = Trainer(start, device, crops)
    run.load(**trainer.parts())
    held_out = [fit(picture.load(collect.LONGEST)) for picture in pictures.HELD_OUT]
    for step in run.steps():
        set_learning_rate(trainer.optimizer, run)
        run.add(**trainer.step(crops, step))
        if run.report_is_due:
            run.report(**trainer.scores(held_out))
            run.save(**trainer.parts())
    run.report(**trainer.scores(held_out))
    run.save(**trainer.parts())
    finish(trainer, crops).save_pretrained(out / "vae")
    plot(out / "losses.csv", out / "losses.png")


if __name__ == "__main__":
    typer.run(train)
