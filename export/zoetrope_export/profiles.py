"""Optimization profiles: the ranges of shapes that an engine is built for, from the stage specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from zoetrope_core.manifest import Manifest, Size
from zoetrope_core.specs import STATIC_SYMBOLS, StageSpec
from zoetrope_export.errors import ExportError
from zoetrope_server import batching
from zoetrope_server.engines.sidecar import Profile, Range
from zoetrope_server.engines.tensorrt import LIBRARIES

ROWS: Range = (1, 2, 2)
"""K: one condition row without guidance, two with it."""


def size_groups(sizes: Sequence[Size], groups: Sequence[Sequence[Size]]) -> tuple[tuple[Size, ...], ...]:
    """The frame sizes of each profile.

    A profile of one size is the fastest; a profile of several costs speed, and saves the memory and the
    build of further profiles.

    Args:
        sizes: all sizes (height, width) that are served.
        groups: the sizes that share a profile, as they were asked for; a size in none gets its own.

    Raises:
        ExportError: a group names a size that is not served, or one that another group has.
    """
    named = [size for group in groups for size in group]
    for height, width in named:
        if (height, width) not in sizes:
            raise ExportError(f"--profile {height}x{width}: not among the sizes; add --size {height}x{width}")
        if named.count((height, width)) > 1:
            raise ExportError(f"--profile {height}x{width}: named twice; a size has one profile")
    rest = tuple((size,) for size in sizes if size not in named)
    return (*(tuple(group) for group in groups), *rest)


def with_ranges(
    manifest: Manifest, groups: Sequence[Sequence[Size]] = (), *, between: bool | None = None
) -> Manifest:
    """The manifest with what its engines hold beyond the listed sizes and frame counts.

    The sizes between those of a group are served, and the frame counts between the listed ones. TensorRT
    holds no more than its profiles; the other engines take any shape, so that there all sizes are one group
    unless groups are named.

    Args:
        manifest: sizes, frame counts and engine.
        groups: see `size_groups`.
        between: whether anything but what is listed is served. By default it is; with OpenVINO only where
            groups are named, since it compiles each shape when it first occurs, and other requests wait then.
    """
    by_default = bool(groups) or manifest.engine != "openvino"
    if not (by_default if between is None else between):
        return manifest
    bound_by_profiles = manifest.engine in LIBRARIES
    shared = size_groups(manifest.sizes, groups) if groups or bound_by_profiles else (manifest.sizes,)
    ends = [_ends(group) for group in shared if len(group) > 1]
    least, most = min(manifest.num_frames), max(manifest.num_frames)
    return replace(manifest, size_ranges=tuple(ends), frame_range=(least, most) if least < most else None)


def _ends(sizes: Sequence[Size]) -> tuple[Size, Size]:
    """The least and the largest height and width."""
    heights, widths = zip(*sizes, strict=True)
    return (min(heights), min(widths)), (max(heights), max(widths))


def profiles(
    stage: StageSpec, manifest: Manifest, groups: Sequence[Sequence[Size]] = ()
) -> tuple[Profile, ...]:
    """The optimization profiles of a stage: one for each group of sizes, or one where sizes do not matter.

    Args:
        stage: the stage.
        manifest: sizes, frame counts, the decoder's chunk and the largest batch.
        groups: see `size_groups`.
    """
    symbols = {dim for spec in stage.inputs for dim in spec.dims if isinstance(dim, str)}
    dynamic = sorted(symbols - set(STATIC_SYMBOLS))
    found: list[Profile] = []
    for sizes in size_groups(manifest.sizes, groups):
        ranges = _ranges(manifest, sizes)
        batch = (1, 1, batching.max_batch(stage, manifest))
        profile = {"B": batch} | {symbol: ranges[symbol] for symbol in dynamic}
        if profile not in found:
            found.append(profile)
    return tuple(found)


def _ranges(manifest: Manifest, sizes: Sequence[Size]) -> dict[str, Range]:
    """The range of each dynamic symbol over some sizes; the first of each kind is the usual one."""
    heights, widths = ([size[axis] for size in sizes] for axis in (0, 1))
    factor, chunk = manifest.vae_scale_factor, min(manifest.decode_chunk_size, max(manifest.num_frames))
    return {
        "K": ROWS,
        "F": _around(manifest.num_frames),
        "f": (1, chunk, chunk),
        "H": _around(heights),
        "W": _around(widths),
        "h": _around([height // factor for height in heights]),
        "w": _around([width // factor for width in widths]),
    }


def _around(values: Sequence[int]) -> Range:
    return min(values), values[0], max(values)


def input_shapes(
    stage: StageSpec, profile: Profile, static: Mapping[str, int]
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The least, usual and largest shape of each input of a stage, with its batch dimension.

    Args:
        stage: the stage.
        profile: the ranges of its dynamic symbols.
        static: the values of the static symbols.
    """
    return {
        spec.name: tuple(
            (
                profile["B"][end],
                *spec.shape({**static, **{symbol: values[end] for symbol, values in profile.items()}}),
            )
            for end in range(3)
        )
        for spec in stage.inputs
    }
