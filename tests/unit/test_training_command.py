"""The one command: from packed photographs to a checkpoint in pieces."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo.training import __main__ as command  # noqa: E402
from demo.training import collect  # noqa: E402
from PIL import Image  # noqa: E402


@pytest.mark.full
def test_the_command_trains_both_phases_and_returns_a_checkpoint(tmp_path, monkeypatch):
    pack = tmp_path / "images.npz"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (450, 720, 3), dtype=np.uint8))
    image.save(tmp_path / "one.jpg")
    np.savez(pack, **{collect.TRAINING[0].name: np.frombuffer((tmp_path / "one.jpg").read_bytes(), np.uint8)})
    monkeypatch.setattr(collect, "PACK", pack)
    monkeypatch.setattr(collect.unpack, "__defaults__", (pack,))
    command.train(tmp_path / "run", minutes=0.05)
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(tmp_path / "run" / "checkpoint")
    assert pipeline.vae.config.latent_channels == 8
    assert len(list((tmp_path / "run" / "pieces").glob("checkpoint.tar.*"))) >= 2
