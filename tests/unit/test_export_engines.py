"""The graphs of the stages: tensors of the specs, dynamic axes, non-finite values, PyTorch's numbers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402

from zoetrope_core.specs import STAGES  # noqa: E402
from zoetrope_export import engines  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.engines import TorchEngine, build_engine, to_openvino  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.onnx_graphs import (  # noqa: E402
    FILE_NAME,
    WEIGHTS_NAME,
    dynamic_axes,
    gather,
    trace_symbols,  # noqa: E402
)
from zoetrope_export.stage_modules import stage_module  # noqa: E402
from zoetrope_server.engines import open_engine  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

HOSTS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(artifacts.checkpoint(SMALLEST))


@pytest.fixture(scope="module")
def modules(checkpoint):
    return {name: stage_module(checkpoint, name) for name in STAGES}


@pytest.fixture(scope="module")
def built(checkpoint, modules, tmp_path_factory):
    """Folders with the files of both engines, by stage."""
    folders = {}
    for name, stage in STAGES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        build_engine(modules[name], stage, trace_symbols(checkpoint), folders[name], engine="onnxruntime")
        to_openvino(folders[name] / FILE_NAME, folders[name] / "model.xml")
    return folders


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_graph_has_the_tensors_of_its_spec(built, stage):
    graph = onnx.load(built[stage.name] / FILE_NAME).graph
    known = {"C": 4, "E": 32, "S": 224}
    for specs, values in ((stage.inputs, graph.input), (stage.outputs, graph.output)):
        assert [value.name for value in values] == [spec.name for spec in specs]
        for spec, value in zip(specs, values, strict=True):
            assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == spec.numpy_dtype
            assert shape_of(value) == ["B", *(known.get(dim, dim) for dim in spec.dims)]


def test_the_cast_to_uint8_comes_last(built):
    """TensorRT knows uint8 at the edge of a network only."""
    graph = onnx.load(built["vae_decoder"] / FILE_NAME).graph
    (last,) = [node for node in graph.node if "frames" in node.output]
    (before,) = [node for node in graph.node if last.input[0] in node.output]
    assert (before.op_type, last.op_type) == ("Transpose", "Cast")
    casts = [node for node in graph.node if node.op_type == "Cast"]
    uint8 = [node for node in casts if node.attribute[0].i == onnx.TensorProto.UINT8]
    assert uint8 == [last]


def test_dynamic_axes_are_all_but_the_checkpoints():
    (_, sigma, image_latents, *_) = STAGES["unet"].inputs
    assert dynamic_axes(sigma) == {0: "B"}
    assert dynamic_axes(image_latents) == {0: "B", 1: "K", 3: "h", 4: "w"}


@pytest.mark.parametrize(("batch", "rows", "frames"), [(1, 1, 1), (3, 2, 5), (2, 3, 4)])
@pytest.mark.parametrize("host", HOSTS[:2], ids="-".join)
def test_a_unet_takes_any_batch_rows_and_frames(built, modules, host, batch, rows, frames):
    symbols = {"C": 4, "E": 32, "K": rows, "F": frames, "h": 6, "w": 10}
    draw = np.random.default_rng(0)
    stage = STAGES["unet"]
    inputs = {
        spec.name: draw.uniform(0.1, 2.0, (batch, *spec.shape(symbols))).astype(np.float32)
        for spec in stage.inputs
    }
    expected = TorchEngine(modules["unet"], stage).run(inputs)["denoised"]
    actual = open_engine(built["unet"], stage, engine=host[0], precision=host[1]).run(inputs)["denoised"]
    assert np.abs(expected - actual).max() < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("host", [("torch", "fp32"), *HOSTS], ids="-".join)
def test_a_value_that_is_not_finite_is_flagged(built, modules, host, value):
    stage = STAGES["vae_decoder"]
    if host[0] == "torch":
        engine = TorchEngine(modules["vae_decoder"], stage)
    else:
        engine = open_engine(built["vae_decoder"], stage, engine=host[0], precision=host[1])
    latents = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 12)).astype(np.float32)
    assert engine.run({"latents": latents})["finite"].tolist() == [[True]]
    latents[0, 1, 2, 3, 4] = value
    outputs = engine.run({"latents": latents})
    assert outputs["finite"].tolist() == [[False]]
    assert outputs["finite"].dtype == np.bool_


def test_a_value_that_overflows_inside_is_flagged(built):
    engine = open_engine(built["vae_decoder"], STAGES["vae_decoder"], engine="onnxruntime", precision="fp32")
    latents = np.full((1, 2, 4, 8, 8), 3e38, np.float32)
    assert engine.run({"latents": latents})["finite"].tolist() == [[False]]


def test_scattered_weights_are_gathered_in_one_file(built, tmp_path):
    """As the exporter leaves a model of more than 2 GiB: one file for each tensor."""
    scattered, target = tmp_path / "scattered", tmp_path / "target"
    scattered.mkdir()
    target.mkdir()
    onnx.save(
        onnx.load(built["unet"] / FILE_NAME),
        str(scattered / FILE_NAME),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    assert len(list(scattered.iterdir())) > 100
    gather(scattered / FILE_NAME, target / FILE_NAME)
    assert sorted(path.name for path in target.iterdir()) == [FILE_NAME, WEIGHTS_NAME]
    assert list(scattered.iterdir()) == [scattered / FILE_NAME]
    stage = STAGES["unet"]
    symbols = {"C": 4, "E": 32, "K": 2, "F": 3, "h": 4, "w": 8}
    inputs = {spec.name: np.ones((1, *spec.shape(symbols)), np.float32) for spec in stage.inputs}
    expected, actual = (
        open_engine(folder, stage, engine="onnxruntime", precision="fp32").run(inputs)["denoised"]
        for folder in (built["unet"], target)
    )
    assert np.array_equal(expected, actual)


def test_an_openvino_engine_leaves_no_onnx_file(checkpoint, modules, tmp_path):
    stage = STAGES["image_encoder"]
    build_engine(modules["image_encoder"], stage, trace_symbols(checkpoint), tmp_path, engine="openvino")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert "f16" not in (tmp_path / "model.xml").read_text()


@pytest.mark.parametrize(
    ("engine", "precision"), [("onnxruntime", "bf16"), ("openvino", "fp16"), ("tensorrt", "int8"), ("", "")]
)
def test_what_is_not_supported_is_refused_with_what_is(engine, precision):
    with pytest.raises(ExportError, match=r"supported: onnxruntime fp32, .*openvino fp32, openvino bf16"):
        engines.check_supported(engine, precision)
