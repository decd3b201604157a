"""What a server can do, as a table for people."""

from __future__ import annotations

from rich.table import Table

from zoetrope_core.metadata import Metadata


def table(url: str, ready: bool, metadata: Metadata) -> Table:
    """The table of `zoetrope info`."""
    found = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _rows(url, ready, metadata):
        found.add_row(name, text)
    return found


def _rows(url: str, ready: bool, metadata: Metadata) -> list[tuple[str, str]]:
    limits = metadata.limits
    trained = [_frame(metadata.trained_size)] if metadata.trained_size else []
    trained += [f"{metadata.trained_frames} frames"] if metadata.trained_frames else []
    return [
        ("server", f"{url}, {'ready' if ready else 'not ready'}, zoetrope {metadata.release}"),
        ("checkpoint", metadata.checkpoint + (f", trained at {', '.join(trained)}" if trained else "")),
        ("engine", f"{metadata.engine}, {metadata.precision}, {metadata.max_batch_size} videos at once"),
        ("sizes", _sizes(metadata)),
        ("frames", _frames(metadata)),
        ("samplers", ", ".join(metadata.samplers)),
        ("schedules", ", ".join(metadata.schedules)),
        ("formats", ", ".join(_format(name, row.codecs) for name, row in metadata.formats.items())),
        ("previews", "yes" if metadata.previews else "no"),
        ("requests", f"{limits.max_active} run, {limits.max_waiting} wait"),
    ]


def _sizes(metadata: Metadata) -> str:
    listed = ", ".join(map(_frame, metadata.sizes))
    ranges = [f"{low[1]}..{high[1]} x {low[0]}..{high[0]}" for low, high in metadata.size_ranges]
    return f"{listed}, or {', '.join(ranges)} in multiples of {metadata.grid}" if ranges else listed


def _frames(metadata: Metadata) -> str:
    listed = ", ".join(map(str, metadata.num_frames))
    low, high = metadata.frame_range or (1, 0)
    return f"{listed}, or {low} to {high}" if low < high else listed


def _format(name: str, codecs: tuple[str, ...]) -> str:
    return f"{name} ({', '.join(codecs)})" if codecs else name


def _frame(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
