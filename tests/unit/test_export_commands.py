"""`zoetrope export` and `zoetrope checkpoint random` as they are called."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402
from waiting import wait_until  # noqa: E402

from zoetrope_core.manifest import Manifest  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export import commands, exporting, preflight, stage_builds  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.trajectory import sample_picture  # noqa: E402
from zoetrope_server import batching  # noqa: E402
from zoetrope_server.engines import open_engine  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURE = replace(SMALLEST, num_frames=3)
app = typer.Typer()
app.command("export")(commands.export)
app.add_typer(commands.checkpoint, name="checkpoint")


@pytest.fixture(scope="module")
def checkpoint():
    return artifacts.checkpoint(ARCHITECTURE)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def export(checkpoint, out, *more, engine="openvino", size="16x24"):
    return call("export", checkpoint, "--engine", engine, "--size", size, "--out", out, *more)


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "bf16"), ("onnxruntime", "fp32")])
def test_an_export_is_a_complete_repository(checkpoint, tmp_path, engine, precision):
    out = tmp_path / "repository"
    options = (
        "--precision",
        precision,
        "--frames",
        "3",
        "--frames",
        "2",
        "--max-batch",
        "2",
        "--decode-chunk",
        "2",
    )
    result = export(checkpoint, out, *options, "--name", "mine", "--trained-size", "16x24", engine=engine)
    assert result.exit_code == 0, result.output
    manifest = Manifest.load(out)
    assert (manifest.checkpoint, manifest.engine, manifest.precision) == ("mine", engine, precision)
    assert (manifest.sizes, manifest.num_frames) == (((16, 24),), (3, 2))
    assert (manifest.decode_chunk_size, manifest.max_batch_size) == (2, 2)
    assert (manifest.grid, manifest.size_ranges) == (4, ())
    assert manifest.frame_range == ((2, 3) if engine == "onnxruntime" else None)
    assert (manifest.trained_size, manifest.trained_frames) == ((16, 24), 3)
    assert manifest.latent_rgb is not None and len(manifest.latent_rgb) == manifest.latent_channels + 1
    assert np.abs(manifest.latent_rgb).max() > 0.01, "the VAE's colours, not zeros"
    report = json.loads((out / "parity.json").read_text())
    assert report["passed"]
    assert [stage["stage"] for stage in report["stages"]] == list(STAGES)
    assert all(min(stage["nodes"]) > 0 for stage in report["stages"])
    assert report["pipeline"]["passed"]
    assert report["pipeline"]["max_abs_error"] <= {"fp32": 2, "bf16": 40}[precision]
    assert "video" in result.output
    model = {"openvino": ["model.bin", "model.py", "model.xml"], "onnxruntime": ["model.onnx", "model.py"]}
    for name in STAGES:
        assert [path for path in files(out / name / "1") if "cache" not in path] == model[engine]
        assert name in result.output
    assert "image_to_video/1/model.py" in files(out)
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_the_first_request_finds_its_shapes_compiled(checkpoint, tmp_path):
    out = tmp_path / "repository"
    assert export(checkpoint, out, "--max-batch", "2", "--decode-chunk", "2").exit_code == 0
    moved = out.rename(tmp_path / "moved")
    manifest = Manifest.load(moved)
    for name, stage in STAGES.items():
        cache = moved / name / "1" / "cache"
        before = files(cache)
        engine = open_engine(cache.parent, stage, engine="openvino", precision="fp32")
        shapes = 0
        for inputs in batching.served_shapes(stage, manifest):
            engine.run(inputs)
            shapes += 1
        assert before
        assert files(cache) == before
        assert shapes == {"unet": 3, "vae_decoder": 2}.get(name, 1)


def test_without_warming_up_nothing_more_is_compiled(checkpoint, tmp_path):
    out = tmp_path / "repository"
    assert export(checkpoint, out, "--no-warm-up", "--decode-chunk", "2").exit_code == 0
    assert len(files(out / "unet" / "1" / "cache")) == 1


@pytest.fixture
def wrong_weight(monkeypatch):
    """One engine is built with a weight that is off by a fifth."""
    build = stage_builds.build_engine

    def wrong(module, stage, *arguments, **options):
        if stage.name == "unet":
            module.unet.conv_in.weight.data *= 1.2
        nodes = build(module, stage, *arguments, **options)
        if stage.name == "unet":
            module.unet.conv_in.weight.data /= 1.2
        return nodes

    monkeypatch.setattr(stage_builds, "build_engine", wrong)


def test_a_second_decoder_at_the_same_precision_is_refused(checkpoint, tmp_path):
    result = export(checkpoint, tmp_path / "repository", "--fp32-decoder", engine="onnxruntime")
    assert result.exit_code == 1
    assert "the decoder is at fp32 already" in result.output


@pytest.mark.usefixtures("wrong_weight")
def test_an_engine_outside_its_tolerance_is_not_put_in_place(checkpoint, tmp_path):
    """Exit code 1, the numbers in the message, no repository."""
    result = export(checkpoint, tmp_path / "repository", engine="onnxruntime")
    assert result.exit_code == 1
    said = " ".join(result.output.split())
    assert "do not compute what the checkpoint computes: unet" in said
    assert "video" in said, "the whole video shows it too"
    assert "--allow-drift writes the repository nevertheless" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("wrong_weight")
def test_drift_is_allowed_knowingly(checkpoint, tmp_path):
    out = tmp_path / "repository"
    result = export(checkpoint, out, "--allow-drift", engine="onnxruntime")
    assert result.exit_code == 0, result.output
    assert "Outside of the tolerance, written nevertheless: unet" in " ".join(result.output.split())
    report = json.loads((out / "parity.json").read_text())
    assert (report["passed"], report["drift_allowed"]) == (False, True)
    assert not report["pipeline"]["passed"]


def test_parity_is_measured_on_a_picture_of_ones_own(checkpoint, tmp_path):
    Image.fromarray(sample_picture(50, 30)[::-1]).save(tmp_path / "mine.png")
    reports = []
    for more in ((), ("--picture", tmp_path / "mine.png")):
        out = tmp_path / f"repository-{len(reports)}"
        assert export(checkpoint, out, *more, engine="onnxruntime").exit_code == 0
        reports.append(json.loads((out / "parity.json").read_text()))
    drawn, own = reports
    assert drawn["passed"] and own["passed"]
    errors = [[stage["max_abs_error"] for stage in report["stages"]] for report in (drawn, own)]
    assert errors[0] != errors[1]


def test_a_picture_that_cannot_be_read_is_said(checkpoint, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("none.png", "No such file"), ("text.png", "not an image")):
        result = export(checkpoint, tmp_path / "out", "--picture", tmp_path / name)
        assert result.exit_code == 1
        assert message in " ".join(result.output.split())


def test_the_video_is_not_compared_where_that_is_not_wanted(checkpoint, tmp_path):
    out = tmp_path / "repository"
    assert export(checkpoint, out, "--no-verify", engine="onnxruntime").exit_code == 0
    report = json.loads((out / "parity.json").read_text())
    assert report["passed"] and report["pipeline"] is None


def test_a_video_of_one_frame_is_compared_too(checkpoint, tmp_path):
    """Of which diffusers takes the guidance scale for the least one: no guidance, which it cannot do."""
    out = tmp_path / "with a space, ünd more"
    result = export(checkpoint, out, "--frames", "1", engine="onnxruntime")
    assert result.exit_code == 0, result.output
    report = json.loads((out / "parity.json").read_text())
    assert report["num_frames"] == 1
    assert report["pipeline"]["passed"]


def test_a_checkpoint_that_has_its_variant_alone(checkpoint, tmp_path):
    published = tmp_path / "published"
    shutil.copytree(checkpoint, published)
    for file in published.rglob("*.safetensors"):
        halves = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(file).items()
        }
        save_file(halves, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    result = export(published, tmp_path / "out", engine="onnxruntime")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["pipeline"]["passed"]


@pytest.fixture
def overflowing_weight(monkeypatch):
    """The engine of the UNet is built with a weight that overflows."""
    build = stage_builds.build_engine

    def wrong(module, stage, *arguments, **options):
        if stage.name == "unet":
            module.unet.conv_in.weight.data *= math.inf
        return build(module, stage, *arguments, **options)

    monkeypatch.setattr(stage_builds, "build_engine", wrong)


@pytest.mark.usefixtures("overflowing_weight")
def test_an_engine_that_is_not_finite_fails_the_gate_like_any_other(checkpoint, tmp_path):
    """The stage that did it and the video are named, and drift is allowed where that was asked for."""
    out = tmp_path / "repository"
    result = export(checkpoint, out, engine="onnxruntime")
    said = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "unet 0.0 dB (needs 70), video 0.0 dB (needs 45)" in said
    assert list(tmp_path.iterdir()) == []
    assert export(checkpoint, out, "--allow-drift", engine="onnxruntime").exit_code == 0
    body = (out / "parity.json").read_text()
    assert "Infinity" not in body and "NaN" not in body
    assert (
        json.loads(body)["pipeline"] | {"max_abs_error": None, "passed": False}
        == json.loads(body)["pipeline"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "magic"}, "supported: onnxruntime fp32, onnxruntime fp16, openvino fp32, openvino bf16"),
        ({"size": "17x24"}, "multiples of 4"),
        ({"size": "24"}, "give height x width"),
        ({"size": "-8x8"}, "give height x width"),
        ({"size": "0x8"}, "give height x width"),
    ],
)
def test_refusals(checkpoint, tmp_path, options, message):
    result = export(checkpoint, tmp_path / "out", **options)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--frames", "0"), "at least 1"),
        (("--precision", "fp8"), "openvino at fp8 is not supported"),
        (("--trained-size", "576"), "give height x width"),
        (("--profile", "16x24,24x16"), "24x16: not among the sizes"),
    ],
)
def test_refusals_of_options(checkpoint, tmp_path, more, message):
    result = export(checkpoint, tmp_path / "out", *more)
    assert result.exit_code == 1
    assert message in result.output


def test_a_build_that_is_too_large_is_refused_unless_forced(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "available_memory", lambda: 1000)
    out = tmp_path / "out"
    result = export(checkpoint, out, engine="onnxruntime")
    assert result.exit_code == 1
    assert "not enough for this build: memory: about" in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []
    assert export(checkpoint, out, "--force", engine="onnxruntime").exit_code == 0


def test_triton_can_host_the_engines_itself(checkpoint, tmp_path):
    out = tmp_path / "out"
    result = export(checkpoint, out, "--host", "triton", engine="onnxruntime")
    assert result.exit_code == 0, result.output
    for name in STAGES:
        assert files(out / name) == ["1/model.onnx", "config.pbtxt"]
        text = (out / name / "config.pbtxt").read_text()
        assert 'backend: "onnxruntime"' in text and 'default_model_filename: "model.onnx"' in text
    assert "image_to_video/1/model.py" in files(out)


@pytest.mark.parametrize(
    ("engine", "host", "message"),
    [
        ("openvino", "triton", "for tensorrt and onnxruntime; openvino has the python host"),
        ("tensorrt-rtx", "triton", "for tensorrt and onnxruntime; tensorrt-rtx has the python host"),
        ("onnxruntime", "docker", "--host docker: python or triton"),
    ],
)
def test_hosts_that_are_refused(checkpoint, tmp_path, engine, host, message):
    result = export(checkpoint, tmp_path / "out", "--host", host, engine=engine)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_folder_of_something_else_is_not_touched(checkpoint, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    result = export(checkpoint, tmp_path)
    assert result.exit_code == 1
    assert "no Zoetrope repository" in result.output
    assert files(tmp_path) == ["thesis.tex"]


def test_what_lies_in_a_folder_that_is_replaced_is_not_lost(checkpoint, tmp_path, monkeypatch):
    """The cache, the checkpoint, the folder that one is in; and a mount point cannot be replaced."""
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "models" / "checkpoint"
    shutil.copytree(checkpoint, inside)
    (tmp_path / "models" / "zoetrope.json").touch()
    (tmp_path / "elsewhere").mkdir()
    for source, out, more, held in (
        (checkpoint, "out", ("--cache", "out/cache"), "out/cache"),
        (inside, "models", (), str(inside)),
        (checkpoint, ".", (), str(tmp_path)),
        (checkpoint, "/proc", (), "mount point"),
    ):
        result = export(source, out, *more)
        assert result.exit_code == 1
        assert f"{held}" in "".join(result.output.split("\n"))
        assert "choose" in result.output
    assert (inside / "model_index.json").is_file()


def test_an_export_that_is_terminated_leaves_nothing(checkpoint, tmp_path):
    words = ("--engine", "onnxruntime", "--size", "16x24", "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "zoetrope_client", "export", str(checkpoint), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(tmp_path.iterdir()) or process.poll() is not None, 60)
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".out-"]
        process.terminate()
        assert process.wait(timeout=30) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_said_in_one_line(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    result = export(checkpoint, tmp_path / "file" / "out")
    assert (result.exit_code, result.output.count("error: ")) == (1, 1)
    assert isinstance(result.exception, SystemExit)


def test_no_checkpoint_is_said(tmp_path):
    result = export(tmp_path, tmp_path / "out")
    assert result.exit_code == 1
    assert "is no diffusers checkpoint" in result.output


def test_sizes():
    assert commands.parse_size("576x1024") == (576, 1024)
    assert commands.parse_size(" 64X96 ") == (64, 96)
    with pytest.raises(ExportError, match="^size 1x2x3"):
        commands.parse_size("1x2x3")


@pytest.mark.parametrize(("frames", "chunk"), [(1, 1), (6, 6), (8, 8), (9, 5), (14, 7), (25, 7)])
def test_frames_are_decoded_in_even_chunks(frames, chunk):
    assert exporting.default_chunk(frames) == chunk


def test_videos_share_executions_on_gpus_alone_by_default():
    shape = {"weights": 6_700_000, "positions": 14 * 16 * 24}
    assert [exporting.default_max_batch(each, **shape) for each in ("fp16", "fp32", "bf16")] == [4, 1, 1]


@pytest.mark.parametrize(
    ("weights", "positions", "most"),
    [
        (1_520_000_000, 25 * 72 * 128, 1),  # 220 ms a step, and 2.4e9 elements for two videos
        (1_520_000_000, 14 * 40 * 72, 1),
        (1_520_000_000, 14 * 32 * 32, 4),
        (6_700_000, 25 * 72 * 128, 1),  # quick, but its tensors would be too large for 32-bit indices
    ],
)
def test_long_steps_and_large_tensors_are_not_batched_by_default(weights, positions, most):
    assert exporting.default_max_batch("fp16", weights=weights, positions=positions) == most


def test_parity_of_a_large_checkpoint_is_measured_at_a_size_that_a_cpu_can_do(checkpoint):
    from zoetrope_export.checkpoint import open_checkpoint

    opened = open_checkpoint(checkpoint)
    facts = opened.manifest(
        engine="onnxruntime",
        precision="fp32",
        sizes=((576, 1024),),
        num_frames=(25,),
        decode_chunk_size=7,
        max_batch_size=1,
    )
    plan = exporting.Plan(checkpoint=opened, manifest=facts, out=checkpoint)
    (height, width), frames = exporting.parity_size(plan, on_engine=True)
    assert height % opened.grid == width % opened.grid == 0
    assert 0.8 * 128 * 256 < height * width <= 128 * 256
    assert np.isclose(width / height, 1024 / 576, rtol=0.1)
    assert frames == 14


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("sizes", "frames", "groups"),
    [
        (((576, 1024),), (25,), ()),
        (((576, 1024), (1024, 576), (512, 512)), (25, 14), ()),
        (((576, 1024), (1024, 576)), (25, 14), (((576, 1024), (1024, 576)),)),
    ],
)
def test_parity_of_an_engine_is_measured_at_shapes_that_its_profiles_take(
    checkpoint, monkeypatch, engine, device, sizes, frames, groups
):
    """A full-size engine takes nothing else: at 192x128 with 14 frames each export ended in an error."""
    from zoetrope_export.checkpoint import open_checkpoint
    from zoetrope_export.profiles import profiles
    from zoetrope_server.engines.sidecar import fitting_profile

    monkeypatch.setattr(exporting, "reference_device", lambda: device)
    opened = open_checkpoint(checkpoint)
    facts = opened.manifest(
        engine=engine,
        precision="fp16",
        sizes=sizes,
        num_frames=frames,
        decode_chunk_size=7,
        max_batch_size=1,
    )
    options = stage_builds.BuildOptions(profiles=groups)
    plan = exporting.Plan(checkpoint=opened, manifest=facts, out=checkpoint, options=options)
    size, count = exporting.parity_size(plan, on_engine=True)
    if device == "cuda":
        assert (size, count) == (sizes[0], frames[0]), "the shape that is served most"
    measured = replace(facts, sizes=(size,), num_frames=(count,))
    for stage in STAGES.values():
        for inputs in batching.served_shapes(stage, measured):
            shapes = {name: array.shape for name, array in inputs.items()}
            fitting_profile(stage, profiles(stage, facts, groups), shapes)


def test_a_random_checkpoint(tmp_path):
    out = tmp_path / "tiny"
    result = call("checkpoint", "random", "--like", "tiny", "--out", out, "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "14 frames of 128x192" in result.output
    assert (out / "model_index.json").is_file()
    again = call("checkpoint", "random", "--like", "tiny", "--out", out)
    assert again.exit_code == 1
    assert "is not empty" in again.output
    assert call("checkpoint", "random", "--like", "huge", "--out", out).exit_code == 2


def test_the_commands_import_nothing_heavy():
    heavy = "('torch', 'diffusers', 'numpy', 'openvino')"
    code = f"import sys, zoetrope_export.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
