"""The configurations of the stages against Triton's own schema and the stage specs."""

from dataclasses import replace

import pytest
from fakes import MANIFEST
from google.protobuf import text_format

from zoetrope_core.specs import STAGES

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


def test_the_queue_delay_has_a_default():
    assert parsed(STAGES["unet"]).dynamic_batching.max_queue_delay_microseconds == 2000


def test_batches_are_as_large_as_the_manifest_says():
    assert {name: parsed(stage).max_batch_size for name, stage in STAGES.items()} == {
        "image_encoder": 4,
        "vae_encoder": 4,
        "unet": 4,
        "vae_decoder": 1,
    }
    single = pbtxt.render(STAGES["unet"], replace(MANIFEST, max_batch_size=1))
    assert text_format.Parse(single, config_pb2.ModelConfig()).max_batch_size == 1
