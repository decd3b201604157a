"""The pipeline over fake stages: order, shapes, conditioning, chunks, errors and cancellation."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import MANIFEST, FakeDecoder, FakeStages, png

from zoetrope_core.errors import Cancelled, NonFinite
from zoetrope_core.events import Done, Progress
from zoetrope_core.request import GenerateRequest
from zoetrope_server.pipeline import ImageToVideo, Job


class Recorder:
    """A stream that keeps responses; `stop_after` denoising events it reports a cancellation."""

    def __init__(self, stop_after=None):
        self.sent, self.stop_after = [], stop_after

    def check(self):
        steps = [e for e in self.events if isinstance(e, Progress) and e.stage == "denoise" and e.step]
        if self.stop_after is not None and len(steps) >= self.stop_after:
            raise Cancelled("gone")

    async def send(self, response):
        self.sent.append(response)

    @property
    def events(self):
        return [response.event for response in self.sent if response.event is not None]


@pytest.fixture
def media():
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def run(media, stages=None, stream=None, **fields):
    stages, stream = stages or FakeStages(), stream or Recorder()
    request = GenerateRequest(**fields).validate(MANIFEST, drawn_seed=7)
    pipeline = ImageToVideo(manifest=MANIFEST, stages=stages, decoder=FakeDecoder(), media=media)
    await pipeline.generate(png(), Job(id="test", request=request, stream=stream))
    return stages, stream


async def test_stages_are_called_in_order_with_the_shapes_of_the_contract(media):
    stages, _ = await run(media, num_inference_steps=3)
    assert stages.calls == [
        ("encode_image", (3, 224, 224)),
        ("encode_latents", (3, 32, 48)),
        ("prepare", (2, 4, 4, 6)),
        *[("denoise", (6, 4, 4, 6))] * 3,
        ("decode", (4, 4, 4, 6)),
        ("decode", (2, 4, 4, 6)),
    ]


async def test_the_last_response_is_done_and_the_video_comes_before_it(media):
    _, stream = await run(media, num_inference_steps=2, seed=11)
    done = stream.sent[-1].event
    video = b"".join(response.video for response in stream.sent if response.video)
    assert isinstance(done, Done)
    assert done.seed == 11 and done.video_bytes == len(video) > 500 and video[4:8] == b"ftyp"
    assert set(done.timings) == {
        "decode_image", "encode_image", "encode_latents", "noise", "denoise", "decode", "encode_video",
        "total",
    }  # fmt: skip
    assert done.parameters["num_frames"] == 6 and done.parameters["width"] == 48


async def test_progress_names_each_stage_and_counts_steps(media):
    _, stream = await run(media, num_inference_steps=3)
    progress = [(e.stage, e.step, e.steps) for e in stream.events if isinstance(e, Progress)]
    assert progress == [
        ("decode_image", 0, 1), ("encode_image", 0, 1), ("encode_latents", 0, 1),
        ("denoise", 0, 3), ("denoise", 1, 3), ("denoise", 2, 3), ("denoise", 3, 3),
        ("decode", 0, 2), ("decode", 1, 2), ("decode", 2, 2), ("encode_video", 0, 1),
    ]  # fmt: skip
    last = [e for e in stream.events if isinstance(e, Progress) and e.stage == "denoise"][-1]
    assert last.eta_seconds == 0.0


async def test_conditioning_has_a_zero_row_and_time_ids_of_fps_minus_one(media):
    stages, _ = await run(media, fps=9, motion_bucket_id=33, noise_aug_strength=0.5, num_inference_steps=1)
    conditioning = stages.conditioning
    np.testing.assert_array_equal(conditioning.added_time_ids, np.array([8, 33, 0.5], np.float32))
    assert not conditioning.image_latents[0].any() and conditioning.image_latents[1].any()
    assert not conditioning.image_embeds[0].any() and conditioning.image_embeds[1].any()
    np.testing.assert_allclose(conditioning.weights.sum(0), 1.0)
    np.testing.assert_allclose(conditioning.weights[1], np.linspace(1, 3, 6), rtol=1e-6)


async def test_without_guidance_there_is_one_row(media):
    stages, _ = await run(media, max_guidance_scale=1.0, num_inference_steps=1)
    assert stages.conditioning.weights.tolist() == [[1.0] * 6]
    assert stages.conditioning.image_latents.shape[0] == 1


async def test_frames_are_streamed_chunk_by_chunk_when_asked(media):
    _, stream = await run(media, num_inference_steps=1, stream_frames=True, decode_chunk_size=3)
    assert [r.frames.shape for r in stream.sent if r.frames is not None] == [(3, 32, 48, 3)] * 2
    _, stream = await run(media, num_inference_steps=1)
    assert not [r for r in stream.sent if r.frames is not None]


async def test_same_seed_same_video_other_seed_other_noise(media):
    videos = []
    for seed in (1, 1, 2):
        _, stream = await run(media, num_inference_steps=1, seed=seed, noise_aug_strength=1.0)
        videos.append(b"".join(response.video for response in stream.sent if response.video))
    assert videos[0] == videos[1] != videos[2]


@pytest.mark.parametrize("stage", ["encode_image", "encode_latents", "prepare", "denoise", "decode"])
async def test_an_error_of_a_stage_comes_out_and_nothing_more_is_called(media, stage):
    stages = FakeStages(fail=stage, error=NonFinite("NaN", stage=stage))
    with pytest.raises(NonFinite):
        await run(media, stages, num_inference_steps=4)
    assert [name for name, _ in stages.calls].count(stage) == 1 and stages.calls[-1][0] == stage


async def test_cancellation_stops_within_one_step(media):
    stages, stream = FakeStages(), Recorder(stop_after=2)
    with pytest.raises(Cancelled):
        await run(media, stages, stream, num_inference_steps=10)
    assert [name for name, _ in stages.calls].count("denoise") <= 3
    assert "decode" not in [name for name, _ in stages.calls]


async def test_a_cancelled_task_ends_while_a_step_hangs(media):
    started = asyncio.Event()

    async def hang():
        started.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(run(media, FakeStages(gate=hang)))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)


async def test_outside_the_guidance_interval_one_row_is_denoised(media):
    rows = []

    class Rows(FakeStages):
        async def prepare(self, conditioning):
            inner = await super().prepare(conditioning)

            async def denoiser(x, sigma):
                rows.append(
                    (sigma, conditioning.image_latents.shape[0], conditioning.weights.sum(0).tolist())
                )
                return await inner(x, sigma)

            return denoiser

    await run(media, Rows(), sigmas=(100.0, 16.0, 4.0, 1.0), guidance_interval=(1.0, 16.0))
    assert [(sigma, count) for sigma, count, _ in rows] == [(100, 1), (16, 2), (4, 2), (1, 1)]
    assert all(total == pytest.approx([1] * 6) for *_, total in rows)


async def test_explicit_sigmas_are_used_as_they_are(media):
    seen = []

    class Seen(FakeStages):
        async def prepare(self, conditioning):
            async def denoiser(x, sigma):
                seen.append(sigma)
                return np.zeros_like(x)

            return denoiser

    _, stream = await run(media, Seen(), sigmas=(9.0, 2.5), sampler="dpmpp_2m")
    assert seen == [9.0, 2.5]
    assert stream.sent[-1].event.parameters["num_inference_steps"] == 2


async def test_lcm_draws_its_noise_from_the_seed(media):
    async def last(seed):
        clean = []

        class Last(FakeStages):
            async def decode(self, latents):
                clean.append(latents)
                return await super().decode(latents)

            async def prepare(self, conditioning):
                async def denoiser(x, sigma):
                    return x * np.float32(0.5)

                return denoiser

        await run(media, Last(), sampler="lcm", num_inference_steps=3, seed=seed, max_guidance_scale=1.0)
        return np.concatenate(clean)

    assert np.array_equal(await last(1), await last(1))
    assert not np.array_equal(await last(1), await last(2))
