"""TensorRT-RTX reads and builds all four stages of the demo checkpoint, on a machine without a GPU."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from evidence import ran
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

from zoetrope_core.manifest import Manifest  # noqa: E402
from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export import commands, stage_builds, tensorrt_build  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.engines import TorchEngine  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.native_graphs import export_native  # noqa: E402
from zoetrope_export.parity import psnr  # noqa: E402
from zoetrope_export.profiles import input_shapes, profiles  # noqa: E402
from zoetrope_export.stage_builds import BuildOptions, Silent, StageBuilder  # noqa: E402
from zoetrope_export.stage_modules import stage_module  # noqa: E402
from zoetrope_export.tensorrt_build import Builder, choose_target, parse_capability  # noqa: E402
from zoetrope_server.batching import example_inputs  # noqa: E402
from zoetrope_server.engines import EngineError, open_engine, tensorrt  # noqa: E402
from zoetrope_server.engines.gpu import Gpu, detect_gpu  # noqa: E402
from zoetrope_server.engines.sidecar import Sidecar, find_engine  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
SIZES = ((128, 192), (192, 128))
DTYPES = {"FP32": trt.float32, "UINT8": trt.uint8, "BOOL": trt.bool}
H200 = Gpu(name="NVIDIA H200", target="sm90", driver="570.1", memory=1 << 37, free=1 << 37)
L4 = Gpu(name="NVIDIA L4", target="sm89", driver="570.1", memory=1 << 34, free=1 << 34)
app = typer.Typer()
app.command()(commands.export)


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def manifest(checkpoint):
    return checkpoint.manifest(
        engine="tensorrt-rtx",
        precision="fp16",
        sizes=SIZES,
        num_frames=(14, 7),
        decode_chunk_size=7,
        max_batch_size=4,
    )


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """A folder with a repository by the command, the cache beside it, and the graphs that were built from."""
    folder = tmp_path_factory.mktemp("exported")

    def keep(module, stage, symbols, directory):
        graph = export_native(module, stage, symbols, directory)
        shutil.copytree(directory, folder / "graphs" / stage.name)
        return graph

    words = [checkpoint.directory, "--engine", "tensorrt-rtx", "--precision", "fp16", "--size", "64x96"]
    words += ["--compute-capability", "8.9", "--cache", folder / "cache", "--out", folder / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_builds, "export_native", keep)
        result = CliRunner().invoke(app, [str(word) for word in (*words, "--workspace", "1")])
    assert result.exit_code == 0, result.output
    assert "The engines themselves were not run" in result.output
    return folder


@pytest.fixture(scope="module")
def graphs(exported):
    return {name: exported / "graphs" / name / "model.onnx" for name in STAGES}


@pytest.fixture(scope="module")
def repository(exported):
    return exported / "out"


def builder(target="sm89"):
    return Builder(library=trt, target=target, ahead=True)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_network_has_the_tensors_and_profiles_of_its_spec(graphs, manifest, stage):
    parsed = tensorrt_build.parse(trt, graphs[stage.name])
    assert parsed.parser.num_errors == 0
    network = parsed.network
    for specs, count, tensor in (
        (stage.inputs, network.num_inputs, network.get_input),
        (stage.outputs, network.num_outputs, network.get_output),
    ):
        assert [tensor(index).name for index in range(count)] == [spec.name for spec in specs]
        for index, spec in enumerate(specs):
            assert tensor(index).dtype == DTYPES[spec.dtype]
            assert tuple(tensor(index).shape) == (-1, *spec.shape(manifest.symbols()))
    ranges = profiles(stage, manifest)
    config, added = tensorrt_build.configure(parsed, builder(), stage, ranges, manifest.symbols())
    assert config.num_optimization_profiles == len(added) == (1 if stage.name == "image_encoder" else 2)
    for wanted, profile in zip(ranges, added, strict=True):
        for name, shapes in input_shapes(stage, wanted, manifest.symbols()).items():
            assert tuple(map(tuple, profile.get_shape(name))) == shapes


@pytest.mark.parametrize(("name", "attentions", "norms"), [("unet", 8, 49), ("vae_encoder", 1, 12)])
def test_attention_and_group_norms_are_single_layers(graphs, name, attentions, norms):
    """What the builder has kernels for reaches it whole; the traced graph has a dozen nodes for each."""
    network = (parsed := tensorrt_build.parse(trt, graphs[name])).network
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    assert kinds.count(trt.LayerType.ATTENTION_INPUT) == attentions
    assert kinds.count(trt.LayerType.NORMALIZATION) >= norms
    assert parsed.parser.num_errors == 0


def test_the_configuration_is_what_was_asked_for(graphs, manifest):
    stage, wanted = (
        STAGES["image_encoder"],
        Builder(library=trt, target="sm120", ahead=True, workspace_gib=0.5, optimization_level=4),
    )
    parsed = tensorrt_build.parse(trt, graphs[stage.name])
    config, _ = tensorrt_build.configure(parsed, wanted, stage, profiles(stage, manifest), manifest.symbols())
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM120
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 29
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.builder_optimization_level == 4
    assert wanted.options() == {"workspace_gib": "0.5", "optimization_level": "4"}


def test_a_profile_that_the_network_cannot_have_is_refused(graphs, manifest):
    stage = STAGES["image_encoder"]
    parsed = tensorrt_build.parse(trt, graphs[stage.name])
    with pytest.raises(ExportError, match="refuses the profile"):
        tensorrt_build.configure(parsed, builder(), stage, ({"B": (4, 2, 1)},), manifest.symbols())


def test_what_cannot_be_parsed_is_said(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="tensorrt_rtx cannot read model.onnx: "):
        tensorrt_build.parse(trt, tmp_path / "model.onnx")


def test_a_repository_of_four_engines(repository):
    manifest = Manifest.load(repository)
    assert (manifest.engine, manifest.precision) == ("tensorrt-rtx", "fp16")
    for name, stage in STAGES.items():
        folder = repository / name / "1"
        file = find_engine(folder, name)
        key = Sidecar.load(file).key
        assert (key.stage, key.library, key.library_version) == (name, "tensorrt_rtx", trt.__version__)
        assert (key.target, key.gpu, key.driver) == ("sm89", "", "")
        assert key.precision == ("fp16" if name in ("unet", "vae_decoder") else "tf32")
        assert key.profiles == profiles(stage, manifest)
        assert key.options == {"workspace_gib": "1"}
        assert file.stat().st_size > 100_000
        ran("built", engine="tensorrt-rtx", precision="fp16", stages=[name])
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [file.name, f"{file.name}.json", "model.py"]
        )


def test_the_report_says_what_was_compared(repository):
    report = json.loads((repository / "parity.json").read_text())
    assert report["passed"]
    assert {stage["computed_by"] for stage in report["stages"]} == {"onnxruntime (graph)"}
    assert [stage["precision"] for stage in report["stages"]] == ["tf32", "tf32", "fp16", "fp16"]
    assert all(built < translated for translated, built in (each["nodes"] for each in report["stages"]))
    assert report["pipeline"] is None, "no engine was run, so no video was compared"


class Recorder(Silent):
    def __init__(self, answer=True):
        self.phases, self.answer = [], answer

    def phase_start(self, phase, parent, steps):
        self.phases.append((phase, parent, steps))

    def step_complete(self, phase, step):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_another_export_finds_the_engines(repository, checkpoint, tmp_path, caplog):
    """From a graph that is traced anew, in a process that might be another."""
    options = BuildOptions(compute_capability="sm89", workspace_gib=1.0, cache=repository.parent / "cache")
    recorder = Recorder()
    stage, facts = STAGES["image_encoder"], Manifest.load(repository)
    builds = StageBuilder(checkpoint, facts, options, recorder)
    caplog.set_level(logging.INFO)
    with builds.build(stage_module(checkpoint, stage.name), stage, tmp_path) as built:
        assert built.engine.run(example_inputs(stage, facts))["image_embeds"].shape == (1, 128)
    assert "found in the cache" in caplog.text
    assert recorder.phases == []
    assert (
        find_engine(tmp_path, stage.name).name == find_engine(repository / stage.name / "1", stage.name).name
    )


def test_a_build_shows_its_progress(graphs, manifest, tmp_path):
    recorder = Recorder()
    compile_encoder(graphs, manifest, tmp_path / "a.plan", recorder)
    assert (tmp_path / "a.plan").stat().st_size > 100_000
    assert any(parent is None and steps > 1 for _, parent, steps in recorder.phases)


def test_an_interrupt_ends_a_build(graphs, manifest, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compile_encoder(graphs, manifest, tmp_path / "a.plan", Recorder(KeyboardInterrupt()))
    assert not (tmp_path / "a.plan").exists()


def test_a_build_that_fails_is_said(graphs, manifest, tmp_path):
    with pytest.raises(ExportError, match=r"tensorrt_rtx could not build a\.plan"):
        compile_encoder(graphs, manifest, tmp_path / "a.plan", Recorder(answer=False))


def compile_encoder(graphs, manifest, path, progress):
    stage = STAGES["image_encoder"]
    parsed = tensorrt_build.parse(trt, graphs[stage.name])
    config, _ = tensorrt_build.configure(
        parsed, builder(), stage, profiles(stage, manifest), manifest.symbols()
    )
    tensorrt_build.build(parsed, builder(), config, path, progress)


def opened(folder, precision="fp16"):
    return open_engine(folder, STAGES["unet"], engine="tensorrt-rtx", precision=precision)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (None, r"needs a GPU \(sm89\), and there is none here"),
        (H200, "target is sm89, here sm90"),
    ],
)
def test_an_engine_of_another_gpu_is_not_loaded(repository, monkeypatch, gpu, message):
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: gpu)
    with pytest.raises(EngineError, match=message):
        opened(repository / "unet" / "1")


def test_an_engine_of_another_library_version_is_not_loaded(repository, monkeypatch):
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: L4)
    monkeypatch.setattr(trt, "__version__", "99.1")
    with pytest.raises(EngineError, match=r"library version is [\d.]+, here 99.1; build it again"):
        opened(repository / "unet" / "1")


def test_an_engine_of_another_precision_is_not_loaded(repository, monkeypatch):
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: L4)
    with pytest.raises(EngineError, match="precision is fp16, here fp32"):
        opened(repository / "unet" / "1", "fp32")


def test_a_truncated_engine_is_not_loaded(repository, monkeypatch, tmp_path):
    monkeypatch.setattr(tensorrt, "detect_gpu", lambda: L4)
    file = find_engine(repository / "unet" / "1", "unet")
    (tmp_path / file.name).write_bytes(file.read_bytes()[:-1])
    (tmp_path / f"{file.name}.json").write_text(file.with_name(f"{file.name}.json").read_text())
    with pytest.raises(EngineError, match="is damaged: .* bytes"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "gpu", "target"), [("8.9", None, "sm89"), ("sm120", L4, "sm120"), (None, L4, "sm89")]
)
def test_the_target_of_a_build_ahead(wanted, gpu, target):
    assert choose_target("tensorrt-rtx", trt, wanted, gpu) == target


@pytest.mark.parametrize(
    ("engine", "wanted", "gpu", "message"),
    [
        ("tensorrt-rtx", None, None, "give --compute-capability, one of sm120"),
        ("tensorrt-rtx", None, H200, "cannot build for sm90; it can for .*sm89"),
        ("tensorrt", "9.0", None, "there is none here"),
        ("tensorrt", "8.9", H200, "sm90, not sm89"),
    ],
)
def test_targets_that_cannot_be_built_for(engine, wanted, gpu, message):
    with pytest.raises(ExportError, match=message):
        choose_target(engine, trt, wanted, gpu)


def test_tensorrt_builds_for_the_gpu_here():
    assert choose_target("tensorrt", None, None, H200) == "sm90"


def test_capabilities():
    assert {parse_capability(text) for text in ("8.9", "89", "sm89", "SM_89", " sm8.9 ")} == {"sm89"}
    assert parse_capability("12.0") == parse_capability("sm120") == "sm120"
    with pytest.raises(ExportError, match="--compute-capability ada"):
        parse_capability("ada")


def test_a_missing_library_is_said_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ExportError, match="pip install 'tensorrt-rtx-cu13>=1.7'"):
        tensorrt_build.load_library("tensorrt-rtx")


@pytest.mark.gpu
@pytest.mark.parametrize("name", STAGES)
def test_an_engine_computes_what_pytorch_computes(checkpoint, manifest, tmp_path, name):
    stage, gpu = STAGES[name], detect_gpu()
    library = "tensorrt-rtx" if hasattr(trt.ComputeCapability, gpu.target.upper()) else "tensorrt"
    facts = replace(manifest, engine=library)
    builds = StageBuilder(checkpoint, facts, BuildOptions(cache=tmp_path / "cache"), Silent())
    draw = np.random.default_rng(0)
    inputs = {
        key: draw.uniform(0.1, 1.0, array.shape).astype(np.float32)
        for key, array in example_inputs(stage, facts, batch=2 if stage.batchable else 1).items()
    }
    expected = TorchEngine(stage_module(checkpoint, name), stage).run(inputs)
    with builds.build(stage_module(checkpoint, name), stage, tmp_path) as built:
        assert built.computed_by == "engine"
        outputs = built.engine.run(inputs)
    for key, array in expected.items():
        assert psnr(array, outputs[key]) > 45.0
