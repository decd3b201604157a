"""A video that leaves while it is made: its parts come early, and together they are the file."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import decode_video, moving, stream_of

from zoetrope_core.errors import MediaFailed
from zoetrope_core.formats import FORMATS
from zoetrope_server.media import formats
from zoetrope_server.media.encode import VideoEncoder, encode_video


def parts_of(chunks: list[np.ndarray], fps: int | Fraction = 7, quality: int = 80) -> list[bytes]:
    """What can be taken after each chunk, and the end."""
    with VideoEncoder(fps=fps, quality=quality, streams=True) as encoder:
        parts = []
        for chunk in chunks:
            encoder.add(chunk)
            parts.append(encoder.take())
        return [*parts, encoder.finish()]


def boxes(data: bytes) -> list[str]:
    """The names of the file's outermost boxes (ISO/IEC 14496-12, 4.2)."""
    names, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        assert size >= 8 and at + size <= len(data), "a box that is cut off"
        names.append(data[at + 4 : at + 8].decode())
        at += size
    return names


@pytest.mark.parametrize("fps", [7, 25, Fraction(30000, 1001)])
@pytest.mark.parametrize("count", [1, 2, 14])
def test_the_parts_together_are_a_playable_file(fps: int | Fraction, count: int) -> None:
    data = b"".join(parts_of([moving(count)[:5], moving(count)[5:]] if count > 5 else [moving(count)], fps))
    found = stream_of(data)
    assert found["codec"] == "h264" and found["pixels"] == "yuv420p" and found["streams"] == 1
    assert found["size"] == (64, 96) and found["rate"] == fps
    assert float(found["seconds"]) == pytest.approx(count / fps, abs=1e-3)
    assert found["colours"] == (1, 1, 1, 1)
    assert "creation_time" not in found["metadata"]
    assert decode_video(data).shape == (count, 64, 96, 3)


def test_all_frames_of_a_chunk_but_one_leave_with_it() -> None:
    clip = moving(20, 128, 192)
    parts = parts_of([clip[:7], clip[7:8], clip[8:]])
    assert [boxes(part).count("moof") for part in parts] == [6, 1, 12, 1]
    for number, frames in enumerate((6, 7, 19, 20), start=1):
        assert len(decode_video(b"".join(parts[:number]))) == frames


def test_each_part_is_of_whole_boxes_and_the_first_has_the_header() -> None:
    parts = [boxes(part) for part in parts_of([moving(3), moving(2)])]
    assert parts[0][:2] == ["ftyp", "moov"]
    assert [name for part in parts for name in part].count("moov") == 1


def test_what_left_is_never_rewritten() -> None:
    clip = moving(9)
    shorter, longer = parts_of([clip[:4], clip[4:6]]), parts_of([clip[:4], clip[4:6], clip[6:]])
    assert shorter[:2] == longer[:2]


def test_equal_frames_give_equal_bytes_however_they_are_cut() -> None:
    clip = moving(14, 128, 192)
    first = b"".join(parts_of([clip]))
    assert all(b"".join(parts_of([clip])) == first for _ in range(3))
    assert b"".join(parts_of([clip[:5], clip[5:6], clip[6:]])) == first
    assert b"".join(parts_of([clip[::-1]])) != first


def test_the_frames_are_as_good_as_those_of_a_whole_file() -> None:
    clip = moving(14, 128, 192)
    whole, streamed = encode_video([clip], fps=7), b"".join(parts_of([clip]))
    errors = [np.abs(decode_video(data).astype(float) - clip).mean() for data in (whole, streamed)]
    assert errors[1] < 1.1 * errors[0]
    assert whole != streamed


def test_of_a_whole_file_nothing_can_be_taken_before_its_end() -> None:
    with VideoEncoder(fps=7) as encoder:
        encoder.add(moving(14))
        assert encoder.take() == b""
        assert encoder.finish() == encode_video([moving(14)], fps=7)


def test_an_unfinished_stream_can_be_let_go() -> None:
    encoder = VideoEncoder(fps=7, streams=True)
    encoder.add(moving(3))
    encoder.close()
    with pytest.raises(MediaFailed, match="finished"):
        encoder.finish()


def test_what_can_be_streamed_is_what_the_core_says() -> None:
    known = {(name, codec) for name, row in FORMATS.items() if row.streams for codec in row.codecs}
    assert set(formats.STREAM_SPECS) == known
    for unable in ("avi", "gif", "raw"):
        with pytest.raises(MediaFailed, match=f"cannot stream {unable}"):
            VideoEncoder(fps=7, format=unable, streams=True)


@pytest.mark.parametrize(("format", "codec"), formats.STREAM_SPECS, ids="-".join)
def test_every_codec_lets_all_frames_of_a_chunk_go_but_one(format: str, codec: str) -> None:
    clip = moving(12, 128, 192)
    with VideoEncoder(fps=7, format=format, codec=codec, streams=True) as encoder:
        taken = b""
        for chunk, there in ((clip[:5], 4), (clip[5:6], 5), (clip[6:], 11)):
            encoder.add(chunk)
            taken += encoder.take()
            assert len(decode_video(taken)) == there
        taken += encoder.finish()
    decoded = decode_video(taken)
    assert len(decoded) == 12
    assert np.abs(decoded.astype(float) - clip).mean() < 3
    assert stream_of(taken)["colours"] == (1, 1, 1, 1)


def test_an_error_of_the_codec_is_a_media_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise av.error.ExternalError(1, "the codec is gone")

    monkeypatch.setattr("av.open", fail)
    with pytest.raises(MediaFailed, match="the codec is gone"):
        parts_of([moving(1)])
