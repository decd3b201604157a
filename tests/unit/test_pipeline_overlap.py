"""What goes on at once in the pipeline: one after the other, these would hang and time out."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fakes import MANIFEST, FakeDecoder, FakeStages, png

from zoetrope_core import latents
from zoetrope_core.request import GenerateRequest
from zoetrope_core.sampling import lcm
from zoetrope_server.job import Job
from zoetrope_server.pipeline import ImageToVideo

PATIENCE_S = 3.0


class Silent:
    """A stream that nobody reads."""

    def check(self):
        pass

    async def send(self, response):
        pass


async def run(stages, **fields):
    request = GenerateRequest(num_inference_steps=1, **fields).validate(MANIFEST, drawn_seed=7)
    with ThreadPoolExecutor(2) as media:
        pipeline = ImageToVideo(manifest=MANIFEST, stages=stages, decoder=FakeDecoder(), media=media)
        job = Job(id="test", request=request, stream=Silent())
        await asyncio.wait_for(pipeline.generate(png(), job), PATIENCE_S)
    return job


class Meeting(FakeStages):
    """Encoders that wait for each other, and a first chunk that waits for the second."""

    def __init__(self):
        super().__init__()
        self.image, self.latents, self.second = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.decoded = 0

    async def encode_image(self, pixel_values):
        self.image.set()
        await self.latents.wait()
        return await super().encode_image(pixel_values)

    async def encode_latents(self, pixels):
        self.latents.set()
        await self.image.wait()
        return await super().encode_latents(pixels)

    async def decode(self, latents):
        self.decoded += 1
        if self.decoded == 1:
            await self.second.wait()
        self.second.set()
        return await super().decode(latents)


async def test_both_encoders_run_at_once_and_a_chunk_is_decoded_ahead():
    stages = Meeting()
    job = await run(stages, decode_chunk_size=3)
    assert stages.decoded == 2
    assert job.timings["encode_latents"] < job.timings["encode_image"], "what was waited for, not the sum"


async def test_the_noise_of_the_start_is_drawn_before_the_image_is_encoded(monkeypatch):
    drawn, right = threading.Event(), latents.initial_noise

    def initial_noise(*arguments):
        drawn.set()
        return right(*arguments)

    class Waiting(FakeStages):
        async def encode_image(self, pixel_values):
            assert await asyncio.to_thread(drawn.wait, PATIENCE_S)
            return await super().encode_image(pixel_values)

    monkeypatch.setattr(latents, "initial_noise", initial_noise)
    await run(Waiting())


async def test_a_sampler_draws_its_noise_while_the_model_computes():
    x, drawing = np.ones((2, 3), np.float32), asyncio.Event()

    async def model(x, sigma):
        if sigma > 1.0:
            await asyncio.wait_for(drawing.wait(), PATIENCE_S)
            drawing.clear()
        return x * np.float32(0.5)

    async def draw(number):
        drawing.set()
        return np.full((2, 3), number, np.float32)

    async def on_step(step):
        pass

    sigmas = np.float32([4.0, 2.0, 1.0, 0.0])
    result = await lcm(model, x, sigmas, on_step, draw)
    np.testing.assert_allclose(result, ((1 * 0.5 + 1 * 2.0) * 0.5 + 2 * 1.0) * 0.5 * x)


async def test_an_encoder_that_fails_ends_the_other():
    class Failing(FakeStages):
        ended = False

        async def encode_image(self, pixel_values):
            raise RuntimeError("no memory")

        async def encode_latents(self, pixels):
            try:
                await asyncio.sleep(3600)
            finally:
                self.ended = True

    stages = Failing()
    with pytest.raises(RuntimeError, match="no memory"):
        await run(stages)
    assert stages.ended or ("encode_latents" not in [name for name, _ in stages.calls])
