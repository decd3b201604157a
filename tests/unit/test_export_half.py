"""FP16 graphs: half where it is fast, FP32 where FP16 overflows or forgets, PyTorch's numbers."""

import asyncio
import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("diffusers")

import artifacts  # noqa: E402
from small_checkpoints import SMALLEST  # noqa: E402

from zoetrope_core.errors import NonFinite  # noqa: E402
from zoetrope_core.specs import STAGES, VAE_DECODER_FP32  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.engines import TorchEngine  # noqa: E402
from zoetrope_export.half import FloatGroupNorm, to_half  # noqa: E402
from zoetrope_export.onnx_graphs import FILE_NAME, export_onnx, trace_symbols  # noqa: E402
from zoetrope_export.parity import TOLERANCE_DB, psnr  # noqa: E402
from zoetrope_export.stage_modules import stage_module  # noqa: E402
from zoetrope_server.engines import open_engine  # noqa: E402
from zoetrope_server.engines.onnxruntime import OnnxRuntimeEngine  # noqa: E402
from zoetrope_server.finite import decode_finite  # noqa: E402
from zoetrope_server.stages import LocalStages  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT, HALF, UINT8, BOOL, INT64 = 1, 10, 2, 9, 7


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(artifacts.checkpoint(SMALLEST))


@pytest.fixture(scope="module")
def halves(checkpoint):
    return {name: to_half(stage_module(checkpoint, name), stage) for name, stage in STAGES.items()}


@pytest.fixture(scope="module")
def folders(checkpoint, halves, tmp_path_factory):
    made = {}
    for name in ("unet", "vae_decoder"):
        made[name] = tmp_path_factory.mktemp(name)
        export_onnx(halves[name], STAGES[name], trace_symbols(checkpoint), made[name])
    return made


def typed(folder):
    """The nodes of a graph, and the type of each of its tensors."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(folder / FILE_NAME)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return graph, types


def inputs_of(stage, batch, **sizes):
    symbols = {"C": 4, "E": 32, "h": 6, "w": 10, **sizes}
    draw = np.random.default_rng(0)
    inputs = {
        spec.name: draw.uniform(0.1, 2.0, (batch, *spec.shape(symbols))).astype(np.float32)
        for spec in stage.inputs
    }
    if "weights" in inputs:
        inputs["weights"] /= inputs["weights"].sum(1, keepdims=True)
    return inputs


def test_the_encoders_stay_fp32(halves):
    for name in ("image_encoder", "vae_encoder"):
        assert {parameter.dtype for parameter in halves[name].parameters()} == {torch.float32}


def test_the_islands_stay_fp32_and_the_rest_does_not(halves):
    unet = halves["unet"].unet.module
    kept = {name for name, parameter in unet.named_parameters() if parameter.dtype == torch.float32}
    assert {name.split(".linear")[0].rpartition(".")[2] for name in kept} == {
        "time_embedding",
        "add_embedding",
    }
    assert kept == {name for name, _ in unet.named_parameters() if "_embedding" in name}
    tables = {buffer.dtype for name, buffer in unet.named_buffers() if name.endswith("positions")}
    assert tables == {torch.float32}
    decoder = halves["vae_decoder"].decoder.module
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float16}


def test_statistics_are_fp32():
    """A value whose square is beyond FP16, as activations of the decoder have it."""
    norm = torch.nn.GroupNorm(1, 4).half()
    x = (torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)) * 5000).half()
    actual = FloatGroupNorm(norm)(x)
    expected = torch.nn.functional.group_norm(x.double(), 1)
    assert actual.dtype == torch.float16
    assert (actual.double() - expected).abs().max() < 5e-3


@pytest.mark.parametrize("name", ["unet", "vae_decoder"])
def test_the_graph_is_half_between_float_edges(folders, name):
    graph, types = typed(folders[name])
    edges = {value.name: types[value.name] for value in (*graph.input, *graph.output)}
    assert set(edges.values()) <= {FLOAT, UINT8, BOOL}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert {types[each] for node in convolutions for each in node.input} == {HALF}
    norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
    assert norms
    assert {types[node.input[0]] for node in norms} == {FLOAT}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            stash = [attribute.i for attribute in node.attribute if attribute.name == "stash_type"]
            assert stash in ([], [FLOAT])  # 1 is the default


def test_scalings_and_the_guidance_sum_are_fp32(folders):
    graph, types = typed(folders["unet"])
    producers = {output: node for node in graph.node for output in node.output}
    (total,) = [n for n in graph.node if n.op_type == "ReduceSum" and "weights" in names_above(n, producers)]
    (log,) = [n for n in graph.node if n.op_type == "Log"]
    last = producers["denoised"]
    assert last.op_type == "Sub"
    for node in (total, log, last, *(producers[name] for name in last.input)):
        assert {types[name] for name in (*node.input, *node.output) if types[name] != INT64} == {FLOAT}


def names_above(node, producers, depth=4):
    """The tensors that a node depends on, a few nodes up."""
    names = set(node.input)
    if depth:
        for name in node.input:
            if name in producers:
                names |= names_above(producers[name], producers, depth - 1)
    return names


def test_the_cast_to_uint8_comes_last(folders):
    graph, _ = typed(folders["vae_decoder"])
    (last,) = [node for node in graph.node if "frames" in node.output]
    uint8 = [n for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == UINT8]
    assert uint8 == [last]
    assert not [node for node in graph.node if "frames" in node.input]


@pytest.mark.parametrize(("batch", "rows", "frames"), [(1, 1, 1), (3, 2, 5)])
def test_the_unet_computes_the_same(checkpoint, folders, batch, rows, frames):
    stage = STAGES["unet"]
    inputs = inputs_of(stage, batch, K=rows, F=frames)
    expected = TorchEngine(stage_module(checkpoint, "unet"), stage).run(inputs)["denoised"]
    engine = open_engine(folders["unet"], stage, engine="onnxruntime", precision="fp32")
    assert TOLERANCE_DB["fp16"] < psnr(expected, engine.run(inputs)["denoised"]) < 100.0


@pytest.mark.parametrize("sigma", [0.002, 700.0])
def test_the_ends_of_the_schedule_survive(checkpoint, folders, sigma):
    stage = STAGES["unet"]
    inputs = inputs_of(stage, 1, K=2, F=3)
    inputs["sigma"][:] = sigma
    inputs["latents"] *= sigma
    expected = TorchEngine(stage_module(checkpoint, "unet"), stage).run(inputs)["denoised"]
    engine = open_engine(folders["unet"], stage, engine="onnxruntime", precision="fp32")
    assert psnr(expected, engine.run(inputs)["denoised"]) > TOLERANCE_DB["fp16"]


@pytest.mark.parametrize("frames", [1, 3])
def test_the_decoder_computes_the_same(checkpoint, folders, frames):
    stage = STAGES["vae_decoder"]
    inputs = inputs_of(stage, 1, f=frames)
    expected = TorchEngine(stage_module(checkpoint, "vae_decoder"), stage).run(inputs)
    engine = open_engine(folders["vae_decoder"], stage, engine="onnxruntime", precision="fp32")
    actual = engine.run(inputs)
    assert psnr(expected["frames"], actual["frames"]) > TOLERANCE_DB["fp16"]
    assert actual["finite"].all()


def test_what_overflows_fp16_is_flagged(folders):
    engine = open_engine(
        folders["vae_decoder"], STAGES["vae_decoder"], engine="onnxruntime", precision="fp32"
    )
    latents = np.full((1, 2, 4, 6, 10), 1e6, np.float32)
    assert engine.run({"latents": latents})["finite"].tolist() == [[False]]


def test_two_exports_of_a_checkpoint_have_one_key(checkpoint, halves, folders, tmp_path):
    """Else every export would build its engines anew."""
    from zoetrope_export.engine_cache import graph_digests

    again = export_onnx(halves["unet"], STAGES["unet"], trace_symbols(checkpoint), tmp_path)
    assert graph_digests(again) == graph_digests(folders["unet"] / FILE_NAME)


def test_activations_beyond_fp16_are_flagged_and_never_frames(checkpoint, tmp_path):
    """Weights that FP32 bears and FP16 does not: the decoder says so, and the request ends with it."""
    stage = STAGES["vae_decoder"]
    module = stage_module(checkpoint, stage.name)
    module.decoder.conv_in.weight.data *= 1e6
    inputs = inputs_of(stage, 1, f=3)
    assert TorchEngine(module, stage).run(inputs)["finite"].all()
    half = to_half(copy.deepcopy(module), stage)
    export_onnx(half, stage, trace_symbols(checkpoint), tmp_path)
    engine = OnnxRuntimeEngine(tmp_path)
    assert not engine.run(inputs)["finite"].any()
    stages = LocalStages({stage.name: engine, VAE_DECODER_FP32.name: TorchEngine(module, stage)})
    latents = inputs["latents"][0]
    with pytest.raises(NonFinite, match="vae_decoder computed"):
        asyncio.run(decode_finite(stages.decode, latents, lambda: None))
    rescued = asyncio.run(decode_finite(stages.decode, latents, lambda: None, exact=stages.decode_fp32))
    assert np.array_equal(rescued, TorchEngine(module, stage).run(inputs)["frames"][0])


def test_an_encoder_that_overflows_is_named():
    class Broken:
        def run(self, inputs):
            return {"latents": np.full((1, 4, 2, 3), np.inf, np.float32)}

    stages = LocalStages({"vae_encoder": Broken()})
    with pytest.raises(NonFinite, match="vae_encoder computed NaN or infinity"):
        asyncio.run(stages.encode_latents(np.zeros((3, 16, 24), np.float32)))


def rounded(values):
    """FP32 with the ten bits of mantissa that TF32's products see."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("name", ["image_encoder", "vae_encoder"])
def test_the_tolerance_of_tf32_is_for_what_tf32_does(checkpoint, name):
    """A GPU's convolutions and products, which would fail the gate of FP32."""
    stage, exact, coarse = STAGES[name], stage_module(checkpoint, name), stage_module(checkpoint, name)
    for module in coarse.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.weight.data = rounded(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: tuple(map(rounded, inputs)))
    sizes = {"S": 224, "H": 64, "W": 96}
    draw = np.random.default_rng(0)
    inputs = {
        spec.name: draw.uniform(-1.0, 1.0, (1, *spec.shape(sizes))).astype(np.float32)
        for spec in stage.inputs
    }
    (output,) = (spec.name for spec in stage.outputs)
    expected, actual = (TorchEngine(each, stage).run(inputs)[output] for each in (exact, coarse))
    assert TOLERANCE_DB["tf32"] < psnr(expected, actual) < 90.0


def test_bf16_keeps_what_fp16_loses(checkpoint):
    """The range of FP32: a decoder whose samples leave FP16's stays finite."""
    stage = STAGES["vae_decoder"]
    latents = np.random.default_rng(0).normal(0.0, 1.0, (1, 2, 4, 6, 10)).astype(np.float32)
    flags = {}
    for dtype in (torch.float16, torch.bfloat16):
        module = stage_module(checkpoint, stage.name)
        module.decoder.conv_in.weight.data *= 1e5
        outputs = TorchEngine(to_half(module, stage, dtype), stage).run({"latents": latents})
        flags[dtype] = bool(outputs["finite"].all())
    assert flags == {torch.float16: False, torch.bfloat16: True}
