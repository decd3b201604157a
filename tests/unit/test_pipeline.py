"""The pipeline over fake stages: order, shapes, conditioning, chunks, errors and cancellation."""

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import numpy as np
import pytest
from fakes import COLOURS, MANIFEST, FakeDecoder, FakeStages, png
from PIL import Image
from waiting import wait_until_async

from zoetrope_core.errors import Cancelled, NonFinite, StageFailed
from zoetrope_core.events import Done, Progress
from zoetrope_core.request import GenerateRequest
from zoetrope_server.job import Job
from zoetrope_server.pipeline import ImageToVideo


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


async def run(media, stages=None, stream=None, text=False, manifest=MANIFEST, **fields):
    stages, stream = stages or FakeStages(), stream or Recorder()
    request = GenerateRequest(**fields).validate(manifest, drawn_seed=7)
    pipeline = ImageToVideo(manifest=manifest, stages=stages, decoder=FakeDecoder(), media=media)
    await pipeline.generate(png(), Job(id="test", request=request, stream=stream, text=text))
    return stages, stream


async def test_stages_are_called_in_order_with_the_shapes_of_the_contract(media):
    stages, _ = await run(media, num_inference_steps=3)
    assert sorted(stages.calls[:2]) == [("encode_image", (3, 224, 224)), ("encode_latents", (3, 32, 48))]
    assert stages.calls[2:] == [
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
        "encoder", "total",
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
    stages = FakeStages(fail=stage, error=StageFailed("no memory", stage=stage))
    with pytest.raises(StageFailed):
        await run(media, stages, num_inference_steps=4)
    called = [name for name, _ in stages.calls]
    beside = {"encode_image": "encode_latents", "encode_latents": "encode_image", "decode": "decode"}
    after = called[called.index(stage) + 1 :]
    assert after in ([], [beside.get(stage)]), "but for the one call that was under way"


class Overflowing(FakeStages):
    """Stages whose decoder overflows on more than `most` frames at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    async def decode(self, latents):
        frames = await super().decode(latents)
        if len(latents) > self.most:
            raise NonFinite("NaN", stage="vae_decoder")
        return frames


async def test_a_chunk_that_overflows_is_decoded_in_smaller_ones(media):
    request = {"num_inference_steps": 1, "seed": 1, "stream_frames": True}
    plain = await run(media, **request)
    stages = Overflowing(1)
    overflowing = await run(media, stages, **request)
    chunks = [shape[0] for name, shape in stages.calls if name == "decode"]
    assert chunks == [4, 2, 1, 1, 2, 1, 1, 2, 1, 1]
    frames = [[r.frames for r in stream.sent if r.frames is not None] for _, stream in (plain, overflowing)]
    assert [len(chunk) for chunk in frames[1]] == [4, 2], "the client sees the chunks that it asked for"
    assert np.array_equal(np.concatenate(frames[0]), np.concatenate(frames[1]))


async def test_a_frame_that_overflows_ends_the_request(media):
    stages = Overflowing(0)
    with pytest.raises(NonFinite) as failed:
        await run(media, stages, num_inference_steps=1)
    assert failed.value.details == {"stage": "vae_decoder"}
    decoded = [shape[0] for name, shape in stages.calls if name == "decode"]
    assert decoded[:3] == [4, 2, 1] and decoded[3:] in ([], [2, 1]), "but for the chunk that was under way"


async def test_a_frame_that_overflows_is_decoded_at_fp32_where_that_decoder_exists(media):
    request = {"num_inference_steps": 1, "seed": 1, "stream_frames": True}
    plain = await run(media, **request)
    stages = Overflowing(0)
    overflowing = await run(media, stages, manifest=replace(MANIFEST, fp32_decoder=True), **request)
    decoded = [(name, shape[0]) for name, shape in stages.calls if name.startswith("decode")]
    first = [("decode", 4), ("decode", 2), ("decode", 1), ("decode_fp32", 4)]
    assert decoded == [*first, ("decode", 2), ("decode", 1), ("decode_fp32", 2)]
    frames = [[r.frames for r in stream.sent if r.frames is not None] for _, stream in (plain, overflowing)]
    assert np.array_equal(np.concatenate(frames[0]), np.concatenate(frames[1]))


async def test_latents_that_are_not_finite_are_not_decoded(media):
    class Broken(FakeStages):
        async def prepare(self, conditioning):
            async def denoiser(x, sigma):
                return np.full_like(x, np.nan)

            return denoiser

    stages = Broken()
    with pytest.raises(NonFinite) as failed:
        await run(media, stages, num_inference_steps=2)
    assert failed.value.details == {"stage": "unet"}
    assert "decode" not in [name for name, _ in stages.calls]


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


def kinds_of(stream):
    """Video pieces and the ends of decoded chunks, in the order in which they were sent."""
    for response in stream.sent:
        if response.video is not None:
            yield "video"
        elif isinstance(response.event, Progress) and response.event.stage == "decode":
            yield response.event.step


class SlowDecoding(FakeStages):
    """Stages whose decoder lets the event loop go on, as an engine does."""

    async def decode(self, latents):
        await asyncio.sleep(0.05)
        return await super().decode(latents)


@pytest.mark.parametrize("text", [False, True])
async def test_the_video_is_sent_while_later_chunks_are_decoded(media, text):
    request = {"num_inference_steps": 1, "seed": 1, "decode_chunk_size": 2}
    _, whole = await run(media, SlowDecoding(), **request)
    assert list(kinds_of(whole)) == [0, 1, 2, 3, "video"]
    _, stream = await run(media, SlowDecoding(), text=text, stream_video=True, **request)
    assert list(kinds_of(stream)) == [0, 1, "video", 2, "video", 3, "video", "video"]
    pieces = [response.video for response in stream.sent if response.video is not None]
    assert stream.sent[-1].event.video_bytes == len(b"".join(pieces))
    with av.open(io.BytesIO(b"".join(pieces))) as container:
        assert len(list(container.decode(video=0))) == 6
    if text:
        joined = b"".join(base64.b64encode(piece) for piece in pieces)
        assert base64.b64decode(joined, validate=True) == b"".join(pieces)


async def test_frames_and_video_may_be_streamed_together(media):
    _, stream = await run(media, num_inference_steps=1, stream_video=True, stream_frames=True)
    assert sum(len(r.frames) for r in stream.sent if r.frames is not None) == 6
    assert stream.sent[-1].event.video_bytes == sum(len(r.video) for r in stream.sent if r.video)


async def test_a_client_that_goes_away_between_pieces_gets_no_more(media):
    class Leaves(Recorder):
        def check(self):
            if any(response.video for response in self.sent):
                raise Cancelled("gone")

    stream = Leaves()
    with pytest.raises(Cancelled):
        await run(
            media, SlowDecoding(), stream, num_inference_steps=1, decode_chunk_size=1, stream_video=True
        )
    assert sum(response.video is not None for response in stream.sent) == 1


COLOURED = replace(MANIFEST, latent_rgb=COLOURS)


class SlowSteps(FakeStages):
    """Stages whose steps take until the stream has the previews of the steps before, one for every two."""

    def __init__(self, stream):
        super().__init__(gate=self._wait)
        self._stream, self._step = stream, 0

    async def _wait(self):
        self._step += 1
        await wait_until_async(lambda: previews(self._stream) >= (self._step - 1) // 2)


def previews(stream):
    return sum(response.preview is not None for response in stream.sent)


async def test_previews_show_the_picture_while_it_is_denoised(media):
    fields = {"num_inference_steps": 6, "seed": 1, "noise_aug_strength": 0.0, "fps": 10}
    stream = Recorder()
    await run(media, SlowSteps(stream), stream, manifest=COLOURED, preview_every=2, **fields)
    order = [
        "preview" if response.preview is not None else response.event.step
        for response in stream.sent
        if response.preview is not None or getattr(response.event, "stage", "") == "denoise"
    ]
    assert order == [0, 1, 2, "preview", 3, 4, "preview", 5, 6, "preview"]
    shown = [Image.open(io.BytesIO(response.preview)) for response in stream.sent if response.preview]
    assert [image.size for image in shown] == [(12, 8)] * 3, "twice the latents"
    picture = np.asarray(Image.open(io.BytesIO(png())).convert("RGB"))[::8, ::8].astype(float)
    first = np.asarray(shown[0].convert("RGB").resize((6, 4))).astype(float)
    assert np.abs(first - picture).mean() < 15
    assert np.abs(first[:, ::-1] - picture).mean() > 60, "the check can see a difference"


async def test_without_the_field_there_are_no_previews(media):
    _, stream = await run(media, manifest=COLOURED, num_inference_steps=2)
    assert previews(stream) == 0


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
