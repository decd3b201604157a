"""Encoding: what is in the file, that the colours survive, and that equal frames give equal bytes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from clips import bars, decode_video, gradient, moving, stream_of

from zoetrope_core.errors import MediaFailed
from zoetrope_server.media.encode import VideoEncoder, encode_video
from zoetrope_server.media.formats import video_spec


@pytest.mark.parametrize("fps", [7, 25, Fraction(30000, 1001), Fraction(1, 2)])
@pytest.mark.parametrize("count", [1, 2, 14])
def test_what_is_in_the_file(fps: int | Fraction, count: int) -> None:
    data = encode_video([moving(count)], fps=fps)
    found = stream_of(data)
    assert found["codec"] == "h264" and found["pixels"] == "yuv420p" and found["streams"] == 1
    assert found["size"] == (64, 96)
    assert found["rate"] == fps
    assert float(found["seconds"]) == pytest.approx(count / fps, abs=1e-3)
    assert found["colours"] == (1, 1, 1, 1)  # BT.709 three times (ITU-T H.273), limited range
    assert "creation_time" not in found["metadata"]
    assert decode_video(data).shape == (count, 64, 96, 3)


def test_the_index_comes_first() -> None:
    data = encode_video([moving(5)], fps=7)
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("picture", [bars, gradient], ids=["bars", "gradient"])
def test_colours_survive(picture: Callable[[], np.ndarray]) -> None:
    image = picture()
    decoded = decode_video(encode_video([image[None].repeat(4, 0)], fps=7, quality=100))
    assert np.abs(decoded.astype(float) - image).mean() < 1.5
    middles = [32 + 64 * number for number in range(7)]  # away from edges, where chroma is shared
    assert np.abs(decoded[:, 64, middles].astype(int) - image[64, middles]).max() <= 3


def test_chroma_sits_where_players_expect_it() -> None:
    """To the left of each pair: on a ramp, chroma sample i is the colour of pixel 2 i, not of 2 i + 0.5."""
    ramp = np.zeros((32, 256, 3), np.uint8)
    ramp[..., 2] = np.arange(256)
    with av.open(io.BytesIO(encode_video([ramp[None]], fps=7, quality=100))) as container:
        planes = next(container.decode(video=0)).to_ndarray()
    cb = planes[32:].reshape(2, 16, 128)[0, 8, 8:-8].astype(float)
    exact = 128 + 224 * (ramp[0, ::2, 2] / 255) * (1 - 0.0722) / 1.8556
    assert abs((cb - exact[8:-8]).mean()) < 0.11  # half a pixel off is 0.22


def test_quality_orders_size_and_error() -> None:
    rng = np.random.default_rng(0)
    clip = (moving(4) // 2 + rng.integers(0, 100, (4, 64, 96, 3))).astype(np.uint8)
    files = [encode_video([clip], fps=7, quality=quality) for quality in (0, 40, 80, 100)]
    errors = [np.abs(decode_video(data).astype(float) - clip).mean() for data in files]
    assert [len(data) for data in files] == sorted(len(data) for data in files)
    assert errors == sorted(errors, reverse=True)
    assert len(files[0]) * 4 < len(files[-1])


def test_the_mapping_of_quality() -> None:
    spec = video_spec("mp4", "h264")
    assert [spec.encoder_options(quality)["crf"] for quality in (0, 50, 100)] == ["44.00", "26.00", "8.00"]


def test_equal_frames_give_equal_bytes() -> None:
    clip = moving(14, 128, 192)
    first = encode_video([clip], fps=7)
    assert all(encode_video([clip], fps=7) == first for _ in range(3))
    assert encode_video([clip[:5], clip[5:6], clip[6:]], fps=7) == first
    assert encode_video(iter([clip]), fps=7) == first
    assert encode_video([np.asfortranarray(clip)], fps=7) == first
    assert encode_video([clip[::-1]], fps=7) != first


def test_frames_keep_their_order() -> None:
    levels = np.arange(10, 240, 10)
    clip = np.ones((len(levels), 32, 32, 3), np.uint8) * levels[:, None, None, None].astype(np.uint8)
    decoded = decode_video(encode_video([clip], fps=7, quality=100)).mean((1, 2, 3))
    assert np.abs(decoded - levels).max() < 2


def test_chunk_by_chunk() -> None:
    encoder = VideoEncoder(fps=7)
    encoder.add(moving(5)[:3])
    encoder.add(moving(5)[3:])
    assert encoder.count == 5
    assert decode_video(encoder.finish()).shape[0] == 5
    with pytest.raises(MediaFailed, match="finished"):
        encoder.finish()
    with pytest.raises(MediaFailed, match="finished"):
        encoder.add(moving(1))


def test_an_unfinished_video_can_be_let_go() -> None:
    encoder = VideoEncoder(fps=7)
    encoder.add(moving(3))
    encoder.close()
    encoder.close()
    with pytest.raises(MediaFailed, match="finished"):
        encoder.add(moving(1))
    with VideoEncoder(fps=7):
        pass


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (np.zeros((1, 15, 16, 3), np.uint8), "16x15"),
        (np.zeros((1, 16, 15, 3), np.uint8), "15x16"),
        (np.zeros((1, 0, 16, 3), np.uint8), "16x0"),
        (np.zeros((1, 16, 16, 4), np.uint8), "u8"),
        (np.zeros((1, 16, 16, 3), np.float32), "float32"),
        (np.zeros((16, 16, 3), np.uint8), "u8"),
        (np.zeros((0, 16, 16, 3), np.uint8), "at least one frame"),
    ],
)
def test_frames_that_cannot_be_encoded(frames: np.ndarray, complaint: str) -> None:
    with pytest.raises(MediaFailed, match=complaint):
        encode_video([frames], fps=7)


def test_no_frames_at_all() -> None:
    with pytest.raises(MediaFailed, match="at least one frame"):
        encode_video([], fps=7)


def test_the_size_may_not_change() -> None:
    with pytest.raises(MediaFailed, match="another size"):
        encode_video([moving(1), moving(1, 32, 32)], fps=7)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": Fraction(-1, 2)}, "fps"),
        ({"fps": 7, "quality": 101}, "quality"),
        ({"fps": 7, "quality": -1}, "quality"),
        ({"fps": 7, "format": "avi"}, "cannot write avi; known: mp4/h264"),
        ({"fps": 51, "format": "gif"}, "at most 50 in gif"),
        ({"fps": 7, "format": "gif", "codec": "h264"}, "cannot write gif with h264"),
        ({"fps": 7, "codec": "theora"}, "mp4/h264"),
    ],
)
def test_parameters_that_cannot_be_used(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MediaFailed, match=complaint):
        encode_video([moving(1)], **options)


def test_an_error_of_the_codec_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise av.error.ExternalError(1, "the codec is gone")

    monkeypatch.setattr("av.open", fail)
    with pytest.raises(MediaFailed, match="the codec is gone"):
        encode_video([moving(1)], fps=7)


def test_an_error_of_the_source_passes_through() -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield moving(2)
        raise KeyError("the engine is gone")

    with pytest.raises(KeyError):
        encode_video(chunks(), fps=7)


_SMALL = """
import hashlib
import sys
import numpy as np
from zoetrope_server.media.encode import VideoEncoder
rng = np.random.default_rng(0)
digests = []
for _ in range(4):
    still = rng.normal(128, 60, (1, 4, 6, 3)).repeat(16, 1).repeat(16, 2)
    moving = rng.normal(0, 30, (6, 16, 24, 3)).repeat(4, 1).repeat(4, 2)
    frames = np.clip(still + moving, 0, 255).astype(np.uint8)
    encoder = VideoEncoder(fps=7, streams=sys.argv[1] == "streams")
    encoder.add(frames)
    digests.append(hashlib.sha256(encoder.finish()).hexdigest())
print(digests)
"""


@pytest.mark.parametrize("kind", ["whole", "streams"])
def test_equal_frames_give_equal_bytes_whatever_lay_in_memory_before(kind: str) -> None:
    digests = set()
    for fill in ("0", "1", "85", "170"):
        environment = {**os.environ, "MALLOC_PERTURB_": fill}
        command = [sys.executable, "-c", _SMALL, kind]
        digests.add(
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout
        )
    assert len(digests) == 1
