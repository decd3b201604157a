"""The configurations of the stages against Triton's own schema and the stage specs."""

from dataclasses import replace

import pytest
from fakes import MANIFEST
from google.protobuf import text_format

from zoetrope_core.specs import STAGES
from zoetrope_server import batching

config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
pbtxt = pytest.importorskip("zoetrope_export.pbtxt")
SYMBOLS = {"C": 4, "E": 8, "S": 224}


def parsed(stage, **options):
    return text_format.Parse(pbtxt.render(stage, MANIFEST, **options), config_pb2.ModelConfig())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_tensors_are_those_of_the_spec(stage):
    config = parsed(stage)
    assert config.name == stage.name
    assert config.backend == "python"
    for specs, tensors in ((stage.inputs, config.input), (stage.outputs, config.output)):
        assert [tensor.name for tensor in tensors] == [spec.name for spec in specs]
        for spec, tensor in zip(specs, tensors, strict=True):
            assert config_pb2.DataType.Name(tensor.data_type) == f"TYPE_{spec.dtype}"
            expected = [SYMBOLS.get(dim, -1) if isinstance(dim, str) else dim for dim in spec.dims]
            assert list(tensor.dims) == expected


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_one_process_on_the_cpu(stage):
    (group,) = parsed(stage).instance_group
    assert group.count == 1
    assert group.kind == config_pb2.ModelInstanceGroup.KIND_CPU


def test_only_the_unet_is_batched_by_triton():
    unet = parsed(STAGES["unet"], queue_delay_us=4000)
    assert unet.dynamic_batching.max_queue_delay_microseconds == 4000
    assert all(tensor.allow_ragged_batch for tensor in unet.input)
    for name in ("image_encoder", "vae_encoder", "vae_decoder"):
        other = parsed(STAGES[name])
        assert not other.HasField("dynamic_batching")
        assert not any(tensor.allow_ragged_batch for tensor in other.input)


PLAN = "unet-fp16-sm90-trt11.4-1f2e3d4c.plan"
HOSTS = [
    pbtxt.NativeHost(backend="tensorrt", file_name=PLAN, on_gpu=True, profiles=2),
    pbtxt.NativeHost(backend="tensorrt", file_name=PLAN, on_gpu=True, profiles=1),
    pbtxt.NativeHost(backend="onnxruntime", file_name="model.onnx", on_gpu=True),
    pbtxt.NativeHost(backend="onnxruntime", file_name="model.onnx", on_gpu=False),
]


@pytest.mark.parametrize("native", HOSTS, ids=lambda host: f"{host.backend}-{host.profiles}-{host.on_gpu}")
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_native_host_has_the_same_tensors(stage, native):
    python, config = parsed(stage), parsed(stage, native=native)
    assert (config.backend, config.default_model_filename) == (native.backend, native.file_name)
    assert config.max_batch_size == python.max_batch_size
    assert config.HasField("dynamic_batching") == (stage.name == "unet")
    assert list(config.output) == list(python.output)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        (each.name, each.data_type, list(each.dims)) for each in python.input
    ]
    assert not any(each.allow_ragged_batch for each in config.input)
    (group,) = config.instance_group
    assert list(group.profile) == [str(index) for index in range(native.profiles)]
    kinds = config_pb2.ModelInstanceGroup
    assert (group.count, group.kind) == (1, kinds.KIND_GPU if native.on_gpu else kinds.KIND_CPU)
    assert list(group.gpus) == ([0] if native.on_gpu else []), "not an instance on each GPU that Triton sees"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_native_host_records_the_graphs_of_all_listed_shapes(stage):
    """Of dynamic shapes the backend records those that are listed, and no others."""
    config = parsed(stage, native=HOSTS[0])
    recorded = [
        {name: [spec.batch_size, *shape.dim] for name, shape in spec.input.items()}
        for spec in config.optimization.cuda.graph_spec
    ]
    served = [
        {name: list(array.shape) for name, array in inputs.items()}
        for inputs in batching.served_shapes(stage, MANIFEST)
    ]
    assert config.optimization.cuda.graphs and recorded == served
    strategy = config.parameters["execution_context_allocation_strategy"]
    assert strategy.string_value == "ON_PROFILE_CHANGE", "not the memory of the largest profile for each"
    assert not parsed(stage, native=HOSTS[2]).HasField("optimization")


def test_what_lies_in_a_repository_is_valid(tmp_path):
    """Each file as Triton reads it, entry models included."""
    repository = pytest.importorskip("zoetrope_export.repository")
    repository.write_layout(tmp_path, MANIFEST)
    files = sorted(tmp_path.glob("*/config.pbtxt"))
    assert {file.parent.name for file in files} == {*STAGES, "image_to_video", "image_to_video_unary"}
    for file in files:
        config = text_format.Parse(file.read_text(), config_pb2.ModelConfig())
        assert config.name == file.parent.name
        assert config.backend == "python"
        assert config.input and config.output


def test_by_default_no_request_waits_for_others():
    unet = parsed(STAGES["unet"])
    assert unet.HasField("dynamic_batching") and not unet.dynamic_batching.max_queue_delay_microseconds


def test_batches_are_as_large_as_the_manifest_says():
    assert {name: parsed(stage).max_batch_size for name, stage in STAGES.items()} == {
        "image_encoder": 1,
        "vae_encoder": 1,
        "unet": 4,
        "vae_decoder": 1,
    }
    single = pbtxt.render(STAGES["unet"], replace(MANIFEST, max_batch_size=1))
    assert text_format.Parse(single, config_pb2.ModelConfig()).max_batch_size == 1
