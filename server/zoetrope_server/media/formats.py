"""The video formats: how each is written, whole or while it is made.

What one quality means was measured on a generated video and on a panning photo: linear between `worst` and
`best`, it gives about the PSNR that H.264 has there, see docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from zoetrope_core.errors import MediaFailed

Key: TypeAlias = tuple[str, str | None]
"""Format and codec; no codec where the format leaves no choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """How one format is written.

    Attributes:
        muxer: FFmpeg's name of the container; `zip` is an archive of single frames.
        encoder: FFmpeg's name of the encoder; Pillow's of the file format in a `zip`.
        pixel_format: what the encoder is given; `pal8` has one palette for the whole video.
        quality_option: the encoder's option that quality maps to; None where it has none.
        worst: that option's value (the colours of a palette) at quality 0.
        best: its value at quality 100; linear between.
        digits: decimal places of that value.
        options: further options of the encoder.
        muxer_options: options of the container.
        threads: how the encoder shares work between threads, FRAME or SLICE; FRAME holds frames back.
        ticks: times are multiples of 1/ticks seconds in this container; of a frame's duration without one.
        tag: the container's name for the codec; FFmpeg's choice without one.
        environment: variables that keep the encoder's library from writing to standard error.
    """

    muxer: str
    encoder: str
    pixel_format: str = "yuv420p"
    quality_option: str | None = "crf"
    worst: float = 0
    best: float = 0
    digits: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)
    threads: str = "FRAME"
    ticks: int | None = None
    tag: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def level(self, quality: int) -> str:
        """What a quality of 0..100 is to the encoder."""
        return f"{self.worst + (self.best - self.worst) * quality / 100:.{self.digits}f}"

    def encoder_options(self, quality: int) -> dict[str, str]:
        """The encoder's options at a quality of 0..100."""
        mapped = {self.quality_option: self.level(quality)} if self.quality_option else {}
        return {**self.options, **mapped}


# Where a file has a random identity or names the library that wrote it, it is left out.
_WEBM = {"fflags": "+bitexact"}
_X265 = "log-level=none:cutree=0:ctu=32:bframes=0"
# H.264: quality 0 is CRF 44, 80 is CRF 15.2 (transparent to most eyes), 100 is CRF 8.
VIDEO_SPECS: Mapping[Key, VideoSpec] = {
    ("mp4", "h264"): VideoSpec(
        muxer="mp4",
        encoder="libx264",
        worst=44,
        best=8,
        digits=2,
        # Without mbtree: its assembly reads memory that was never written: equal frames gave several files.
        options={"preset": "fast", "x264-params": "mbtree=0"},
        muxer_options={"movflags": "+faststart"},
    ),
    ("mp4", "h265"): VideoSpec(
        muxer="mp4",
        encoder="libx265",
        worst=44,
        best=8,
        digits=2,
        # x265 (build 216) without what breaks in it, by valgrind and by equal frames that gave several files:
        # cutree writes past frames narrower than 50 pixels, a frame of a single block is read past its end
        # (hence small blocks, and LEAST_SIDE), and B-frames leave the times of one or two frames unset.
        options={"preset": "fast", "x265-params": _X265},
        muxer_options={"movflags": "+faststart"},
        tag="hvc1",  # Apple's players refuse hev1
    ),
    ("mp4", "av1"): VideoSpec(
        muxer="mp4",
        encoder="libsvtav1",
        worst=63,
        best=1,
        options={"preset": "8", "svtav1-params": "lp=2"},
        muxer_options={"movflags": "+faststart"},
        environment={"SVT_LOG": "1"},
    ),
    ("webm", "vp9"): VideoSpec(
        muxer="webm",
        encoder="libvpx-vp9",
        worst=63,
        best=1,
        options={"b": "0", "deadline": "good", "cpu-used": "3", "tile-columns": "2"},
        muxer_options=_WEBM,
    ),
    ("webp", None): VideoSpec(
        muxer="webp",
        encoder="libwebp_anim",
        # The library turns RGB to the YUV that its format prescribes.
        pixel_format="bgra",
        quality_option="quality",
        worst=25,
        best=100,
        muxer_options={"loop": "0"},
        ticks=1000,
    ),
    ("gif", None): VideoSpec(
        muxer="gif",
        encoder="gif",
        pixel_format="pal8",
        quality_option=None,
        worst=16,
        best=256,
        muxer_options={"loop": "0"},
        ticks=100,
    ),
    ("png", None): VideoSpec(
        muxer="zip", encoder="PNG", pixel_format="rgb24", quality_option=None, options={"compress_level": "4"}
    ),
    ("jpeg", None): VideoSpec(
        muxer="zip",
        encoder="JPEG",
        pixel_format="rgb24",
        quality_option="quality",
        worst=10,
        best=100,
        options={"subsampling": "0"},
    ),
    ("raw", None): VideoSpec(muxer="rawvideo", encoder="rawvideo", pixel_format="rgb24", quality_option=None),
}

_FRAGMENTS = {"movflags": "+empty_moov+default_base_moof+frag_every_frame", "flush_packets": "1"}
_CLUSTERS = {**_WEBM, "live": "1", "cluster_time_limit": "1", "flush_packets": "1"}


def _streamed(key: Key, muxer_options: Mapping[str, str], **options: str) -> VideoSpec:
    """The row of a whole file with other options, and threads that share each frame."""
    row = VIDEO_SPECS[key]
    merged = {**row.options, **options}
    return replace(row, options=merged, muxer_options=muxer_options, threads="SLICE")


# The same formats for a video that leaves while it is made: a fragment for each frame. The encoder looks at
# no later frame (no lookahead, no B-frames), and its threads share each frame: all frames of a chunk leave it
# when the chunk is added. The container alone keeps one back, until it has the next. What it costs H.264,
# measured on a panning photo (14 frames of 320x576, 25 of 576x1024; CRF 15 to 26): 2 to 10 % more bytes at
# one CRF, 3 to 10 % more for the same PSNR.
STREAM_SPECS: Mapping[Key, VideoSpec] = {
    ("mp4", "h264"): _streamed(("mp4", "h264"), _FRAGMENTS, tune="zerolatency"),
    ("mp4", "h265"): _streamed(
        ("mp4", "h265"), _FRAGMENTS, **{"x265-params": _X265 + ":rc-lookahead=0:scenecut=0:frame-threads=1"}
    ),
    ("mp4", "av1"): _streamed(
        ("mp4", "av1"), _FRAGMENTS, **{"svtav1-params": "lp=2:pred-struct=1:lookahead=0"}
    ),
    ("webm", "vp9"): _streamed(("webm", "vp9"), _CLUSTERS, **{"lag-in-frames": "0", "auto-alt-ref": "0"}),
}


def _on_nvenc(specs: Mapping[Key, VideoSpec], **options: str) -> dict[Key, VideoSpec]:
    """The rows of the codecs that NVENC has, with its encoders."""
    names = {"h264": "h264_nvenc", "h265": "hevc_nvenc", "av1": "av1_nvenc"}
    return {
        key: replace(
            row,
            encoder=names[codec],
            quality_option="cq",
            best=max(row.best, 1),
            worst=min(row.worst, 51),
            options={"preset": "p5", "rc": "vbr", "b": "0", **options},
            environment={},
        )
        for key, row in specs.items()
        if (codec := key[1] or "") in names
    }


HARDWARE_SPECS: Mapping[Key, VideoSpec] = _on_nvenc(VIDEO_SPECS, tune="hq")
"""What an NVIDIA GPU with an encoder can write instead."""
HARDWARE_STREAM_SPECS: Mapping[Key, VideoSpec] = _on_nvenc(
    STREAM_SPECS, tune="ull", bf="0", delay="0", zerolatency="1"
)


def video_spec(format: str = "mp4", codec: str | None = "h264", *, streams: bool = False) -> VideoSpec:
    """The row of `VIDEO_SPECS`, or of `STREAM_SPECS` for a video that leaves while it is made.

    Raises:
        MediaFailed: no such format with such a codec.
    """
    specs = STREAM_SPECS if streams else VIDEO_SPECS
    spec = specs.get((format, codec))
    if spec is None:
        known = ", ".join("/".join(filter(None, key)) for key in specs)
        wanted = f"{format} with {codec}" if codec else format
        raise MediaFailed(f"cannot {'stream' if streams else 'write'} {wanted}; known: {known}")
    return spec
