"""What a build needs of disk, memory and GPU memory, against what there is, before hours are spent on it.

The needs are estimates. Their constants come from a UNet of 1.52 billion weights (SVD-XT), 11 GB of memory
for its 3.1 GB TensorRT-RTX engine and 4.3 GB to trace it in FP16, and from 1.1 GB of GPU memory that the
decoder takes for a frame of 576x1024.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from safetensors import SafetensorError, safe_open

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_DECODER_FP32, VAE_ENCODER, StageSpec
from zoetrope_export.checkpoint import Checkpoint
from zoetrope_export.errors import ExportError
from zoetrope_server.engines import stage_precision
from zoetrope_server.engines.gpu import Gpu
from zoetrope_server.engines.tensorrt import LIBRARIES

_COMPONENT: Mapping[str, str] = {
    IMAGE_ENCODER.name: "image_encoder",
    VAE_ENCODER.name: "vae",
    UNET.name: "unet",
    VAE_DECODER.name: "vae",
    VAE_DECODER_FP32.name: "vae",
}
"""The component of the checkpoint that holds the weights of a stage; the VAE is counted for both of its."""
_FP32_BYTES = 4
_LOAD_FACTOR = 1.3
"""Memory of a PyTorch module that runs, in FP32 weights."""
_BUILD_FACTOR: Mapping[str, float] = {"tensorrt": 4.6, "tensorrt-rtx": 4.6, "aot-inductor": 3.0}
"""Memory while an engine is built, the traced module included, in weights of the engine's file."""
_OTHER_BUILD_FACTOR = 2.0
_KERNELS = 64 << 20
"""What an engine file holds beside its weights."""
_DECODER_BYTES = 1.1e9 / (576 * 1024)
"""GPU memory of the decoder for each pixel of a chunk."""
_UNET_TENSORS = 24
"""Feature maps of the UNet's finest level that live at the same time; the widest tensor alone has eight."""
_ENCODER_BYTES = 128 * 4 * 6
"""GPU memory of the VAE encoder at FP32 for each pixel: six feature maps of its finest level."""
_CONTEXT_BYTES = 4 * (500 << 20)
"""What CUDA and the engines' libraries take of the GPU in each of the four stage processes."""
_LARGEST_GPU = 96 << 30
"""The most memory of a GPU that TensorRT-RTX builds for."""
_UNET_CHANNELS = 320
_GIB = 1 << 30

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One resource: what is needed of it and what there is, in bytes, and what to do when it is short."""

    resource: str
    wanted: int
    available: int
    advice: str

    def __str__(self) -> str:
        """The need in one line."""
        return (
            f"{self.resource}: about {self.wanted / _GIB:.1f} GiB needed, "
            f"{self.available / _GIB:.1f} GiB free ({self.advice})"
        )


def check(needs: list[Need], *, force: bool) -> None:
    """Refuses a build whose needs are not met.

    Args:
        needs: see `estimate`.
        force: only warn.

    Raises:
        ExportError: something is short; all that is, is named.
    """
    short = [need for need in needs if need.wanted > need.available]
    if not short:
        return
    said = "; ".join(map(str, short))
    if not force:
        raise ExportError(f"not enough for this build: {said}. These are estimates: --force builds anyway")
    _logger.warning("building although there may not be enough: %s", said)


def estimate(
    checkpoint: Checkpoint, manifest: Manifest, *, out: Path, cache: Path, gpu: Gpu | None
) -> list[Need]:
    """What the export of a checkpoint needs.

    Args:
        checkpoint: what is exported; only the headers of its weights are read.
        manifest: engine, precision, sizes, frame counts and batch.
        out: where the repository is to lie.
        cache: where engines are kept.
        gpu: the GPU that the engines are built on; None when they are built without one.
    """
    weights = stage_weights(checkpoint)
    files = {
        stage.name: weights[stage.name] * _weight_bytes(stage, manifest) + _KERNELS
        for stage in manifest.stages()
    }
    needs = _disk(files, out, cache)
    needs.append(_memory(weights, files, manifest))
    if gpu is not None and gpu.free is not None:
        needs.append(_gpu_memory(files, manifest, gpu.name, gpu.free))
    needs += _scores(checkpoint, manifest, gpu)
    return needs


def _weight_bytes(stage: StageSpec, manifest: Manifest) -> int:
    """What a weight takes in an engine file; OpenVINO keeps FP32 and chooses BF16 when it compiles."""
    halved = stage_precision(stage, manifest.precision, manifest.engine) in ("fp16", "bf16")
    return 2 if halved and manifest.engine != "openvino" else _FP32_BYTES


def stage_weights(checkpoint: Checkpoint) -> dict[str, int]:
    """The number of weights of each stage, from the headers of the checkpoint's files."""
    counts: dict[str, int] = {}
    for component in set(_COMPONENT.values()):
        files = list((checkpoint.directory / component).glob("*.safetensors"))
        # A component in both precisions is loaded once.
        plain = [file for file in files if ".fp16." not in file.name] or files
        counts[component] = sum(map(_count, plain))
    return {stage: counts[component] for stage, component in _COMPONENT.items()}


def _count(file: Path) -> int:
    try:
        with safe_open(file, "numpy") as weights:
            names = weights.keys()
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error


def _disk(files: Mapping[str, int], out: Path, cache: Path) -> list[Need]:
    """All engines and the largest graph, which is gone when its engine is built."""
    total, largest = sum(files.values()), max(files.values())
    places = {_device(folder): folder for folder in (cache, out)}
    return [
        Need(
            resource=f"disk of {folder}",
            wanted=total + 2 * largest,
            available=shutil.disk_usage(_existing(folder)).free,
            advice="choose another --out or --cache",
        )
        for folder in places.values()
    ]


def _memory(weights: Mapping[str, int], files: Mapping[str, int], manifest: Manifest) -> Need:
    factor = _BUILD_FACTOR.get(manifest.engine, _OTHER_BUILD_FACTOR)
    load = max(weights.values()) * _FP32_BYTES * _LOAD_FACTOR
    build = max(size - _KERNELS for size in files.values()) * factor + _KERNELS
    return Need(
        resource="memory",
        wanted=int(max(load, build)),
        available=available_memory(),
        advice="close other programs or use a larger machine",
    )


def _gpu_memory(files: Mapping[str, int], manifest: Manifest, name: str, free: int) -> Need:
    """All four engines and what is around them, and the activations of the largest calls."""
    height, width = max(manifest.sizes, key=math.prod)
    chunk = min(manifest.decode_chunk_size, max(manifest.num_frames))
    decoder = _DECODER_BYTES * height * width * chunk
    positions = math.prod(manifest.latent_size((height, width))) * max(manifest.num_frames)
    unet = 2 * 2 * positions * manifest.max_batch_size * _UNET_CHANNELS * _UNET_TENSORS
    return Need(
        resource=f"memory of {name}",
        wanted=int(sum(files.values()) + decoder + unet + _ENCODER_BYTES * height * width + _CONTEXT_BYTES),
        available=free,
        advice="a smaller --max-batch, --decode-chunk or --size",
    )


def _scores(checkpoint: Checkpoint, manifest: Manifest, gpu: Gpu | None) -> list[Need]:
    """What the scores of the UNet's first attention take where no fused kernel computes them piece by piece.

    TensorRT has none at FP32, and the graph that ONNX Runtime gets on a CPU has the scores as a tensor.
    """
    if manifest.precision != "fp32" or manifest.engine not in {*LIBRARIES, "onnxruntime"}:
        return []
    level, heads = _first_attention(checkpoint)
    height, width = manifest.latent_size(max(manifest.sizes, key=math.prod))
    tokens = (height >> level) * (width >> level)
    wanted = 2 * max(manifest.num_frames) * heads * tokens**2 * _FP32_BYTES
    on_cpu = manifest.engine == "onnxruntime"
    known = gpu.free if gpu is not None else None
    place = available_memory() if on_cpu else _LARGEST_GPU if known is None else known
    other = "openvino" if on_cpu else "--precision bf16, which has the range of fp32"
    return [
        Need(
            resource=f"{'' if on_cpu else 'GPU '}memory for the scores of an attention at fp32",
            wanted=wanted,
            available=place,
            advice=f"use {other}, or a smaller --size",
        )
    ]


def _first_attention(checkpoint: Checkpoint) -> tuple[int, int]:
    """The first level of the UNet that has attention, and its heads there."""
    config = json.loads((checkpoint.directory / "unet" / "config.json").read_text())
    kinds, heads = config["down_block_types"], config["num_attention_heads"]
    level = next((index for index, kind in enumerate(kinds) if "CrossAttn" in kind), len(kinds) - 1)
    return level, heads if isinstance(heads, int) else heads[level]


def available_memory() -> int:
    """Memory that this process may still take, in bytes: of the machine, or of its container."""
    free = int(psutil.virtual_memory().available)
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def _cgroup(name: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """A figure of the control group; None when there is none, or no limit."""
    try:
        return int((root / name).read_text())
    except (OSError, ValueError):
        return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev
