"""The demo's training data: known motion, held-out material, fixed seeds."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.training import crops, motion, pictures, scenes, textures  # noqa: E402
from demo.training.collect import Photograph, parse  # noqa: E402


@pytest.mark.parametrize("kind", list(scenes.SCENES))
def test_a_clip_has_the_agreed_shape_and_moves(kind):
    clip = scenes.make_clip(3, kind=kind, bucket=140)
    assert clip.frames.shape == (scenes.FRAMES, 3, scenes.HEIGHT, scenes.WIDTH)
    assert float(clip.frames.min()) >= 0 and float(clip.frames.max()) <= 1
    assert float((clip.frames[0] - clip.frames[-1]).abs().mean()) > 1e-3


def test_the_same_seed_makes_the_same_clip():
    one, two = scenes.make_clip(5), scenes.make_clip(5)
    assert one.kind == two.kind and torch.equal(one.frames, two.frames)
    assert not torch.equal(one.frames, scenes.make_clip(6).frames)


@pytest.mark.parametrize("bucket", [20, 80, 140, 200])
def test_a_camera_clip_moves_as_much_as_its_bucket_says(bucket):
    clip = scenes.make_clip(11, kind="camera", bucket=bucket)
    assert clip.bucket == pytest.approx(bucket, abs=1)
    assert float(clip.speed.mean()) == pytest.approx(motion.flow_of(bucket), rel=0.01)


def test_the_known_speed_is_the_speed_that_is_seen():
    clip = scenes.make_clip(21, kind="parallax", bucket=140)
    cv2 = pytest.importorskip("cv2")
    grey = [
        cv2.cvtColor((f.permute(1, 2, 0).numpy() * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        for f in clip.frames
    ]
    seen = np.linalg.norm(cv2.DISOpticalFlow_create(2).calc(grey[0], grey[1], None), axis=-1)
    inside = (slice(16, -16), slice(16, -16))
    error = np.abs(seen[inside] - clip.speed.numpy()[inside])
    assert np.median(error) < 0.3 * float(clip.speed.mean())


def test_moving_parts_move_apart_from_the_rest():
    speed = scenes.make_clip(2, kind="clouds", bucket=140).speed
    assert float(speed[:20].mean()) > 0.3 and float(speed[-10:].mean()) < 0.05


def lake():
    pixels = (textures.dead_leaves((200, 320), np.random.default_rng(1)) * 255).byte()
    return [Photograph("lake.jpg", pixels, {"water": 0.5})]


def test_what_the_table_says_moves_in_a_photograph_does():
    speed = scenes.make_clip(4, lake(), kind="live", bucket=60).speed
    assert float(speed[-20:].mean()) > 0.3 and float(speed[:20].mean()) < 0.05


def test_held_out_photographs_are_not_trained_on():
    trained = {picture.file for picture in pictures.TRAINING}
    assert len(pictures.HELD_OUT) == 16
    assert trained.isdisjoint(picture.file for picture in pictures.HELD_OUT)


def test_every_picture_names_its_licence():
    for picture in (*pictures.TRAINING, *pictures.HELD_OUT):
        assert picture.licence and picture.source


def test_the_table_says_what_moves():
    assert parse("clouds:0.3 water:0.5") == {"clouds": 0.3, "water": 0.5}
    assert parse("") == {}
    assert {kind for picture in pictures.ALL for kind in parse(picture.moves)} == {
        "clouds",
        "water",
        "leaves",
    }


def test_buckets_and_flows_are_inverse():
    assert motion.bucket_of(motion.flow_of(100)) == pytest.approx(100)
    assert motion.bucket_of(50) == motion.LARGEST_BUCKET


def test_dead_leaves_fill_the_range_without_leaving_it():
    picture = textures.dead_leaves((64, 80), np.random.default_rng(0))
    assert picture.shape == (3, 64, 80)
    assert 0 <= float(picture.min()) < 0.4 < float(picture.max()) <= 1


def test_parts_of_every_size_have_about_as_many_pixels():
    made = crops.Crops(lake(), pool=1)
    for size in crops.SIZES:
        batch = made.stills(np.random.default_rng(0), size)
        assert batch.shape[2:] == size
        assert 0.5 < batch[:, 0].numel() / (crops.STILLS * crops.SIDE**2) < 1.5
        assert float(batch.abs().max()) == pytest.approx(1, abs=0.2)


def test_clips_move():
    clip = crops.Crops(lake(), pool=1).clips(np.random.default_rng(0))
    assert clip.shape == (crops.CLIPS * crops.CLIP_FRAMES, 3, crops.SIDE, crops.SIDE)
    assert not torch.equal(clip[0], clip[crops.CLIP_FRAMES - 1])
