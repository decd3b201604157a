"""What a served checkpoint can do: written by the exporter, read by the server and shown to clients."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from zoetrope_core.preview import LatentRgb
from zoetrope_core.specs import STAGES, VAE_DECODER_FP32, StageSpec

FILE_NAME = "zoetrope.json"
VERSION = 1
Size = tuple[int, int]
"""A frame size (height, width) in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of one model repository.

    Attributes:
        checkpoint: the name under which the checkpoint was exported.
        engine: the engine of the stages, such as `openvino`.
        precision: the precision of the stages, such as `bf16`.
        latent_channels: C.
        embedding_dim: E, the length of the image embedding.
        vae_scale_factor: pixels of one side per latent of one side.
        scaling_factor: latents of the UNet are VAE latents times this.
        clip_size: S, the side of the CLIP input in pixels.
        clip_mean, clip_std: the channel statistics that normalise the CLIP input.
        sigma_min, sigma_max, rho: the Karras schedule of the checkpoint's scheduler.
        sizes: the frame sizes that are warmed up and chosen among; the first is the default.
        num_frames: the frame counts that are warmed up; the first is the default.
        decode_chunk_size: the default number of frames decoded at once.
        max_batch_size: the most videos that share one execution of the UNet.
        latent_rgb: the colours of VAE latents, for previews; None in manifests that are older than these.
        grid: sides of sizes that are not listed are multiples of this.
        size_ranges: the least and the largest height and width of further sizes that the engines take.
        frame_range: the least and the largest of further frame counts that they take; None for none.
        trained_size: the frame size that the checkpoint was trained at, where that is known.
        trained_frames: the frame count that it was trained at, where that is known.
        fp32_decoder: whether there is a decoder at FP32 too, for what overflows in the first.
    """

    checkpoint: str
    engine: str
    precision: str
    latent_channels: int
    embedding_dim: int
    vae_scale_factor: int
    scaling_factor: float
    clip_size: int
    clip_mean: tuple[float, float, float]
    clip_std: tuple[float, float, float]
    sigma_min: float
    sigma_max: float
    rho: float
    sizes: tuple[Size, ...]
    num_frames: tuple[int, ...]
    decode_chunk_size: int
    max_batch_size: int = 1
    latent_rgb: LatentRgb | None = None
    grid: int = 1
    size_ranges: tuple[tuple[Size, Size], ...] = ()
    frame_range: tuple[int, int] | None = None
    trained_size: Size | None = None
    trained_frames: int | None = None
    fp32_decoder: bool = False
    version: int = VERSION

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Reads a manifest file, or the one inside a model repository.

        Raises:
            OSError: there is no such file.
            ValueError: the file is not a manifest of this version.
        """
        file = path / FILE_NAME if path.is_dir() else path
        return cls.from_dict(json.loads(file.read_text()))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """Builds a manifest from parsed JSON; raises ValueError for another version or other fields."""
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError(f"not a manifest of version {VERSION}, the one that this release reads")
        names = {field.name for field in fields(cls)}
        if unknown := set(data) - names:
            raise ValueError(f"manifest has unknown fields: {', '.join(sorted(unknown))}")
        lists = {"clip_mean", "clip_std", "num_frames"}
        try:
            values: dict[str, Any] = {
                name: tuple(value) if name in lists else value for name, value in data.items()
            }
            values["sizes"] = tuple(map(_pair, data["sizes"]))
            values["size_ranges"] = tuple(
                (_pair(low), _pair(high)) for low, high in data.get("size_ranges", ())
            )
            for name in ("frame_range", "trained_size"):
                values[name] = None if data.get(name) is None else _pair(data[name])
            values["grid"] = int(data.get("grid", 1))
            if values["grid"] < 1:
                raise ValueError(f"manifest has a grid of {values['grid']}")
            if data.get("latent_rgb") is not None:
                values["latent_rgb"] = _latent_rgb(data["latent_rgb"], int(data["latent_channels"]))
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"manifest is incomplete: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON-ready data."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Writes the manifest into the model repository `path`."""
        (path / FILE_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    def symbols(self) -> dict[str, int]:
        """The values of the static symbols of the stage specs: C, E and S."""
        return {"C": self.latent_channels, "E": self.embedding_dim, "S": self.clip_size}

    def stages(self) -> tuple[StageSpec, ...]:
        """The stages that the repository holds, in the order in which a request meets them."""
        return (*STAGES.values(), *([VAE_DECODER_FP32] if self.fp32_decoder else []))

    def latent_size(self, size: Size) -> Size:
        """The latents' (h, w) of a frame size (H, W)."""
        return size[0] // self.vae_scale_factor, size[1] // self.vae_scale_factor


def _pair(values: Any) -> tuple[int, int]:
    """Two positive integers of a manifest file; raises ValueError or TypeError for anything else."""
    first, second = map(int, values)
    if min(first, second) < 1:
        raise ValueError(f"manifest has {first} and {second} where both must be positive")
    return first, second


def _latent_rgb(rows: Any, channels: int) -> LatentRgb:
    """The map of a manifest file; raises ValueError or TypeError for one of another shape."""
    if len(rows) != channels + 1:
        raise ValueError(f"manifest has a latent_rgb of {len(rows)} rows for {channels} channels and a bias")
    return tuple((float(red), float(green), float(blue)) for red, green, blue in rows)
