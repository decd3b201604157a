"""Validation against what is served.

MANIFEST has: sizes 32x48 (default) and 48x32 (h x w), 6 frames (default) or 3, chunk 4.
"""

import dataclasses
import json

import pytest
from fakes import COLOURS, MANIFEST
from hypothesis import given
from request_cases import FIELDS, assert_names

from zoetrope_core.errors import InvalidRequest
from zoetrope_core.formats import checked_codec
from zoetrope_core.request import GenerateRequest, ValidRequest


def test_defaults_are_the_checkpoints():
    valid = GenerateRequest().validate(MANIFEST, drawn_seed=99)
    assert isinstance(valid, ValidRequest)
    assert (valid.size, valid.num_frames, valid.decode_chunk_size, valid.seed) == ((32, 48), 6, 4, 99)


def test_a_seed_that_is_given_is_kept_even_zero():
    assert GenerateRequest(seed=0).validate(MANIFEST, drawn_seed=99).seed == 0


def test_all_other_fields_are_kept():
    request = GenerateRequest(fps=12, quality=3, schedule="ays", fit="pad", stream_frames=True)
    valid = request.validate(MANIFEST)
    assert all(getattr(valid, name) == getattr(request, name) for name in request.to_dict())


@pytest.mark.parametrize(
    ("given_size", "size"),
    [
        ({"width": 48, "height": 32}, (32, 48)),
        ({"width": 32, "height": 48}, (48, 32)),
        ({"width": 32}, (48, 32)),
        ({"height": 48}, (48, 32)),
        ({"width": 48}, (32, 48)),
    ],
    ids=str,
)
def test_one_side_brings_the_other(given_size, size):
    assert GenerateRequest(**given_size).validate(MANIFEST).size == size


@pytest.mark.parametrize(
    ("given_size", "field"),
    [
        ({"width": 40}, "width"),
        ({"height": 40}, "height"),
        ({"width": 40, "height": 40}, "width"),
        ({"width": 48, "height": 40}, "height"),
        ({"width": 48, "height": 48}, "height"),
    ],
    ids=str,
)
def test_a_size_that_is_not_served_is_refused(given_size, field):
    with pytest.raises(InvalidRequest) as raised:
        GenerateRequest(**given_size).validate(MANIFEST)
    value = str(given_size.get(field))
    assert_names(raised.value, field, value, "one of 48x32, 32x48")


@pytest.mark.parametrize("frames", [1, 2, 4, 7, 1024])
def test_a_frame_count_that_is_not_served_is_refused(frames):
    with pytest.raises(InvalidRequest) as raised:
        GenerateRequest(num_frames=frames).validate(MANIFEST)
    assert_names(raised.value, "num_frames", str(frames), "one of 6, 3")


@pytest.mark.parametrize(("asked", "frames", "chunk"), [(None, 3, 3), (2, 6, 2), (1024, 6, 4), (5, 3, 3)])
def test_a_chunk_is_never_longer_than_the_video_or_than_the_engine_takes(asked, frames, chunk):
    valid = GenerateRequest(decode_chunk_size=asked, num_frames=frames).validate(MANIFEST)
    assert valid.decode_chunk_size == chunk


@given(FIELDS)
def test_what_is_valid_stays_so_and_is_the_same_when_sent_again(fields):
    try:
        valid = GenerateRequest(**fields).validate(MANIFEST, drawn_seed=5)
    except InvalidRequest:
        return
    absent = {name for name, value in dataclasses.asdict(valid).items() if value is None}
    assert absent <= {"sigmas", "guidance_interval", "deadline_s", "codec"}
    assert valid.num_inference_steps == len(valid.sigmas or range(valid.num_inference_steps))
    assert valid.size in MANIFEST.sizes and valid.num_frames in MANIFEST.num_frames
    again = GenerateRequest.from_json(json.dumps(valid.to_dict())).validate(MANIFEST, drawn_seed=6)
    assert again == valid


@pytest.mark.parametrize(
    ("asked", "codec"),
    [({}, "h264"), ({"codec": "av1"}, "av1"), ({"format": "webm"}, "vp9"), ({"format": "gif"}, None)],
    ids=str,
)
def test_the_format_brings_its_codec(asked, codec):
    assert GenerateRequest(**asked).validate(MANIFEST).codec == codec


@pytest.mark.parametrize(
    ("asked", "field", "value", "allowed"),
    [
        ({"codec": "vp9"}, "codec", "vp9", "one of h264, h265, av1 in mp4"),
        ({"format": "webm", "codec": "h264"}, "codec", "h264", "one of vp9 in webm"),
        ({"format": "png", "codec": "h264"}, "codec", "h264", "none in png"),
        (
            {"format": "gif", "stream_video": True},
            "stream_video",
            "true",
            "false for gif; true for mp4, webm",
        ),
        ({"format": "gif", "fps": 51}, "fps", "51", "an integer up to 50 in gif"),
    ],
    ids=str,
)
def test_what_a_format_does_not_have_is_refused(asked, field, value, allowed):
    with pytest.raises(InvalidRequest) as raised:
        GenerateRequest(**asked).validate(MANIFEST)
    assert_names(raised.value, field, value, allowed)


def test_odd_sizes_are_refused_where_the_format_shares_colour():
    odd = dataclasses.replace(MANIFEST, sizes=((33, 47),))
    with pytest.raises(InvalidRequest) as raised:
        GenerateRequest().validate(odd)
    assert_names(raised.value, "height", "33", "a multiple of 2 in mp4")
    assert GenerateRequest(format="png").validate(odd).size == (33, 47)


def test_previews_need_an_export_that_has_their_colours():
    with pytest.raises(
        InvalidRequest, match="^preview_every: got 2, allowed is 0 here.*export it again"
    ) as raised:
        GenerateRequest(preview_every=2).validate(MANIFEST)
    assert raised.value.details["field"] == "preview_every"
    assert GenerateRequest(preview_every=0).validate(MANIFEST).preview_every == 0
    coloured = dataclasses.replace(MANIFEST, latent_rgb=COLOURS)
    assert GenerateRequest(preview_every=2).validate(coloured).preview_every == 2


def test_a_codec_may_have_a_least_size():
    with pytest.raises(InvalidRequest, match="width: got '32', allowed is at least 34 with h265"):
        checked_codec("mp4", "h265", size=(64, 32), fps=7, streams=False)
    assert checked_codec("mp4", "h265", size=(64, 40), fps=7, streams=False) == "h265"
