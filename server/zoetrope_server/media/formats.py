"""The video formats: how each is written, whole or while it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from zoetrope_core.errors import MediaFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """How one format is written.

    Attributes:
        muxer: FFmpeg's name of the container.
        encoder: FFmpeg's name of the encoder.
        media_type: MIME type of the file.
        suffix: file name suffix with its dot.
        pixel_format: what the encoder is given.
        multiple: width and height must be multiples of this (chroma subsampling).
        quality_option: the encoder's option that quality maps to.
        worst: that option's value at quality 0.
        best: its value at quality 100; linear between.
        options: further options of the encoder.
        muxer_options: options of the container.
        threads: how the encoder shares work between threads, FRAME or SLICE; FRAME holds frames back.
        streams: whether what the container has written never changes, so that it may leave at once.
    """

    muxer: str
    encoder: str
    media_type: str
    suffix: str
    pixel_format: str = "yuv420p"
    multiple: int = 2
    quality_option: str = "crf"
    worst: float
    best: float
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)
    threads: str = "FRAME"
    streams: bool = False

    def encoder_options(self, quality: int) -> dict[str, str]:
        """The encoder's options at a quality of 0..100."""
        value = self.worst + (self.best - self.worst) * quality / 100
        return {**self.options, self.quality_option: f"{value:.2f}"}


# (format, codec) -> how it is written. H.264: quality 0 is CRF 44, 80 is CRF 15.2 (transparent to most eyes),
# 100 is CRF 8.
VIDEO_SPECS: Mapping[tuple[str, str], VideoSpec] = {
    ("mp4", "h264"): VideoSpec(
        muxer="mp4",
        encoder="libx264",
        media_type="video/mp4",
        suffix=".mp4",
        worst=44,
        best=8,
        # Without mbtree: its assembly reads memory that was never written: equal frames gave several files.
        options={"preset": "fast", "x264-params": "mbtree=0"},
        muxer_options={"movflags": "+faststart"},
    ),
}

# The same formats for a video that leaves while it is made: a fragment for each frame. The encoder looks at
# no later frame (no lookahead, no B-frames), and its threads share each frame: all frames of a chunk leave it
# when the chunk is added. The container alone keeps one back, until it has the next. What it costs, measured
# on a panning photo (14 frames of 320x576, 25 of 576x1024; CRF 15 to 26): 2 to 10 % more bytes at one CRF,
# 3 to 10 % more for the same PSNR.
STREAM_SPECS: Mapping[tuple[str, str], VideoSpec] = {
    ("mp4", "h264"): replace(
        VIDEO_SPECS["mp4", "h264"],
        options={"preset": "fast", "tune": "zerolatency", "x264-params": "mbtree=0"},
        muxer_options={"movflags": "+empty_moov+default_base_moof+frag_every_frame", "flush_packets": "1"},
        threads="SLICE",
        streams=True,
    ),
}


def video_spec(format: str = "mp4", codec: str = "h264", *, streams: bool = False) -> VideoSpec:
    """The row of `VIDEO_SPECS`, or of `STREAM_SPECS` for a video that leaves while it is made.

    Raises:
        MediaFailed: no such format with such a codec.
    """
    specs = STREAM_SPECS if streams else VIDEO_SPECS
    spec = specs.get((format, codec))
    if spec is None:
        known = ", ".join("/".join(key) for key in specs)
        raise MediaFailed(f"cannot {'stream' if streams else 'write'} {format} with {codec}; known: {known}")
    return spec
