"""What each format costs and keeps: bytes, seconds to encode and PSNR, at several qualities.

    python -m zoetrope_bench.formats FRAMES.npy [--json FILE]
    python -m zoetrope_bench.formats REPOSITORY --image FILE [--json FILE]

The frames are u8 [F,H,W,3]; from a model repository they are those of one generated video.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from PIL import Image, ImageSequence
from rich.console import Console

from zoetrope_bench.demo_videos import Frames, Settings, Subject, served_generator
from zoetrope_bench.report import Figure, Report
from zoetrope_export.parity import psnr
from zoetrope_server.media.encode import encode_video
from zoetrope_server.media.formats import VIDEO_SPECS

QUALITIES = (30, 60, 80, 95)
_LOSSLESS = ("png", "raw")
_TO_RGB = "flags=bicubic+accurate_rnd+full_chroma_int:in_range=limited:in_color_matrix=bt709"


def decode(data: bytes, format: str, shape: tuple[int, ...]) -> Frames:
    """The frames u8 [F,H,W,3] of a file; `shape` is that of a raw one."""
    if format == "raw":
        return np.frombuffer(data, np.uint8).reshape(shape)
    if format in ("png", "jpeg"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pictures = [Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()]
        return np.stack([np.asarray(picture) for picture in pictures])
    if format in ("gif", "webp"):
        frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
        return np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
    return _decode_video(data)


def _decode_video(data: bytes) -> Frames:
    graph = None
    found = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            if graph is None:
                graph = av.filter.Graph()
                scale = graph.add("scale", f"{frame.width}:{frame.height}:{_TO_RGB}")
                source = graph.add_buffer(template=container.streams.video[0])
                graph.link_nodes(
                    source, scale, graph.add("format", "rgb24"), graph.add("buffersink")
                ).configure()
            graph.push(frame)
            found.append(graph.pull().to_ndarray())
    return np.stack(found)


def measure(frames: Frames, format: str, codec: str | None, quality: int, fps: int = 7) -> dict[str, Any]:
    """One row: the file's bytes, the least of three times to encode it, and its PSNR (None if lossless)."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        data = encode_video([frames], fps=fps, format=format, codec=codec, quality=quality)
        seconds.append(time.perf_counter() - began)
    decoded = decode(data, format, frames.shape)
    exact = np.array_equal(decoded, frames)
    return {
        "format": format,
        "codec": codec,
        "quality": None if format in _LOSSLESS else quality,
        "bytes": len(data),
        "seconds": round(min(seconds), 3),
        "psnr_db": None if exact else round(psnr(frames, decoded), 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as docs/formats.md shows them."""
    lines = ["| format | quality | KB | encode, s | PSNR, dB |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        name = "/".join(filter(None, (row["format"], row["codec"])))
        kept = "exact" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        quality = "any" if row["quality"] is None else row["quality"]
        lines.append(f"| {name} | {quality} | {row['bytes'] / 1000:.1f} | {row['seconds']:.3f} | {kept} |")
    return "\n".join(lines)


def formats(
    source: Annotated[Path, typer.Argument(help="frames (.npy), or a model repository", exists=True)],
    image: Annotated[Path | None, typer.Option(help="the picture to animate", exists=True)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Measures size, time and PSNR of every format."""
    frames = _frames(source, image)
    rows = [
        measure(frames, format, codec, quality)
        for format, codec in VIDEO_SPECS
        for quality in (QUALITIES[-1:] if format in _LOSSLESS else QUALITIES)
    ]
    at_80 = {row["codec"]: row["psnr_db"] for row in rows if row["codec"] and row["quality"] == 80}
    differences = [
        Figure(
            name=f"{codec}: PSNR beside H.264's at quality 80",
            measured=abs(value - at_80["h264"]),
            unit="dB",
            target=3.0,
            at_most=True,
        )
        for codec, value in at_80.items()
        if codec != "h264"
    ]
    outcome = Report(
        benchmark="formats",
        figures=differences,
        parameters={"frames": len(frames), "size": list(frames.shape[1:3]), "fps": 7},
        details={"rows": rows},
    )
    console = Console(stderr=True)
    console.print(table(rows), markup=False)
    outcome.show(console)
    if json_file:
        outcome.save(json_file)


def _frames(source: Path, image: Path | None) -> Frames:
    if source.is_file():
        loaded: Frames = np.load(source)
        return loaded
    if image is None:
        raise typer.BadParameter("a model repository needs a picture", param_hint="--image")
    picture = np.asarray(Image.open(image).convert("RGB"))
    with served_generator(source) as generate:
        return generate(Subject(image.stem, picture), Settings())


if __name__ == "__main__":
    typer.run(formats)
