"""Puts the trained parts together.

`python -m demo.training.assemble --vae FOLDER --video FOLDER --out demo/checkpoint`.
"""

import json
import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPImageProcessor

from .denoiser import CLIP_MEAN, CLIP_SIZE, CLIP_STD, Denoiser

logger = logging.getLogger(__name__)


def new_scheduler() -> EulerDiscreteScheduler:
    """SVD's scheduler: Karras sigmas 700 to 0.002, v-prediction, continuous timesteps."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        interpolation_type="linear",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )


def new_feature_extractor() -> CLIPImageProcessor:
    """CLIP's preprocessing at 224 pixels."""
    return CLIPImageProcessor(
        size={"shortest_edge": CLIP_SIZE},
        crop_size={"height": CLIP_SIZE, "width": CLIP_SIZE},
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )


def averaged(state: Path) -> Denoiser:
    """The time-averaged weights of a training state."""
    average = AveragedModel(Denoiser())
    average.load_state_dict(torch.load(state, weights_only=True)["average"])
    denoiser: Denoiser = average.module
    return denoiser.eval()


def assemble(vae: Path, video: Path) -> StableVideoDiffusionPipeline:
    """The pipeline of an autoencoder's folder and a training state of phase 2."""
    denoiser = averaged(video / "state.pt")
    return StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder.from_pretrained(vae),
        image_encoder=denoiser.image_encoder,
        unet=denoiser.unet,
        scheduler=new_scheduler(),
        feature_extractor=new_feature_extractor(),
    )


def use_general_processor(index: Path) -> None:
    """Names CLIP's processor as SVD does, not the variant that this machine happened to load."""
    index.write_text(index.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))


def forget_origin(config: Path) -> None:
    """Takes out where on this machine the part came from."""
    body = json.loads(config.read_text())
    body.pop("_name_or_path", None)
    config.write_text(json.dumps(body, indent=2) + "\n")


def main(
    vae: Annotated[Path, typer.Option(help="The autoencoder of phase 1.")],
    video: Annotated[Path, typer.Option(help="The folder of phase 2.")],
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes.")],
    half: Annotated[bool, typer.Option(help="FP16 weights.")] = True,
) -> None:
    """Writes a complete diffusers checkpoint."""
    logging.basicConfig(level=logging.INFO)
    pipeline = assemble(vae, video)
    pipeline.to(dtype=torch.float16 if half else torch.float32)
    pipeline.save_pretrained(out)
    use_general_processor(out / "model_index.json")
    for config in out.glob("*/config.json"):
        forget_origin(config)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    logger.info("%s: %.2f MB", out, size / 1e6)


if __name__ == "__main__":
    typer.run(main)
