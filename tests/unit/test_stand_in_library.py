"""The same assertions on the real TensorRT-RTX, as far as it runs without a GPU, and on the stand-in."""

import importlib

import pytest
from onnx import TensorProto
from stand_in import fixtures
from stand_in.engines import attention, doubling

from zoetrope_export import tensorrt_build
from zoetrope_export.errors import ExportError
from zoetrope_server.engines import EngineError, requirements
from zoetrope_server.engines.recorder import error_recorder

real = pytest.importorskip("tensorrt_rtx")

stand_in = fixtures.stand_in
FP16, BF16, FP32 = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def library(request, stand_in):
    return importlib.import_module(request.param)


def parsed(library, path):
    return tensorrt_build.parse(library, path)


def test_a_network_says_what_it_takes(library, tmp_path):
    network = parsed(library, attention(tmp_path / "model.onnx", 64, FP16)).network
    assert [network.get_input(index).name for index in range(network.num_inputs)] == ["q", "k", "v"]
    assert tuple(network.get_input(0).shape) == (-1, 2, -1, 64)
    assert network.get_input(0).dtype == library.float16
    assert network.get_output(0).name == "y"


def test_a_damaged_graph_is_refused_with_the_parser_s_words(library, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match=rf"{library.__name__} cannot read model\.onnx: ."):
        parsed(library, tmp_path / "model.onnx")


def with_target(library, config):
    """TensorRT-RTX builds ahead of time, for one GPU."""
    if library is real:
        config.num_compute_capabilities = 1
        config.set_compute_capability(library.ComputeCapability.SM89, 0)
    return config


@pytest.mark.parametrize(
    ("shapes", "buildable"),
    [({"x": [(1,), (3,), (8,)]}, True), ({"x": [(8,), (3,), (1,)]}, False), ({}, False), (None, False)],
)
def test_profiles_are_checked_when_a_plan_is_built(library, tmp_path, shapes, buildable):
    """None stands for no profile at all. Each input has a range, whose least is not more than its most."""
    network = parsed(library, doubling(tmp_path / "model.onnx"))
    config = with_target(library, network.builder.create_builder_config())
    if shapes is not None:
        profile = network.builder.create_optimization_profile()
        for name, ranges in shapes.items():
            profile.set_shape(name, *ranges)
        config.add_optimization_profile(profile)
    assert (network.builder.build_serialized_network(network.network, config) is not None) is buildable


def test_tf32_is_on_unless_it_is_switched_off(library, tmp_path):
    config = parsed(library, doubling(tmp_path / "model.onnx")).builder.create_builder_config()
    assert config.get_flag(library.BuilderFlag.TF32)
    config.clear_flag(library.BuilderFlag.TF32)
    assert not config.get_flag(library.BuilderFlag.TF32)


def built(library, parsed, dim):
    config = with_target(library, parsed.builder.create_builder_config())
    profile = parsed.builder.create_optimization_profile()
    for name in "qkv":
        profile.set_shape(name, *[(1, 2, 16, dim)] * 3)
    config.add_optimization_profile(profile)
    return parsed.builder.build_serialized_network(parsed.network, config) is not None


def decomposable(library, network):
    """What each attention of a network allows; it may be set, for `value`."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == library.LayerType.ATTENTION_INPUT:
            layer.__class__ = library.IAttentionInputLayer
            yield layer.attention


CASES = [(64, FP16, True), (64, BF16, True), (256, FP16, True), (512, FP16, False), (64, FP32, False)]


@pytest.mark.parametrize(("dim", "kind", "fused"), CASES)
def test_attention_has_fused_kernels_below_fp32_up_to_256_channels(library, tmp_path, dim, kind, fused):
    """Where there are some nothing else is allowed: step by step a large one takes more than all memory."""
    network = parsed(library, attention(tmp_path / "model.onnx", dim, kind))
    (layer,) = decomposable(library, network.network)
    assert layer.decomposable is not fused
    assert built(library, network, dim)
    layer.decomposable = False
    assert built(library, network, dim) is fused


def test_what_is_no_plan_is_none_and_the_recorder_knows_why(library):
    recorder = error_recorder(library)
    runtime = library.Runtime(library.Logger(library.Logger.ERROR))
    runtime.error_recorder = recorder
    assert runtime.deserialize_cuda_engine(b"no plan" * 100) is None
    said = "; ".join(recorder.taken())
    assert "kEXPECTED_MAGIC_TAG failed" in said
    assert recorder.taken() == []


def test_a_library_that_is_too_old_is_refused_with_both_versions(library, monkeypatch):
    """TensorRT 10.13 has no parser for the attention of opset 23: the error came from deep inside it."""
    assert requirements.load(library.__name__) is library
    needed = requirements.REQUIREMENTS[library.__name__]
    monkeypatch.setattr(library, "__version__", f"{needed.oldest[0]}.{needed.oldest[1] - 1}.9.9")
    oldest = ".".join(map(str, needed.oldest))
    with pytest.raises(EngineError, match=rf"{oldest} or newer, here .*\.9\.9: pip install") as error:
        requirements.load(library.__name__)
    assert needed.install in str(error.value)


def test_the_floors_are_those_of_the_extras():
    """`pip install 'zoetrope[tensorrt]'` must not bring what is refused."""
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = set(extras["optional-dependencies"]["tensorrt"])
    assert {
        requirements.REQUIREMENTS[name].install for name in ("tensorrt", "cuda.bindings.runtime")
    } == wanted
