"""The demo's verdicts: each threshold is the worst image's, and the page shows old beside new."""

import json
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("torch")
pytest.importorskip("cv2")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.training import measure  # noqa: E402

from zoetrope_bench import demo_page, demo_quality  # noqa: E402
from zoetrope_bench.demo_videos import Subject  # noqa: E402

GOOD = {
    "first_frame_db": 27.0,
    "motion_px": 0.7,
    "worst_prediction_db": 30.0,
    "mean_prediction_db": 31.0,
    "flicker_percent": 0.5,
    "sharpness_kept": 0.8,
}


def row(**changes):
    return {
        **GOOD,
        "second_seed": GOOD,
        "motion_by_bucket": {0: 0.1, 60: 0.3, 127: 0.7, 200: 1.0},
        "monotonic": True,
        "seed_difference": 3.0,
        **changes,
    }


def failed(*rows, ceilings=(31.0, 29.0)):
    lines = demo_quality.verdicts({str(number): each for number, each in enumerate(rows)}, ceilings)
    return [line["figure"] for line in lines if not line["passed"]]


def test_good_videos_pass_everything():
    assert failed(row(), row()) == []


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"first_frame_db": 25.9}, "frame 0"),
        ({"second_seed": {**GOOD, "worst_prediction_db": 27.0}}, "flow-warped"),
        ({"sharpness_kept": 0.6}, "sharpness"),
        ({"flicker_percent": 1.0}, "flicker"),
        ({"monotonic": False}, "motion rises"),
        ({"motion_by_bucket": {0: 0.15}}, "bucket 0"),
        ({"seed_difference": 1.9}, "two seeds"),
    ],
)
def test_one_bad_image_fails_its_threshold(changes, figure):
    (line,) = failed(row(), row(**changes))
    assert figure in line


def test_the_autoencoder_is_judged_by_mean_and_worst():
    assert failed(row(), ceilings=(36.0, 26.0)) == ["autoencoder, worst (dB)"]
    assert failed(row(), ceilings=(30.0, 29.0)) == ["autoencoder, mean (dB)"]


def test_a_blurred_last_frame_has_lost_its_sharpness():
    cv2 = pytest.importorskip("cv2")
    frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    video = np.stack([frame, cv2.GaussianBlur(frame, (5, 5), 1)])
    assert measure.sharpness_kept(video[[0, 0]]) == 1
    assert measure.sharpness_kept(video) < 0.5


def test_the_page_shows_an_earlier_run_beside_this_one(tmp_path):
    video = np.zeros((14, 16, 24, 3), np.uint8)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        demo_page.write_video(tmp_path / name, Subject("cat.png", video[0]), video)
    figures = demo_quality.verdicts({"cat.png": row()}, [31.0])
    report = {"figures": figures, "images": {"cat.png": row()}}
    (tmp_path / "old" / "quality.json").write_text(json.dumps(report))
    demo_page.write_page(tmp_path / "new", report, tmp_path / "old")
    page = (tmp_path / "new" / "index.html").read_text()
    for source in ("cat.webp", "cat.png", "../old/cat.webp", "../old/cat.png"):
        assert f'src="{source}"' in page
        assert (tmp_path / "new" / source).is_file()


def test_a_checkpoint_is_judged_at_the_size_that_it_was_trained_for():
    assert demo_quality.frame_size(demo_quality.CHECKPOINT) == demo_quality.SIZE


def test_all_sixteen_images_come_with_a_clone():
    assert [subject.picture.shape for subject in demo_quality.subjects()] == [(128, 192, 3)] * 16
