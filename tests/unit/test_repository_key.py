"""The key of an export: the same for the same, another for what changes a repository or its report."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from small_checkpoints import SMALLEST  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from zoetrope_export import commands, repository_key, tensorrt_build  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.code_digest import code_digest, code_files  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.exporting import Plan  # noqa: E402
from zoetrope_export.random_checkpoint import write_random_checkpoint  # noqa: E402
from zoetrope_export.stage_builds import BuildOptions  # noqa: E402
from zoetrope_server.engines.gpu import Gpu  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.zeros((4, 6, 3), np.uint8)
H200 = Gpu(name="NVIDIA H200", target="sm90", driver="570.1", memory=1, free=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("key") / "A Model_v2"
    directory.mkdir()
    write_random_checkpoint(replace(SMALLEST, num_frames=3), directory)
    return directory


def plan(checkpoint, out, *, engine="openvino", precision="fp32", **changes):
    opened = open_checkpoint(checkpoint)
    facts = {
        "engine": engine,
        "precision": precision,
        "sizes": ((16, 24),),
        "num_frames": (3,),
        "decode_chunk_size": 3,
        "max_batch_size": 1,
    }
    own = {name: changes.pop(name) for name in list(changes) if name in facts}
    return Plan(checkpoint=opened, manifest=opened.manifest(**facts | own), out=out, **changes)


def key(*words, gpu=None, **changes):
    return repository_key.repository_key(plan(*words, **changes), gpu)


def test_a_key_is_the_name_of_a_folder_and_a_label(checkpoint, tmp_path):
    assert re.fullmatch(r"a-model-v2-fp32-openvino-[0-9a-f]{10}", key(checkpoint, tmp_path))


def test_what_the_repository_does_not_show_does_not_count(checkpoint, tmp_path):
    """Where things lie; whether it was allowed to build on a machine that looks too small."""
    copied = tmp_path / "elsewhere" / checkpoint.name
    shutil.copytree(checkpoint, copied)
    assert key(copied, tmp_path / "x") == key(checkpoint, tmp_path / "y")
    elsewhere = BuildOptions(cache=tmp_path / "cache", force=True)
    assert key(checkpoint, tmp_path, options=elsewhere) == key(checkpoint, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "onnxruntime"},
        {"precision": "bf16"},
        {"sizes": ((16, 32),)},
        {"num_frames": (4,)},
        {"max_batch_size": 2},
        {"host": "triton"},
        {"allow_drift": True},
        {"verify": False},
        {"warm_up": False},
        {"picture": PICTURE},
        {"options": BuildOptions(profiles=(((16, 24),),))},
        {"options": BuildOptions(workspace_gib=2.0)},
    ],
    ids=str,
)
def test_what_changes_a_repository_changes_its_key(checkpoint, tmp_path, change):
    assert key(checkpoint, tmp_path, **change) != key(checkpoint, tmp_path)


def test_one_byte_of_the_weights_changes_it(checkpoint, tmp_path):
    copied = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copied)
    (weights,) = (copied / "unet").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert key(copied, tmp_path) != key(checkpoint, tmp_path)
    assert key(checkpoint, tmp_path) == key(checkpoint, tmp_path)


def test_each_picture_that_parity_is_measured_on_has_its_key(checkpoint, tmp_path):
    other = PICTURE.copy()
    other[0, 0, 0] = 1
    pictures = (PICTURE, other, PICTURE.reshape(6, 4, 3))
    assert len({key(checkpoint, tmp_path, picture=each) for each in pictures}) == 3
    assert key(checkpoint, tmp_path, picture=PICTURE.copy()) == key(checkpoint, tmp_path, picture=PICTURE)


@pytest.mark.parametrize(
    "name",
    [
        "model_repository/image_to_video/1/model.py",
        "model_repository/image_to_video_unary/config.pbtxt",
        "zoetrope_export/rewrites.py",
        "zoetrope_core/specs.py",
        "zoetrope_server.engines/openvino.py",
    ],
)
def test_the_code_counts_whatever_its_version(checkpoint, tmp_path, monkeypatch, name):
    before = key(checkpoint, tmp_path)
    changed = tmp_path / "changed"
    files = code_files()
    changed.write_bytes(files[name].read_bytes())
    monkeypatch.setattr(repository_key, "code_files", lambda: files | {name: changed})
    assert key(checkpoint, tmp_path) == before
    changed.write_bytes(changed.read_bytes() + b"\n")
    assert key(checkpoint, tmp_path) != before


def test_the_code_is_the_same_in_a_wheel_and_in_a_checkout(tmp_path):
    """The wheel has the entry models in the package; both may have been compiled by Python."""
    for package in ("core/zoetrope_core", "server/zoetrope_server", "export/zoetrope_export"):
        shutil.copytree(ROOT / package, tmp_path / Path(package).name)
    shutil.copytree(ROOT / "model_repository", tmp_path / "zoetrope_export" / "model_repository")
    compiled = tmp_path / "zoetrope_export" / "model_repository" / "image_to_video" / "1" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "model.cpython-311.pyc").write_bytes(b"compiled")
    program = "from zoetrope_export import code_digest as c; print(c.__file__, c.code_digest(c.code_files()))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    file, digest = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert digest == code_digest(code_files())


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_versions_of_the_libraries_count(checkpoint, tmp_path, monkeypatch, engine):
    before = key(checkpoint, tmp_path, engine=engine)
    monkeypatch.setattr(f"{engine}.__version__", "99")
    assert key(checkpoint, tmp_path, engine=engine) != before
    monkeypatch.undo()
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == "torch" else real(name))
    assert key(checkpoint, tmp_path, engine=engine) != before


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_library_from_a_distribution_of_another_name(checkpoint, tmp_path, monkeypatch, engine):
    """As `onnxruntime-gpu`, which has the module but not the name of `onnxruntime`."""
    before, real = key(checkpoint, tmp_path, engine=engine), metadata.version

    def version(name):
        if name == engine:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert key(checkpoint, tmp_path, engine=engine) == before


def test_a_library_that_is_not_there_is_said(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="needs onnxruntime: pip install"):
        key(checkpoint, tmp_path, engine="onnxruntime")


class TensorRt:
    """As much of the module as a key asks for; the library itself needs a GPU to build."""

    __version__ = "11.4.0.106"


def test_tensorrt_is_bound_to_the_gpu_and_its_driver(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_build, "load_library", lambda engine: TensorRt)

    def of(gpu):
        return key(checkpoint, tmp_path, engine="tensorrt", precision="fp16", gpu=gpu)

    assert "-fp16-sm90-" in of(H200)
    others = [
        replace(H200, name="NVIDIA H100"),
        replace(H200, driver="580.2"),
        replace(H200, target="sm89"),
    ]
    assert len({of(gpu) for gpu in (H200, *others)}) == 4
    monkeypatch.setattr(TensorRt, "__version__", "11.5")
    before = of(H200)
    monkeypatch.setattr(TensorRt, "__version__", "11.4.0.106")
    assert of(H200) != before


def test_the_command_prints_it_and_exports_once(checkpoint, tmp_path):
    from typer import Typer

    app = Typer()
    app.command()(commands.export)
    words = [str(checkpoint), "--engine", "openvino", "--size", "16x24", "--no-warm-up", "--no-verify"]
    out = ["--out", str(tmp_path / "models" / "{key}")]
    printed = CliRunner().invoke(app, [*words, *out, "--print-key"])
    assert printed.exit_code == 0, printed.output
    name = printed.stdout.strip()
    assert list(tmp_path.iterdir()) == []
    first = CliRunner().invoke(app, [*words, *out])
    assert first.exit_code == 0, first.output
    (folder,) = (tmp_path / "models").iterdir()
    assert folder.name == name and (folder / "parity.json").is_file()
    before = (folder / "zoetrope.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, [*words, *out])
    assert again.exit_code == 0 and f"{folder}: exported before" in " ".join(again.stdout.split())
    assert (folder / "zoetrope.json").stat().st_mtime_ns == before
    verified = CliRunner().invoke(app, [*words[:-1], *out, "--print-key"])
    assert verified.exit_code == 0 and verified.stdout.strip() != name
