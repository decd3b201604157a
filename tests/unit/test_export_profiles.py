"""Optimization profiles: what an engine is built for, and which of them a request meets."""

from dataclasses import replace
from functools import partial

import pytest
from fakes import MANIFEST

pytest.importorskip("diffusers")

from zoetrope_core.sizes import holds_frames, holds_size  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.profiles import input_shapes, profiles, size_groups, with_ranges  # noqa: E402
from zoetrope_server import batching  # noqa: E402
from zoetrope_server.engines import EngineError  # noqa: E402
from zoetrope_server.engines.sidecar import fitting_profile  # noqa: E402

UNET, DECODER, CLIP = STAGES["unet"], STAGES["vae_decoder"], STAGES["image_encoder"]
SIZES = ((32, 48), (48, 32))
SMALL, LARGE = (64, 64), (128, 256)


def test_each_size_has_its_profile():
    first, second = profiles(UNET, MANIFEST)
    assert first == {"B": (1, 1, 4), "K": (1, 2, 2), "F": (3, 6, 6), "h": (4, 4, 4), "w": (6, 6, 6)}
    assert second == first | {"h": (6, 6, 6), "w": (4, 4, 4)}


def test_sizes_can_share_a_profile():
    (shared,) = profiles(UNET, MANIFEST, (SIZES,))
    assert (shared["h"], shared["w"]) == ((4, 4, 6), (4, 6, 6))


def test_the_decoder_takes_one_video_and_any_chunk():
    first, _ = profiles(DECODER, MANIFEST)
    assert first == {"B": (1, 1, 1), "f": (1, 4, 4), "h": (4, 4, 4), "w": (6, 6, 6)}


def test_a_chunk_is_no_longer_than_a_video():
    assert profiles(DECODER, replace(MANIFEST, decode_chunk_size=99))[0]["f"] == (1, 6, 6)


def test_where_sizes_do_not_matter_there_is_one_profile():
    assert profiles(CLIP, MANIFEST) == ({"B": (1, 1, 1)},)


def test_memory_for_batches_is_kept_where_batches_are_sent():
    """The encoders' images come one by one: four at 576x1024 were gigabytes of scratch for nobody."""
    most = {name: profiles(stage, MANIFEST)[0]["B"][2] for name, stage in STAGES.items()}
    assert most == {"image_encoder": 1, "vae_encoder": 1, "unet": 4, "vae_decoder": 1}


def test_the_shapes_of_a_profile_are_those_of_the_spec():
    shapes = input_shapes(UNET, profiles(UNET, MANIFEST, (SIZES,))[0], MANIFEST.symbols())
    assert list(shapes) == [spec.name for spec in UNET.inputs]
    assert shapes["latents"] == ((1, 3, 4, 4, 4), (1, 6, 4, 4, 6), (4, 6, 4, 6, 6))
    assert shapes["sigma"] == ((1, 1), (1, 1), (4, 1))
    assert shapes["weights"] == ((1, 1, 3), (1, 2, 6), (4, 2, 6))


def test_groups_are_checked():
    assert size_groups(SIZES, ()) == (((32, 48),), ((48, 32),))
    assert size_groups((*SIZES, SMALL), ((SMALL, SIZES[0]),)) == ((SMALL, SIZES[0]), (SIZES[1],))
    with pytest.raises(ExportError, match="64x64: not among the sizes"):
        size_groups(SIZES, ((SMALL,),))
    with pytest.raises(ExportError, match="32x48: named twice"):
        size_groups(SIZES, ((SIZES[0],), SIZES))


@pytest.mark.parametrize("groups", [(), (SIZES,)])
def test_every_shape_that_is_served_has_a_profile(groups):
    for stage in STAGES.values():
        built = profiles(stage, MANIFEST, groups)
        seen = set()
        for inputs in batching.served_shapes(stage, MANIFEST):
            seen.add(fitting_profile(stage, built, {name: array.shape for name, array in inputs.items()}))
        assert seen == set(range(len(built)))


THREE = replace(MANIFEST, sizes=(*SIZES, SMALL), grid=8)
ALL = (((32, 32), (64, 64)),)


@pytest.mark.parametrize(
    ("engine", "groups", "between", "ranges"),
    [
        ("onnxruntime", (), None, ALL),
        ("aot-inductor", (), None, ALL),
        ("onnxruntime", (SIZES,), None, (((32, 32), (48, 48)),)),
        ("onnxruntime", (), False, ()),
        ("tensorrt", (), None, ()),
        ("tensorrt-rtx", (SIZES,), None, (((32, 32), (48, 48)),)),
        ("tensorrt", ((SIZES[0], SMALL),), None, (((32, 48), (64, 64)),)),
        ("tensorrt", (SIZES,), False, ()),
        ("openvino", (), None, ()),
        ("openvino", (), True, ALL),
        ("openvino", (SIZES,), None, (((32, 32), (48, 48)),)),
    ],
)
def test_what_lies_between_sizes_of_a_profile_is_served(engine, groups, between, ranges):
    served = with_ranges(replace(THREE, engine=engine), groups, between=between)
    assert served.size_ranges == ranges
    with_frames = between is not False and (engine != "openvino" or bool(between or groups))
    assert served.frame_range == ((3, 6) if with_frames else None)


def test_one_size_and_one_frame_count_have_nothing_between_them():
    single = replace(MANIFEST, engine="onnxruntime", sizes=SIZES[:1], num_frames=(6,))
    assert with_ranges(single) == single


@pytest.mark.parametrize("groups", [(), (SIZES,), ((SIZES[0], SMALL),), ((*SIZES, SMALL),)])
def test_every_size_that_is_served_has_a_profile_of_tensorrt(groups):
    served = with_ranges(replace(THREE, engine="tensorrt"), groups)
    built = profiles(UNET, served, groups)
    sides = range(8, 80, 8)
    held = [(height, width) for height in sides for width in sides if holds_size(served, (height, width))]
    assert set(held) >= set(THREE.sizes)
    for height, width in held:
        for frames in filter(partial(holds_frames, served), range(1, 9)):
            fitting_profile(UNET, built, shapes(frames=frames, height=height // 8, width=width // 8))


def shapes(batch=1, rows=2, frames=6, height=4, width=6):
    sizes = MANIFEST.symbols() | {"K": rows, "F": frames, "h": height, "w": width}
    return {spec.name: (batch, *spec.shape(sizes)) for spec in UNET.inputs}


def test_the_narrowest_profile_is_taken():
    facts = replace(MANIFEST, sizes=(*SIZES, SMALL))
    wide, narrow = profiles(UNET, facts, ((SIZES[0], SMALL, SIZES[1]),))[0], profiles(UNET, facts)[0]
    assert fitting_profile(UNET, (wide, narrow), shapes()) == 1
    assert fitting_profile(UNET, (narrow, wide), shapes()) == 0
    assert fitting_profile(UNET, (narrow, wide), shapes(height=8, width=8)) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"batch": 5}, "B=5"), ({"rows": 3}, "K=3"), ({"frames": 7}, "F=7"), ({"height": 5}, "h=5")],
)
def test_a_shape_outside_is_refused_with_what_was_built(asked, said):
    with pytest.raises(EngineError, match=f"no profile of the engine takes .*{said}.*built for B=1..4"):
        fitting_profile(UNET, profiles(UNET, MANIFEST), shapes(**asked))
