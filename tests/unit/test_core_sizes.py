"""Which sizes and frame counts are served, which size suits a picture, and when the client is warned.

RANGED serves 64x96 (h x w, default), 96x64 and 64x64, all between them on a grid of 16, and 4 to 8 frames.
"""

import json
from dataclasses import replace

import pytest
from fakes import MANIFEST
from hypothesis import given
from hypothesis import strategies as st
from request_cases import assert_names

from zoetrope_core import sizes
from zoetrope_core.errors import InvalidRequest
from zoetrope_core.request import GenerateRequest

RANGED = replace(
    MANIFEST,
    sizes=((64, 96), (96, 64), (64, 64)),
    num_frames=(8, 4),
    grid=16,
    size_ranges=(((64, 64), (96, 96)),),
    frame_range=(4, 8),
)
SIDES = st.integers(1, 600)
PICTURES = st.tuples(SIDES, SIDES)


def valid(manifest=RANGED, picture=None, **fields):
    return GenerateRequest(**fields).validate(manifest, picture=picture)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (64, 80), (80, 64)], ids=str)
def test_a_size_inside_a_range_is_served(size):
    assert valid(height=size[0], width=size[1]).size == size
    assert sizes.holds_size(replace(RANGED, size_ranges=()), size) is (size in RANGED.sizes)


@pytest.mark.parametrize(
    ("size", "field"),
    [
        ((64, 112), "width"),
        ((64, 72), "width"),
        ((112, 64), "height"),
        ((48, 64), "height"),
        ((96, 96), "height"),  # a corner of the range, but larger than any listed size
        ((8192, 8192), "width"),
    ],
    ids=str,
)
def test_a_size_outside_is_refused_with_all_that_is_served(size, field):
    with pytest.raises(InvalidRequest) as raised:
        valid(height=size[0], width=size[1])
    served = "one of 96x64, 64x96, 64x64, or any of 64..96 x 64..96 in multiples of 16, at most 6144 pixels"
    assert_names(raised.value, field, f"{size[1]}x{size[0]}", served)


def test_a_range_has_a_height_and_a_width_and_they_go_together():
    two = replace(
        RANGED,
        sizes=((64, 96), (32, 96), (128, 32), (96, 32)),
        size_ranges=(((32, 96), (64, 96)), ((96, 32), (128, 32))),
    )
    assert sizes.holds_size(two, (48, 96)) and sizes.holds_size(two, (112, 32))
    assert not sizes.holds_size(two, (48, 32)) and not sizes.holds_size(two, (112, 96))


def test_one_side_that_no_listed_size_has_goes_with_the_default_of_the_other():
    assert valid(width=80).size == (64, 80)


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8])
def test_a_frame_count_inside_the_range_is_served(count):
    assert valid(num_frames=count).num_frames == count
    assert valid(num_frames=count).decode_chunk_size == 4


@pytest.mark.parametrize("count", [1, 3, 9, 1024])
def test_a_frame_count_outside_is_refused_with_all_that_are_served(count):
    with pytest.raises(InvalidRequest) as raised:
        valid(num_frames=count)
    assert_names(raised.value, "num_frames", str(count), "one of 8, 4, or any from 4 to 8")


@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.integers(1, 2000))
def test_nothing_served_is_larger_than_the_largest_that_is_listed(size, count):
    if sizes.holds_size(RANGED, size):
        assert size[0] * size[1] <= 64 * 96 and all(64 <= side <= 96 and side % 16 == 0 for side in size)
    assert sizes.holds_frames(RANGED, count) is (4 <= count <= 8)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((4000, 3000), (96, 64)),
        ((3000, 4000), (64, 96)),
        ((1000, 1000), (64, 64)),
        ((1000, 1010), (64, 64)),
        ((10, 5000), (64, 96)),
        ((5000, 10), (96, 64)),
    ],
    ids=str,
)
def test_auto_takes_the_size_nearest_to_the_pictures_aspect_ratio(picture, size):
    assert valid(fit="auto", picture=picture).size == size


@pytest.mark.parametrize(
    ("listed", "size"),
    [
        (((64, 96), (96, 64)), (64, 96)),  # equally far and large: the first
        (((96, 64), (64, 96)), (96, 64)),
        (((32, 32), (64, 64), (48, 48)), (64, 64)),  # equally near: the largest
        (((32, 48), (96, 64)), (96, 64)),
    ],
    ids=str,
)
def test_auto_breaks_ties_by_area_and_then_by_order(listed, size):
    assert valid(replace(RANGED, sizes=listed), fit="auto", picture=(500, 500)).size == size


@given(PICTURES)
def test_auto_takes_a_listed_size_and_none_is_nearer(picture):
    def distance(size):
        ratio = (size[0] / size[1]) / (picture[0] / picture[1])
        return max(ratio, 1 / ratio)

    chosen = valid(fit="auto", picture=picture).size
    assert chosen in RANGED.sizes
    assert distance(chosen) <= min(map(distance, RANGED.sizes)) * (1 + 1e-6)


@given(PICTURES, st.sampled_from(["crop", "pad", "stretch"]))
def test_only_auto_looks_at_the_picture(picture, fit):
    assert valid(fit=fit, picture=picture).size == (64, 96)
    assert valid(fit="auto", height=64, width=64, picture=picture).size == (64, 64)


@pytest.mark.parametrize(
    ("given_sides", "size"),
    [
        ({"width": 64}, (96, 64)),
        ({"width": 96}, (64, 96)),
        ({"height": 64}, (64, 64)),
    ],
    ids=str,
)
def test_auto_with_one_side_chooses_among_the_sizes_that_have_it(given_sides, size):
    assert valid(fit="auto", picture=(900, 500), **given_sides).size == size


@given(PICTURES)
def test_what_auto_chose_gives_the_same_when_sent_again_without_the_picture(picture):
    chosen = valid(fit="auto", picture=picture)
    assert chosen.fit == "crop"
    again = GenerateRequest.from_json(json.dumps(chosen.to_dict())).validate(RANGED)
    assert again == chosen


def test_the_picture_is_needed_only_where_it_decides():
    assert GenerateRequest(fit="auto").needs_picture(RANGED)
    assert GenerateRequest(fit="auto", width=64).needs_picture(RANGED)
    assert not GenerateRequest(fit="auto", width=64, height=64).needs_picture(RANGED)
    assert not GenerateRequest(fit="auto").needs_picture(replace(RANGED, sizes=((64, 96),)))
    assert not GenerateRequest(fit="pad").needs_picture(RANGED)


TRAINED = replace(RANGED, trained_size=(576, 1024), trained_frames=14)


@pytest.mark.parametrize(
    ("size", "frames", "fields"),
    [
        ((576, 1024), 14, []),
        ((576, 1024), 1, []),
        ((576, 1024), 15, ["num_frames"]),
        ((416, 720), 14, []),  # 0.508 of the area
        ((400, 720), 14, ["size"]),  # 0.488
        ((800, 1440), 14, []),  # 1.95
        ((832, 1440), 14, ["size"]),  # 2.03
        ((640, 768), 14, []),  # 1.48 from the aspect ratio
        ((672, 784), 14, ["size"]),  # 1.52
        ((432, 1152), 14, []),  # 1.5
        ((384, 1152), 14, ["size"]),  # 1.69
        ((1024, 576), 25, ["size", "num_frames"]),
    ],
    ids=str,
)
def test_what_is_far_from_the_training_is_warned_of_once(size, frames, fields):
    warnings = sizes.far_from_trained(TRAINED, size, frames)
    assert [warning.field for warning in warnings] == fields
    assert {warning.code for warning in warnings} <= {"far_from_trained"}
    for warning in warnings:
        shown = f"{size[1]}x{size[0]}" if warning.field == "size" else str(frames)
        trained = "1024x576" if warning.field == "size" else "14"
        assert shown in warning.message and trained in warning.message


def test_where_the_training_is_not_known_nothing_is_warned_of():
    assert sizes.far_from_trained(RANGED, (8, 8192), 1024) == ()
