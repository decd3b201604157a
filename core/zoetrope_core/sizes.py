"""Frame sizes and counts: which are served, which suits a picture, and which are far from the trained ones.

Sizes are (height, width) in pixels; messages have them as clients do, width x height.
"""

from __future__ import annotations

import math

from zoetrope_core.events import Warned
from zoetrope_core.manifest import Manifest, Size

FAR_AREA = 2.0
"""A size is far from the trained one when its area is so many times larger or smaller,"""
FAR_ASPECT = 1.5
"""or when one side is so many times longer beside the other."""


def holds_size(manifest: Manifest, size: Size) -> bool:
    """Whether a size is served: listed, or inside a range, on the grid and no larger than the largest listed.

    The largest listed area bounds what a request takes of memory, which the corner of a range would exceed.
    """
    height, width = size
    inside = any(
        low[0] <= height <= high[0] and low[1] <= width <= high[1] for low, high in manifest.size_ranges
    )
    on_grid = height % manifest.grid == 0 and width % manifest.grid == 0
    return size in manifest.sizes or (inside and on_grid and height * width <= _largest(manifest))


def holds_frames(manifest: Manifest, count: int) -> bool:
    """Whether a frame count is served: listed, or inside the range."""
    low, high = manifest.frame_range or (1, 0)
    return count in manifest.num_frames or low <= count <= high


def served_sizes(manifest: Manifest) -> str:
    """The served sizes in words."""
    listed = "one of " + ", ".join(f"{width}x{height}" for height, width in manifest.sizes)
    ranges = ", ".join(f"{low[1]}..{high[1]} x {low[0]}..{high[0]}" for low, high in manifest.size_ranges)
    rule = f"in multiples of {manifest.grid}, at most {_largest(manifest)} pixels"
    return f"{listed}, or any of {ranges} {rule}" if ranges else listed


def served_frames(manifest: Manifest) -> str:
    """The served frame counts in words."""
    listed = "one of " + ", ".join(map(str, manifest.num_frames))
    low, high = manifest.frame_range or (1, 0)
    return f"{listed}, or any from {low} to {high}" if low < high else listed


def refused_side(manifest: Manifest, size: Size) -> str:
    """Which of `width` and `height` to name when a size is not served: the width if no size has it."""
    width = size[1]
    listed = any(width == other for _, other in manifest.sizes)
    inside = any(low[1] <= width <= high[1] for low, high in manifest.size_ranges)
    return "height" if listed or (inside and width % manifest.grid == 0) else "width"


def complete_size(
    manifest: Manifest, height: int | None, width: int | None, picture: Size | None = None
) -> Size:
    """The size that is meant where sides may be left open; it need not be served.

    The listed sizes that have the given sides are looked at: the one nearest to the picture's aspect ratio is
    taken, or the first without a picture. Where none has them, an open side is that of the default size.
    """
    fitting = [size for size in manifest.sizes if height in (None, size[0]) and width in (None, size[1])]
    if not fitting:
        return height or manifest.sizes[0][0], width or manifest.sizes[0][1]
    return fitting[0] if picture is None else nearest(fitting, picture)


def nearest(sizes: list[Size], picture: Size) -> Size:
    """The size of the aspect ratio that is nearest to the picture's, as a factor; of equals the largest."""

    def distance(size: Size) -> tuple[float, int]:
        # Rounded, since 3:2 and 2:3 are equally far from a square.
        return round(_aspect_factor(size, picture), 9), -math.prod(size)

    return min(sizes, key=distance)


def far_from_trained(manifest: Manifest, size: Size, num_frames: int) -> tuple[Warned, ...]:
    """A warning for the size and one for the frame count, as far as the trained ones are known."""
    found = []
    trained, frames = manifest.trained_size, manifest.trained_frames
    if trained is not None and _is_far(size, trained):
        message = f"{size[1]}x{size[0]} is far from {trained[1]}x{trained[0]}, the size of the training"
        found.append(Warned(code="far_from_trained", field="size", message=message))
    if frames is not None and num_frames > frames:
        message = f"{num_frames} frames are more than the {frames} of the training"
        found.append(Warned(code="far_from_trained", field="num_frames", message=message))
    return tuple(found)


def _is_far(size: Size, trained: Size) -> bool:
    area = math.prod(size) / math.prod(trained)
    return max(area, 1 / area) > FAR_AREA or _aspect_factor(size, trained) > FAR_ASPECT


def _aspect_factor(one: Size, other: Size) -> float:
    """By how much the aspect ratios differ: at least 1, and 1 when they are equal."""
    factor = (one[0] * other[1]) / (one[1] * other[0])
    return max(factor, 1 / factor)


def _largest(manifest: Manifest) -> int:
    return max(map(math.prod, manifest.sizes))
