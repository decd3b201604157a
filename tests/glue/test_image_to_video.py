"""The real `image_to_video/1/model.py` over a stand-in for Triton's python backend."""

import asyncio
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from fakes import MANIFEST, png

from zoetrope_core import contract
from zoetrope_core.contract import pack_request, unpack_response
from zoetrope_core.events import Accepted, Done, Failed
from zoetrope_core.request import GenerateRequest
from zoetrope_server import watchdog

MODEL = Path(__file__).parents[2] / "model_repository" / "image_to_video" / "1" / "model.py"
H, W = MANIFEST.sizes[0]
C, F = MANIFEST.latent_channels, MANIFEST.num_frames[0]
h, w = MANIFEST.latent_size(MANIFEST.sizes[0])


def stages():
    """What each stage model answers: the shapes and dtypes of the stage contracts."""

    def unet(inputs):
        assert {name: array.shape for name, array in inputs.items()} == {
            "latents": (1, F, C, h, w), "sigma": (1, 1), "image_latents": (1, 2, C, h, w),
            "image_embeds": (1, 2, 8), "added_time_ids": (1, 3), "weights": (1, 2, F),
        }  # fmt: skip
        assert {array.dtype for array in inputs.values()} == {np.dtype(np.float32)}
        return {"denoised": inputs["latents"] * 0}

    def decoder(inputs):
        frames = inputs["latents"].shape[1]
        return {
            "frames": np.full((1, frames, H, W, 3), 128, np.uint8),
            "finite": np.array([[bool(np.isfinite(inputs["latents"]).all())]]),
        }

    return {
        "image_encoder": lambda inputs: {"image_embeds": np.ones((1, 8), np.float32)},
        "vae_encoder": lambda inputs: {"latents": np.ones((1, C, h, w), np.float32)},
        "unet": unet,
        "vae_decoder": decoder,
    }


@pytest.fixture
def model(backend, tmp_path):
    MANIFEST.save(tmp_path)
    backend.models.update(stages())
    spec = importlib.util.spec_from_file_location("entry_model", MODEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    instance.initialize({"model_repository": str(tmp_path / "image_to_video")})
    yield instance
    instance.finalize()


def responses(request):
    return [
        unpack_response({t.name(): t.as_numpy() for t in response.output_tensors()})
        for response in request.sender.responses
        if not response.has_error()
    ]


async def test_a_video_comes_out_and_the_stream_ends_with_the_final_flag(backend, model):
    request = backend.Request(pack_request(png(), GenerateRequest(num_inference_steps=2, seed=3)), id="r1")
    await model.execute([request])
    got = responses(request)
    assert isinstance(got[0].event, Accepted) and got[0].event.id == "r1"
    assert isinstance(got[-1].event, Done) and got[-1].event.seed == 3
    assert b"ftyp" in b"".join(response.video for response in got if response.video)
    assert request.sender.final


async def test_stages_of_a_native_host_answer_on_the_cpu(backend, model):
    """Each of Triton's own backends answers on the GPU unless the request asks for the CPU."""
    backend.on_gpu.update(stages())
    request = backend.Request(pack_request(png(), GenerateRequest(num_inference_steps=1)))
    await model.execute([request])
    assert isinstance(responses(request)[-1].event, Done)


@pytest.mark.parametrize(("steps", "last"), [(1, "done"), (201, "error")])
async def test_the_last_event_is_the_end_of_the_stream(backend, model, steps, last):
    tensors = pack_request(png(), GenerateRequest(num_inference_steps=1))
    tensors["request"] = contract.bytes_tensor(b'{"num_inference_steps": %d}' % steps)
    request = backend.Request(tensors)
    await model.execute([request])
    assert responses(request)[-1].event.type == last
    assert request.sender.last_ends, "a client that cancels between the two crashes Triton 2.51"


async def test_a_large_video_is_cut_into_pieces(backend, model, monkeypatch):
    monkeypatch.setattr(contract, "PIECE_BYTES", 400)
    request = backend.Request(pack_request(png(), GenerateRequest(num_inference_steps=1)))
    await model.execute([request])
    got = responses(request)
    parts = [response.video for response in got if response.video]
    assert len(parts) > 1 and max(map(len, parts)) <= 400
    assert sum(map(len, parts)) == got[-1].event.video_bytes


@pytest.mark.parametrize("stage", ["image_encoder", "vae_encoder", "unet", "vae_decoder"])
async def test_a_failing_stage_ends_the_stream_with_an_event_and_a_status(backend, model, stage):
    def fail(inputs):
        raise RuntimeError("out of memory")

    backend.models[stage] = fail
    request = backend.Request(pack_request(png(), GenerateRequest(num_inference_steps=1)))
    await model.execute([request])
    failed = responses(request)[-1].event
    assert isinstance(failed, Failed)
    assert (failed.code, failed.status, failed.details) == ("stage_failed", "INTERNAL", {"stage": stage})
    assert request.sender.final
    assert not any(response.has_error() for response in request.sender.responses), "Triton 2.51 may crash"


async def test_a_decode_that_is_not_finite_is_an_error_not_a_black_video(backend, model):
    backend.models["unet"] = lambda inputs: {"denoised": inputs["latents"] * np.nan}
    request = backend.Request(pack_request(png(), GenerateRequest(num_inference_steps=1)))
    await model.execute([request])
    assert responses(request)[-1].event.code == "non_finite"
    assert not any(response.video for response in responses(request))


BAD = {"image": contract.bytes_tensor(b"hello"), "request": contract.bytes_tensor(b"[]")}


async def test_bad_input_is_an_event(backend, model):
    request = backend.Request(BAD)
    await model.execute([request])
    (event,) = (response.event for response in responses(request))
    assert (event.code, event.status) == ("invalid_argument", "INVALID_ARGUMENT")
    assert request.sender.final


async def test_a_refusal_is_an_event_with_its_code(backend, model):
    model._orchestrator.service.drain()
    refused = backend.Request(pack_request(png(), GenerateRequest()))
    await model.execute([refused])
    (event,) = (response.event for response in responses(refused))
    assert (event.code, event.status) == ("draining", "UNAVAILABLE") and event.details["retry_after_s"] >= 1


async def test_a_cancelled_request_ends_without_a_video(backend, model):
    request = backend.Request(pack_request(png(), GenerateRequest()))
    request.sender.cancelled = True
    await model.execute([request])
    assert request.sender.final
    assert responses(request)[-1].event.status == "CANCELLED"


async def test_a_stream_whose_error_cannot_be_sent_still_ends(backend, model, monkeypatch):
    request = backend.Request(BAD)
    sent = request.sender.send
    monkeypatch.setattr(
        request.sender, "send", lambda response=None, flags=0: _fail_unless_final(sent, flags)
    )
    await model.execute([request])
    assert request.sender.final


def _fail_unless_final(send, flags):
    if not flags:
        raise RuntimeError("no shared memory is left")
    send(flags=flags)


@pytest.fixture
def ended(backend, model, monkeypatch):
    """Why the process was ended, instead of its end."""
    from zoetrope_server.triton import orchestrator

    reasons = []
    monkeypatch.setattr(orchestrator, "end_process", reasons.append)
    monkeypatch.setattr(orchestrator, "_POLL_S", 0.0)
    return reasons


async def test_a_sticky_error_of_a_native_host_ends_all_requests_and_the_process(backend, model, ended):
    def fail(inputs):
        raise RuntimeError("Cuda Runtime (an illegal memory access was encountered)")

    backend.models["unet"] = fail
    request, later = (backend.Request(pack_request(png(), GenerateRequest())) for _ in range(2))
    await model.execute([request])
    await model.execute([later])
    for each in (request, later):
        event = responses(each)[-1].event
        assert (event.code, event.status) == ("stage_lost", "UNAVAILABLE") and each.sender.final
    await model._orchestrator._ending
    (reason,) = ended
    assert "unet" in reason


async def test_a_stage_that_hangs_ends_all_requests_and_the_process(backend, model, ended, monkeypatch):
    hung = asyncio.Event()

    async def hang(self):
        if self.model == "unet":
            await hung.wait()
        return await answer(self)

    answer = backend.InferenceRequest.async_exec
    monkeypatch.setattr(backend.InferenceRequest, "async_exec", hang)
    monkeypatch.setattr(watchdog, "_CHECK_S", 0.01)
    model._orchestrator._watchdog._start_timeout_s = 0.05
    request = backend.Request(pack_request(png(), GenerateRequest()))
    await asyncio.wait_for(model.execute([request]), 5)
    event = responses(request)[-1].event
    assert (event.code, "unet has not answered" in event.message) == ("stage_lost", True)
    await model._orchestrator._ending
    assert len(ended) == 1
