"""Other programs decode every format: Debian's ffmpeg and Chromium, where they are installed."""

import io
import json
import shutil
import subprocess

import browser
import numpy as np
import pytest
from clips import panning
from PIL import Image

from zoetrope_core.formats import FORMATS
from zoetrope_server.media.encode import VideoEncoder
from zoetrope_server.media.formats import STREAM_SPECS, VIDEO_SPECS

CLIP = panning(6)
FPS = 7
SHOWN = [(*key, False) for key in VIDEO_SPECS if key[0] not in ("png", "jpeg", "raw")]
SHOWN += [(*key, True) for key in STREAM_SPECS]
BOUND = {"gif": 3.5}
"""The mean error of 255 that is allowed; 1.5 for all others."""


def encoded(format, codec, streams):
    with VideoEncoder(fps=FPS, format=format, codec=codec, quality=100, streams=streams) as encoder:
        encoder.add(CLIP)
        return encoder.take() + encoder.finish()


def error(frame, number):
    assert frame.shape == CLIP[number].shape
    return np.abs(frame.astype(float) - CLIP[number]).mean()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (apt-get install ffmpeg)")
@pytest.mark.parametrize(("format", "codec", "streams"), [row for row in SHOWN if row[0] != "webp"])
def test_ffmpeg_decodes_it(format, codec, streams, tmp_path):
    path = tmp_path / f"video{FORMATS[format].suffixes[0]}"
    path.write_bytes(encoded(format, codec, streams))
    probe = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)]
    (stream,) = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"]
    if codec:
        tags = [stream[f"color_{name}"] for name in ("range", "space", "transfer", "primaries")]
        assert tags == ["tv", "bt709", "bt709", "bt709"]
        assert (stream["codec_name"], stream["r_frame_rate"]) == ({"h265": "hevc"}.get(codec, codec), "7/1")
    scale = "scale=flags=bicubic+accurate_rnd+full_chroma_int"
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", scale, "-fps_mode", "passthrough"]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, *CLIP.shape[1:])
    assert len(frames) == len(CLIP)
    assert max(error(frame, number) for number, frame in enumerate(frames)) < BOUND.get(format, 1.5)


@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
def test_chromium_shows_it(tmp_path):
    files = {
        f"{format}-{codec}-{streams}": browser.File(
            data=encoded(format, codec, streams), type=FORMATS[format].media_type, fps=FPS, frames=(0, 3, 5)
        )
        for format, codec, streams in SHOWN
        if codec != "h265"  # which Debian's Chromium is built without
    }
    shown = browser.shown(files, tmp_path / "profile")
    for name, each in shown.items():
        assert each.error is None, (name, each.error)
        assert set(each.frames) == {0, 3, 5}, name
        worst = max(error(frame, number) for number, frame in each.frames.items())
        assert worst < BOUND.get(name.split("-")[0], 1.5), (name, worst)
        assert each.length is not None and each.length > 0


def test_the_bound_would_notice_a_wrong_matrix_or_range():
    """The same frames read with the matrix of BT.601, or as full range, are further off than the bound."""
    import av

    with av.open(io.BytesIO(encoded("mp4", "h264", False))) as container:
        frame = next(container.decode(video=0))
        for wrong in ({"src_colorspace": "ITU601"}, {"src_color_range": "JPEG"}):
            picture = np.asarray(Image.fromarray(frame.reformat(format="rgb24", **wrong).to_ndarray()))
            assert error(picture, 0) > 1.5, wrong
