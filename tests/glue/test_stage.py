"""The stage model over a stand-in for Triton's python backend: one execution for requests of equal shapes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fakes import MANIFEST

from zoetrope_core.specs import UNET, VAE_DECODER
from zoetrope_server import batching
from zoetrope_server.batching import example_inputs


class Doubling:
    """A UNet that doubles the latents and counts its executions."""

    def __init__(self):
        self.batches = []

    def run(self, inputs):
        self.batches.append(inputs["latents"].shape[0])
        if np.isnan(inputs["sigma"]).any():
            raise RuntimeError("bad sigma")
        return {"denoised": inputs["latents"] * 2}


def initialized(stage, repository, monkeypatch, manifest):
    """The engine of a stage model that is initialized; `host` is the model."""
    engine = Doubling()
    monkeypatch.setattr(stage, "open_engine", lambda *args, **kwargs: engine)
    (repository / "unet" / "1").mkdir(parents=True)
    manifest.save(repository)
    engine.host = stage.TritonPythonModel()
    engine.host.initialize(
        {
            "model_repository": str(repository / "unet"),
            "model_name": "unet",
            "model_version": "1",
            "model_config": json.dumps({"max_batch_size": 3}),
        }
    )
    return engine


@pytest.fixture
def model(backend, monkeypatch, tmp_path):
    from zoetrope_server.triton import stage

    engine = initialized(stage, tmp_path, monkeypatch, MANIFEST)
    instance = engine.host
    assert engine.batches[:5] == [1, 2, 3, 4, 1], "every number of videos, then K = 1"
    engine.batches.clear()
    instance.engine = engine
    return instance


def test_the_videos_of_each_execution_are_counted(backend, model):
    model.execute([request(backend, 1.0), request(backend, 2.0, rows=1), request(backend, 3.0)])
    family = backend.MetricFamily.families["zoetrope_execution_videos"]
    assert family.updates == [("observe", "unet", 2), ("observe", "unet", 1)]


def request(backend, value, rows=2):
    inputs = example_inputs(UNET, MANIFEST, rows=rows)
    return backend.Request({**inputs, "latents": inputs["latents"] * value})


def test_a_mixture_is_grouped_and_each_request_gets_its_own(backend, model):
    rows = [2, 1, 2, 1, 2, 2]
    responses = model.execute([request(backend, value, rows) for value, rows in enumerate(rows)])
    assert sorted(model.engine.batches) == [1, 2, 3]
    for value, response in enumerate(responses):
        (tensor,) = response.output_tensors()
        assert tensor.as_numpy().shape[0] == 1 and (tensor.as_numpy() == 2 * value).all()


def test_a_failing_group_is_an_answer_for_its_requests_alone(backend, model):
    bad = backend.Request({**example_inputs(UNET, MANIFEST), "sigma": np.full((1, 1), np.nan, np.float32)})
    good = request(backend, 5, rows=1)
    first, second = model.execute([bad, good])
    assert first.has_error() and "bad sigma" in first.error().message()
    assert (second.output_tensors()[0].as_numpy() == 10).all()


def test_a_large_model_is_warmed_up_at_its_default_shapes_alone(backend, tmp_path, monkeypatch):
    from zoetrope_server.triton import stage

    (tmp_path / "unet-fp16-cpu.pt2").write_bytes(b"12345")
    shapes = list(stage._warm_up_inputs(tmp_path, UNET, MANIFEST))
    assert [len(inputs["latents"]) for inputs in shapes][0] == 1 and len(shapes) > 1
    monkeypatch.setattr(stage, "_SMALL_MODEL_BYTES", 4)
    assert len(list(stage._warm_up_inputs(tmp_path, UNET, MANIFEST))) == 1


def test_tensorrt_is_warmed_up_at_all_shapes_that_have_a_context(backend, tmp_path, monkeypatch):
    from zoetrope_server.triton import stage

    monkeypatch.setattr(stage, "_SMALL_MODEL_BYTES", -1)
    manifest = replace(MANIFEST, engine="tensorrt")
    listed = len(list(batching.served_shapes(UNET, manifest)))
    assert len(list(stage._warm_up_inputs(tmp_path, UNET, manifest))) == min(listed, 16)


@pytest.mark.parametrize(("engine", "runs"), [("tensorrt", 3), ("tensorrt-rtx", 3), ("openvino", 1)])
def test_a_cuda_graph_is_recorded_before_the_first_request(backend, tmp_path, monkeypatch, engine, runs):
    """The second run of a shape is recorded, the third is replayed."""
    from zoetrope_server.triton import stage

    opened = initialized(stage, tmp_path, monkeypatch, replace(MANIFEST, engine=engine))
    assert opened.batches[: 2 * runs] == [1] * runs + [2] * runs


def test_the_decoder_is_warmed_up_with_a_whole_chunk_first(backend, tmp_path, monkeypatch):
    """Whatever the rest of the frames is: it is the one shape that a large decoder is warmed up at."""
    from zoetrope_server.triton import stage

    monkeypatch.setattr(stage, "_SMALL_MODEL_BYTES", -1)
    for frames, chunk in [(14, 8), (11, 7), (25, 24), (7, 7), (3, 8)]:
        manifest = replace(MANIFEST, num_frames=(frames,), decode_chunk_size=chunk)
        (inputs,) = stage._warm_up_inputs(tmp_path, VAE_DECODER, manifest)
        assert inputs["latents"].shape[1] == min(frames, chunk)


def test_a_sticky_error_ends_the_process_instead_of_being_an_answer(backend, model, monkeypatch):
    from zoetrope_server.triton import stage

    def end(reason):
        raise SystemExit(reason)

    def lost(inputs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(stage, "end_process", end)
    monkeypatch.setattr(model.engine, "run", lost)
    with pytest.raises(SystemExit, match="stage unet has lost its device"):
        model.execute([request(backend, 1)])
