"""OpenVINO's compiled shapes: which are kept, and which reach the disk."""

import os
import tempfile
from functools import partial

import numpy as np
import pytest
from fakes import MANIFEST

openvino = pytest.importorskip("openvino")

from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_server import batching  # noqa: E402
from zoetrope_server.engines import open_engine  # noqa: E402
from zoetrope_server.engines.openvino import MAX_UNLISTED, OpenVinoEngine  # noqa: E402

STAGE = STAGES["vae_encoder"]


@pytest.fixture
def directory(tmp_path):
    """A model of the encoder's input that doubles it."""
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, 3, -1, -1], np.float32, name="pixels")
    pixels.output(0).set_names({"pixels"})
    doubled = ops.multiply(pixels, np.float32(2))
    doubled.output(0).set_names({"latents"})
    openvino.save_model(openvino.Model([ops.result(doubled)], [pixels]), tmp_path / "model.xml")
    return tmp_path


def pixels(height, width):
    return {"pixels": np.full((1, 3, height, width), 1.5, np.float32)}


def compiled(caplog):
    return sum("compiling" in message for message in caplog.messages)


@pytest.fixture
def read_only(directory, monkeypatch):
    """The same where the server may not write; root may everywhere."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != directory and access(path, mode))
    return directory


def test_beside_a_read_only_model_what_is_compiled_is_kept_in_the_users_cache(
    read_only, monkeypatch, tmp_path_factory
):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    OpenVinoEngine(read_only, precision="fp32").run(pixels(8, 8))
    kept = home / "zoetrope" / "openvino"
    assert list(kept.glob("*.blob")) and kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("plant", [lambda kept: kept.chmod(0o777), lambda kept: kept.parent.chmod(0o777)])
def test_a_cache_that_others_can_write_is_not_loaded(read_only, monkeypatch, tmp_path_factory, plant):
    home, scratch = (tmp_path_factory.mktemp(name) for name in ("home", "scratch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    kept = home / "zoetrope" / "openvino"
    kept.mkdir(parents=True)
    plant(kept)
    OpenVinoEngine(read_only, precision="fp32").run(pixels(8, 8))
    assert not list(kept.iterdir())
    assert not list(scratch.iterdir()), "and no folder of a name that others can foresee takes its place"


def test_shapes_that_are_not_listed_evict_no_listed_one(directory, caplog):
    caplog.set_level("INFO")
    is_listed = partial(batching.is_listed, STAGE, MANIFEST)
    engine = open_engine(directory, STAGE, engine="openvino", precision="fp32", is_listed=is_listed)
    for size in MANIFEST.sizes:
        engine.run(pixels(*size))
    assert compiled(caplog) == 2
    others = [pixels(8, 8 * number) for number in range(1, 31)]
    for inputs in others:
        assert np.array_equal(engine.run(inputs)["latents"], 2 * inputs["pixels"])
    assert compiled(caplog) == 32
    for size in MANIFEST.sizes:
        assert engine.run(pixels(*size))["latents"].shape == (1, 3, *size)
    assert compiled(caplog) == 32, "the listed ones are still there"
    for inputs in others[-MAX_UNLISTED:]:
        engine.run(inputs)
    assert compiled(caplog) == 32, "and the newest of the others"
    engine.run(others[0])
    assert compiled(caplog) == 33


def test_shapes_that_are_not_listed_leave_nothing_on_the_disk(directory):
    engine = OpenVinoEngine(directory, precision="fp32", is_listed=lambda shapes: shapes["pixels"][3] == 48)
    cached = set((directory / "cache").rglob("*"))
    for width in (8, 16, 24):
        engine.run(pixels(8, width))
    assert set((directory / "cache").rglob("*")) == cached
    engine.run(pixels(32, 48))
    assert set((directory / "cache").rglob("*")) > cached, "the check can see a file"


def test_listed_are_the_shapes_of_the_manifests_sizes_and_frame_counts():
    for stage in STAGES.values():
        for inputs in batching.served_shapes(stage, MANIFEST):
            assert batching.is_listed(stage, MANIFEST, {name: array.shape for name, array in inputs.items()})
    example = batching.example_inputs(STAGES["unet"], MANIFEST)
    shapes = {name: array.shape for name, array in example.items()}
    assert not batching.is_listed(
        STAGES["unet"], MANIFEST, shapes | {"latents": (1, 5, 4, 4, 6), "weights": (1, 2, 5)}
    )
    wide = {"latents": (1, 6, 4, 4, 5), "image_latents": (1, 2, 4, 4, 5)}
    assert not batching.is_listed(STAGES["unet"], MANIFEST, shapes | wide)
