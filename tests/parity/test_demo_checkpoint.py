"""The demo checkpoint is what its card says: small, complete, and it moves a picture as asked."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("cv2")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from zoetrope_bench import demo_quality  # noqa: E402
from zoetrope_bench.demo_videos import Settings, local_generator  # noqa: E402
from zoetrope_export import exporting  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402

_logger = logging.getLogger(__name__)

CHECKPOINT = ROOT / "demo" / "checkpoint"


def test_it_is_small_and_in_half_precision():
    assert sum(file.stat().st_size for file in CHECKPOINT.rglob("*") if file.is_file()) <= 24e6
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(CHECKPOINT)
    for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        assert all(weight.isfinite().all() for weight in module.parameters())
    assert pipeline.unet.config.num_frames == 14
    assert pipeline.image_encoder.config.image_size == 224


def test_it_keeps_the_picture_and_moves_it_as_asked():
    (cat,) = [subject for subject in demo_quality.subjects() if subject.name == "chelsea.png"]
    generate = local_generator(CHECKPOINT)
    videos = {
        bucket: generate(cat, Settings(bucket=bucket, steps=10, ays=True, guidance=(1.0, 1.0)))
        for bucket in (20, 200)
    }
    assert videos[200].shape == (14, 128, 192, 3) and videos[200].dtype == np.uint8
    measured = {bucket: demo_quality.describe(video, cat.picture) for bucket, video in videos.items()}
    assert all(row["first_frame_db"] >= 24 and row["worst_prediction_db"] >= 26 for row in measured.values())
    assert measured[200]["motion_px"] > 0.5
    assert measured[200]["motion_px"] > 3 * measured[20]["motion_px"]


@pytest.mark.parametrize(
    ("engine", "precision", "least_db"),
    [pytest.param("onnxruntime", "fp32", 45, marks=pytest.mark.full), ("openvino", "bf16", 35)],
)
def test_its_engines_give_diffusers_video_of_a_photograph(tmp_path, engine, precision, least_db):
    """All stages against PyTorch and the whole against diffusers, on real frames rather than noise."""
    checkpoint = open_checkpoint(str(CHECKPOINT))
    manifest = checkpoint.manifest(
        engine=engine,
        precision=precision,
        sizes=((128, 192),),
        num_frames=(14,),
        decode_chunk_size=7,
        max_batch_size=1,
    )
    photo = np.asarray(Image.open(ROOT / "demo" / "photo.jpg").convert("RGB"))
    report = exporting.export_repository(
        exporting.Plan(
            checkpoint=checkpoint, manifest=manifest, out=tmp_path / "out", warm_up=False, picture=photo
        )
    )
    _logger.info("%s %s: %s", engine, precision, report)
    assert all(stage.passed and stage.computed_by == "engine" for stage in report.stages)
    assert report.pipeline.psnr_db >= least_db
    if precision == "fp32":
        assert report.pipeline.max_abs_error <= 2
