"""AOTInductor packages: PyTorch's numbers for any shape, built once, refused where they do not belong."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402

from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export import commands, inductor_build  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.engines import TorchEngine  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.onnx_graphs import trace_symbols  # noqa: E402
from zoetrope_export.parity import psnr  # noqa: E402
from zoetrope_export.profiles import profiles  # noqa: E402
from zoetrope_export.stage_builds import BuildOptions, Silent, StageBuilder  # noqa: E402
from zoetrope_export.stage_modules import stage_module  # noqa: E402
from zoetrope_server.engines import EngineError, inductor, open_engine  # noqa: E402
from zoetrope_server.engines.sidecar import Sidecar, find_engine  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "g++")) is None, reason="AOTInductor needs a C++ compiler"
    ),
]
ARCHITECTURE = replace(SMALLEST, num_frames=3)
QUICK = ("image_encoder", "vae_encoder", "vae_decoder")
"""Stages that compile in seconds; a UNet takes minutes."""
app = typer.Typer()
app.command()(commands.export)


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(artifacts.checkpoint(ARCHITECTURE))


@pytest.fixture(scope="module")
def manifest(checkpoint):
    return checkpoint.manifest(
        engine="aot-inductor",
        precision="fp32",
        sizes=((16, 24), (24, 16)),
        num_frames=(3,),
        decode_chunk_size=3,
        max_batch_size=2,
    )


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Packages for the CPU, on machines with a GPU too; those for a GPU have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inductor_build, "device", lambda: "cpu")
        yield


def test_a_package_for_the_cpu_is_bound_to_the_cpu_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert inductor_build.target() == inductor.cpu_target(torch)
    monkeypatch.setattr(inductor_build, "device", lambda: "cuda")
    assert inductor_build.target() == "sm90"


@pytest.fixture(scope="module")
def builder(checkpoint, manifest, tmp_path_factory):
    return StageBuilder(checkpoint, manifest, BuildOptions(cache=tmp_path_factory.mktemp("cache")), Silent())


@pytest.fixture(scope="module")
def folders(checkpoint, builder, tmp_path_factory):
    made = {}
    for name in QUICK:
        made[name] = tmp_path_factory.mktemp(name)
        with builder.build(stage_module(checkpoint, name), STAGES[name], made[name]) as built:
            assert built.computed_by == "engine"
    return made


def opened(folder, name, precision="fp32"):
    return open_engine(folder, STAGES[name], engine="aot-inductor", precision=precision)


def inputs_of(name, batch, **sizes):
    symbols = {"C": 4, "E": 32, "S": 224, "h": 8, "w": 12, "H": 16, "W": 24, **sizes}
    draw = np.random.default_rng(0)
    return {
        spec.name: draw.uniform(-1.0, 1.0, (batch, *spec.shape(symbols))).astype(np.float32)
        for spec in STAGES[name].inputs
    }


@pytest.mark.parametrize(
    ("name", "batch", "sizes"),
    [
        ("image_encoder", 1, {}),
        ("vae_encoder", 1, {}),
        ("vae_encoder", 1, {"H": 24, "W": 16}),
        ("vae_decoder", 1, {"f": 1}),
        ("vae_decoder", 1, {"f": 3, "h": 12, "w": 8}),
    ],
)
def test_a_package_computes_what_pytorch_computes(checkpoint, folders, name, batch, sizes):
    inputs = inputs_of(name, batch, **sizes)
    expected = TorchEngine(stage_module(checkpoint, name), STAGES[name]).run(inputs)
    actual = opened(folders[name], name).run(inputs)
    assert list(actual) == [spec.name for spec in STAGES[name].outputs]
    for spec in STAGES[name].outputs:
        assert actual[spec.name].dtype == spec.numpy_dtype
        assert psnr(expected[spec.name], actual[spec.name]) > 70.0


def test_what_is_not_finite_is_flagged(folders):
    inputs = inputs_of("vae_decoder", 1, f=2)
    inputs["latents"][0, 1, 0, 0, 0] = np.nan
    assert opened(folders["vae_decoder"], "vae_decoder").run(inputs)["finite"].tolist() == [[False]]


def test_the_key_says_what_it_is_bound_to(folders):
    for name, folder in folders.items():
        key = Sidecar.load(find_engine(folder, name)).key
        assert (key.stage, key.library, key.precision) == (name, "torch", "fp32")
        assert key.library_version == str(torch.__version__)
        assert key.target == inductor_build.target()


def test_a_package_is_compiled_once(checkpoint, builder, folders, tmp_path, monkeypatch):
    def again(*arguments):
        raise AssertionError("compiled again")

    monkeypatch.setattr(inductor_build, "compile_package", again)
    with builder.build(stage_module(checkpoint, "vae_decoder"), STAGES["vae_decoder"], tmp_path):
        assert (
            find_engine(tmp_path, "vae_decoder").name
            == find_engine(folders["vae_decoder"], "vae_decoder").name
        )


def test_other_weights_are_another_package(checkpoint):
    stage = STAGES["image_encoder"]
    module = stage_module(checkpoint, stage.name)
    ranges = {"B": (1, 1, 1)}
    first = inductor_build.digests(inductor_build.trace(module, stage, trace_symbols(checkpoint), ranges))
    next(module.parameters()).data *= 1.01
    second = inductor_build.digests(inductor_build.trace(module, stage, trace_symbols(checkpoint), ranges))
    assert first[0] == second[0] and first[1] != second[1]


def test_a_package_of_another_machine_or_torch_is_refused(folders, monkeypatch):
    folder = folders["vae_decoder"]
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    with pytest.raises(EngineError, match=r"library version is .*, here 2\.99\.0"):
        opened(folder, "vae_decoder")
    monkeypatch.undo()
    monkeypatch.setattr(inductor, "cpu_target", lambda torch: "cpu-neon")
    with pytest.raises(EngineError, match="target is .*, here cpu-neon"):
        opened(folder, "vae_decoder")


def test_another_cpu_is_another_target(tmp_path):
    """Whatever the order of its flags; the compiler uses all instructions that there are."""

    def target(flags):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\nbogomips : 1\n")
        return inductor.cpu_target(torch, tmp_path / "cpuinfo")

    assert target("avx2 fma") == target("fma avx2")
    assert target("avx2 fma") != target("avx2 fma amx_tile")
    assert inductor.cpu_target(torch, tmp_path / "missing").startswith("cpu-")


def test_what_a_package_was_not_compiled_for_is_refused(folders):
    """It would run: on memory beyond the tensors."""
    package = opened(folders["vae_decoder"], "vae_decoder")
    with pytest.raises(EngineError, match="no profile of the engine takes .*f=4"):
        package.run(inputs_of("vae_decoder", 1, f=4))


SVD_XT_SHAPES = {"sizes": ((576, 1024), (1024, 576)), "num_frames": (25, 14), "decode_chunk_size": 7}


def test_every_axis_of_a_program_has_the_bound_that_its_indices_need(checkpoint):
    """Without one it is indexed with 32 bits: two videos at 1024x576 have 2.4e9 elements in one tensor."""
    stage = STAGES["vae_decoder"]
    facts = checkpoint.manifest(engine="aot-inductor", precision="fp32", max_batch_size=1, **SVD_XT_SHAPES)
    (ranges,) = profiles(stage, facts, (facts.sizes,))
    program = inductor_build.trace(
        stage_module(checkpoint, stage.name), stage, trace_symbols(checkpoint), ranges
    )
    latent = 1024 // checkpoint.vae_scale_factor
    assert sorted(int(bound.upper) for bound in program.range_constraints.values()) == [7, latent, latent]


def test_an_axis_with_one_value_is_static(checkpoint):
    stage = STAGES["vae_encoder"]
    ranges = {"B": (1, 1, 1), "H": (64, 64, 64), "W": (96, 96, 96)}
    program = inductor_build.trace(
        stage_module(checkpoint, stage.name), stage, trace_symbols(checkpoint), ranges
    )
    assert program.range_constraints == {}
    (shape,) = (node.meta["val"].shape for node in program.graph.nodes if node.name == "pixels")
    assert tuple(shape) == (1, 3, 64, 96)


def test_fp16_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(inductor_build, "device", lambda: "cpu")
    for precision in ("fp16", "bf16"):
        with pytest.raises(ExportError, match="there is none here; use fp32"):
            inductor_build.check_precision(precision)
    inductor_build.check_precision("fp32")


def test_a_compiler_that_fails_is_said(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(ExportError, match=r"could not compile a\.pt2: no g\+\+"):
        inductor_build.compile_package(None, tmp_path / "a.pt2")


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_a_whole_checkpoint(checkpoint, tmp_path):
    words = [checkpoint.directory, "--engine", "aot-inductor", "--size", "16x24", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--cache", tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["passed"]
    assert {each["stage"]: each["computed_by"] for each in report["stages"]} == dict.fromkeys(
        STAGES, "engine"
    )
    for batch, rows, frames in ((1, 1, 3), (1, 2, 3)):
        inputs = {
            key: np.abs(value) + 0.1 for key, value in inputs_of("unet", batch, K=rows, F=frames).items()
        }
        expected = TorchEngine(stage_module(checkpoint, "unet"), STAGES["unet"]).run(inputs)
        actual = opened(tmp_path / "out" / "unet" / "1", "unet").run(inputs)
        assert psnr(expected["denoised"], actual["denoised"]) > 70.0
