"""What the command line of an export asks for, and the plan that comes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoetrope_export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoetrope_core.specs import Array
    from zoetrope_export.checkpoint import Checkpoint
    from zoetrope_export.exporting import Plan
    from zoetrope_export.stage_builds import BuildOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for; `frames` may be empty, for the checkpoint's own count."""

    engine: str
    precision: str
    sizes: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]
    decode_chunk: int | None
    max_batch: int | None
    name: str | None
    warm_up: bool
    profiles: tuple[tuple[tuple[int, int], ...], ...]
    between: bool | None
    trained_size: tuple[int, int] | None
    compute_capability: str | None
    workspace: float | None
    cache: Path | None
    force: bool
    host: str
    fp32_decoder: bool
    picture: Path | None
    verify: bool
    allow_drift: bool


def parse_size(text: str) -> tuple[int, int]:
    """The (height, width) of `HxW`; raises ExportError."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip().lower())
    if match is None:
        raise ExportError(f"size {text}: give height x width in pixels, such as 576x1024")
    return int(match[1]), int(match[2])


def plan(source: str, wanted: Wanted, out: Path) -> Plan:
    """What to export; everything that can be refused is refused before the first weights are loaded."""
    quiet_libraries()
    from zoetrope_export import exporting
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.engines import check_fp32_decoder, check_supported
    from zoetrope_export.profiles import with_ranges
    from zoetrope_export.repository import check_host, check_target

    check_supported(wanted.engine, wanted.precision)
    check_fp32_decoder(wanted.fp32_decoder, wanted.precision)
    check_host(wanted.host, wanted.engine)
    options = _build_options(wanted)
    check_target(out, Path.cwd(), options.cache)
    opened = open_checkpoint(source)
    check_target(out, opened.directory)
    frames = wanted.frames or (opened.num_frames,)
    if min(frames) < 1:
        raise ExportError(f"--frames {min(frames)}: at least 1")
    manifest = opened.manifest(
        engine=wanted.engine,
        precision=wanted.precision,
        sizes=wanted.sizes,
        num_frames=frames,
        decode_chunk_size=wanted.decode_chunk or exporting.default_chunk(frames[0]),
        max_batch_size=wanted.max_batch or _max_batch(opened, wanted, frames),
        name=wanted.name,
        trained_size=wanted.trained_size,
        fp32_decoder=wanted.fp32_decoder,
    )
    return exporting.Plan(
        checkpoint=opened,
        manifest=with_ranges(manifest, wanted.profiles, between=wanted.between),
        out=out,
        warm_up=wanted.warm_up,
        options=options,
        host=wanted.host,
        picture=None if wanted.picture is None else _read_picture(wanted.picture),
        verify=wanted.verify,
        allow_drift=wanted.allow_drift,
    )


def _max_batch(opened: Checkpoint, wanted: Wanted, frames: Sequence[int]) -> int:
    """The default of `--max-batch`."""
    from zoetrope_core.specs import UNET
    from zoetrope_export.exporting import default_max_batch
    from zoetrope_export.preflight import stage_weights

    pixels = max(height * width for height, width in wanted.sizes)
    return default_max_batch(
        wanted.precision,
        weights=stage_weights(opened)[UNET.name],
        positions=pixels // opened.vae_scale_factor**2 * max(frames),
    )


def _read_picture(file: Path) -> Array:
    """The picture u8 [H,W,3]; raises ExportError."""
    from zoetrope_server.media.decode import ImageLimits, decode_image

    try:
        return decode_image(file.read_bytes(), ImageLimits())
    except OSError as error:
        raise ExportError(f"--picture {file}: {error.strerror}") from error


def _build_options(wanted: Wanted) -> BuildOptions:
    from zoetrope_export.engine_cache import default_root
    from zoetrope_export.stage_builds import BuildOptions

    return BuildOptions(
        profiles=wanted.profiles,
        compute_capability=wanted.compute_capability,
        workspace_gib=wanted.workspace,
        cache=wanted.cache or default_root(),
        force=wanted.force,
    )


def quiet_libraries() -> None:
    """Turns off the progress bars and notes of the model libraries; some are made while they are imported."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
