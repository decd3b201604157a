"""A Stable Video Diffusion checkpoint in diffusers' layout, loaded component by component."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from zoetrope_core.manifest import Manifest, Size
from zoetrope_export.errors import ExportError

CLIP_SIZE = 224
"""The side of the CLIP input: diffusers' SVD pipeline resizes to this, whatever the checkpoint says."""
RHO = 7.0
"""The exponent of diffusers' Karras schedule, which no scheduler configuration can change."""
INDEX_NAME = "model_index.json"
_PIPELINE = "StableVideoDiffusionPipeline"
_COMPONENTS = ("unet", "vae", "image_encoder", "scheduler", "feature_extractor")
_REFERENCE_STEPS = 25

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk: its facts are read, its weights are loaded only when they are asked for.

    Attributes:
        name: how it is called in the manifest.
        directory: its folder.
        latent_channels: C.
        embedding_dim: E.
        vae_scale_factor: pixels of one side per latent of one side.
        unet_levels: resolutions of the UNet.
        scaling_factor: latents of the UNet are VAE latents times this.
        clip_mean, clip_std: the channel statistics that normalise the CLIP input.
        sigma_min, sigma_max: the Karras schedule.
        num_frames: the trained number of frames.
        trained_size: the trained frame size (height, width), where the checkpoint says it.
    """

    name: str
    directory: Path
    latent_channels: int
    embedding_dim: int
    vae_scale_factor: int
    unet_levels: int
    scaling_factor: float
    clip_mean: tuple[float, float, float]
    clip_std: tuple[float, float, float]
    sigma_min: float
    sigma_max: float
    num_frames: int
    trained_size: Size | None

    def unet(self) -> Any:
        """The UNet, FP32, in evaluation mode."""
        return self._load(UNetSpatioTemporalConditionModel, "unet")

    def vae(self) -> Any:
        """The VAE, FP32, in evaluation mode."""
        return self._load(AutoencoderKLTemporalDecoder, "vae")

    def image_encoder(self) -> Any:
        """The CLIP image encoder, FP32, in evaluation mode."""
        return self._load(CLIPVisionModelWithProjection, "image_encoder")

    def _load(self, kind: Any, component: str) -> nn.Module:
        folder = self.directory / component
        files = [file.name for file in folder.glob("*.safetensors")]
        # Some publish the half-precision files alone.
        variant = "fp16" if files and all(".fp16." in name for name in files) else None
        try:
            model: nn.Module = kind.from_pretrained(folder, torch_dtype=torch.float32, variant=variant)
        except (OSError, ValueError, RuntimeError) as error:
            raise ExportError(f"{component} of {self.directory} cannot be loaded: {error}") from error
        return model.eval().requires_grad_(False)

    @property
    def grid(self) -> int:
        """Height and width in pixels are multiples of this: the UNet halves the latents at each level."""
        return self.vae_scale_factor << (self.unet_levels - 1)

    def files(self) -> list[Path]:
        """All files of the pipeline's parts, sorted by their place in the folder."""
        parts = [self.directory / name for name in _COMPONENTS]
        found = [path for part in parts for path in part.rglob("*") if path.is_file()]
        return sorted(found, key=lambda path: path.relative_to(self.directory).as_posix())

    def manifest(
        self,
        *,
        engine: str,
        precision: str,
        sizes: tuple[Size, ...],
        num_frames: tuple[int, ...],
        decode_chunk_size: int,
        max_batch_size: int,
        name: str | None = None,
        trained_size: Size | None = None,
        fp32_decoder: bool = False,
    ) -> Manifest:
        """The manifest of this checkpoint, exported so; a `trained_size` goes before the checkpoint's own.

        Raises:
            ExportError: a frame size is off the grid.
        """
        for height, width in sizes:
            if height % self.grid or width % self.grid or min(height, width) < self.grid:
                raise ExportError(
                    f"size {height}x{width} (HxW): both sides must be positive multiples of {self.grid} "
                    f"(VAE factor {self.vae_scale_factor} times {2 ** (self.unet_levels - 1)} for "
                    f"{self.unet_levels} UNet levels)"
                )
        return Manifest(
            checkpoint=name or self.name,
            engine=engine,
            precision=precision,
            latent_channels=self.latent_channels,
            embedding_dim=self.embedding_dim,
            vae_scale_factor=self.vae_scale_factor,
            scaling_factor=self.scaling_factor,
            clip_size=CLIP_SIZE,
            clip_mean=self.clip_mean,
            clip_std=self.clip_std,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            rho=RHO,
            sizes=sizes,
            num_frames=num_frames,
            decode_chunk_size=decode_chunk_size,
            max_batch_size=max_batch_size,
            grid=self.grid,
            trained_size=trained_size or self.trained_size,
            trained_frames=self.num_frames,
            fp32_decoder=fp32_decoder,
        )


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Reads the facts of a checkpoint.

    Args:
        source: a folder in diffusers' layout, or the id of one on the Hugging Face hub.

    Raises:
        ExportError: there is no such checkpoint, it is no SVD pipeline, or it needs what is not supported.
    """
    directory = Path(source)
    if not directory.is_dir():
        directory = _download(str(source))
    _check_pipeline(directory)
    unet = _config(directory / "unet", UNetSpatioTemporalConditionModel)
    vae = _config(directory / "vae", AutoencoderKLTemporalDecoder)
    clip = _clip_config(directory / "image_encoder")
    _check_networks(unet, vae, clip)
    sigma_min, sigma_max = _sigmas(directory)
    mean, std = _clip_statistics(directory)
    return Checkpoint(
        name=Path(str(source)).name,
        directory=directory,
        latent_channels=vae["latent_channels"],
        embedding_dim=clip["projection_dim"],
        vae_scale_factor=2 ** (len(vae["block_out_channels"]) - 1),
        unet_levels=len(unet["block_out_channels"]),
        scaling_factor=vae["scaling_factor"],
        clip_mean=mean,
        clip_std=std,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        num_frames=unet["num_frames"],
        trained_size=_trained_size(unet["sample_size"]),
    )


def _trained_size(sample_size: Any) -> Size | None:
    """The trained size by the UNet's `sample_size`, which is the side of a square of latents.

    The published SVD checkpoints have 96: 768x768 pixels are as many as the 576x1024 of their model cards.
    """
    return (576, 1024) if sample_size == 96 else None


def image_processor() -> Any:
    """CLIP's image processor at `CLIP_SIZE`, as the published SVD checkpoints have it."""
    side = {"height": CLIP_SIZE, "width": CLIP_SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": CLIP_SIZE}, crop_size=side)


def _download(source: str) -> Path:
    """The folder of a checkpoint of the hub, downloaded as diffusers does it."""
    from diffusers import StableVideoDiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(StableVideoDiffusionPipeline.download(source))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise ExportError(
            f"{source}: neither a folder nor a checkpoint that the Hugging Face hub hands out ({error})"
        ) from error


def _check_pipeline(directory: Path) -> None:
    if not (directory / INDEX_NAME).is_file():
        raise ExportError(f"{directory} is no diffusers checkpoint: it has no {INDEX_NAME}")
    kind = _json(directory / INDEX_NAME).get("_class_name")
    if kind != _PIPELINE:
        raise ExportError(f"{directory} is a {kind}; only {_PIPELINE} checkpoints can be exported")
    if missing := [name for name in _COMPONENTS if not (directory / name).is_dir()]:
        raise ExportError(f"{directory} is incomplete: it has no {', '.join(missing)}")


def _check_networks(unet: Mapping[str, Any], vae: Mapping[str, Any], clip: Mapping[str, Any]) -> None:
    """Refuses networks that do not fit together or the pipeline."""
    if clip["image_size"] != CLIP_SIZE:
        raise ExportError(
            f"image_encoder: input of {clip['image_size']} pixels; the pipeline gives {CLIP_SIZE}"
        )
    if unet["in_channels"] != 2 * vae["latent_channels"] or unet["out_channels"] != vae["latent_channels"]:
        raise ExportError(
            f"unet: {unet['in_channels']} channels in and {unet['out_channels']} out; "
            f"a VAE of {vae['latent_channels']} latent channels needs twice and once as many"
        )
    if 3 * unet["addition_time_embed_dim"] != unet["projection_class_embeddings_input_dim"]:
        raise ExportError("unet: its added time ids are not three (fps, motion bucket, noise strength)")
    dims = unet["cross_attention_dim"]
    if {clip["projection_dim"]} != set(dims if isinstance(dims, list | tuple) else [dims]):
        raise ExportError(
            f"unet: cross attention of {dims}, the image embedding has {clip['projection_dim']}"
        )


def _sigmas(directory: Path) -> tuple[float, float]:
    """The ends of the Karras schedule; refuses schedulers that are not SVD's."""
    config = _config(directory / "scheduler", EulerDiscreteScheduler, "scheduler_config.json")
    required = {
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "final_sigmas_type": "zero",
    }
    for name, wanted in required.items():
        if (got := config[name]) != wanted:
            raise ExportError(f"scheduler: {name} is {got!r}, only {wanted!r} is supported")
    if config["sigma_min"] is not None and config["sigma_max"] is not None:
        return float(config["sigma_min"]), float(config["sigma_max"])
    euler = EulerDiscreteScheduler.from_config(config)
    euler.set_timesteps(_REFERENCE_STEPS)
    _logger.warning(
        "scheduler: no sigma_min and sigma_max; taken from a schedule of %d steps", _REFERENCE_STEPS
    )
    return float(euler.sigmas[-2]), float(euler.sigmas[0])


def _clip_statistics(directory: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    config = _json(directory / "feature_extractor" / "preprocessor_config.json")
    try:
        (r, g, b), (sr, sg, sb) = config["image_mean"], config["image_std"]
    except (KeyError, ValueError, TypeError) as error:
        raise ExportError("feature_extractor: needs image_mean and image_std of three channels") from error
    return (r, g, b), (sr, sg, sb)


def _config(directory: Path, kind: Any, name: str = "config.json") -> dict[str, Any]:
    """The configuration of a diffusers component, with the defaults of its class."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return defaults | _json(directory / name)


def _clip_config(directory: Path) -> dict[str, Any]:
    """The configuration of the image encoder, with transformers' defaults; old files nest it."""
    data = _json(directory / "config.json")
    config: dict[str, Any] = CLIPVisionConfig(**data.get("vision_config", data)).to_dict()
    return config


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"the checkpoint is incomplete: there is no {path}")
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is not a JSON object")
    return data
