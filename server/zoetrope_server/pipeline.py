"""The way of one video: from an encoded image and a request to an encoded video.

The same code runs over compiled engines behind Triton, over engines in this process and over fakes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from zoetrope_core import contract, guidance, image, latents
from zoetrope_core.contract import Response
from zoetrope_core.events import Done
from zoetrope_core.manifest import Manifest
from zoetrope_core.request import ValidRequest
from zoetrope_core.sampling import SAMPLERS, Denoiser, OnStep, Step
from zoetrope_core.schedules import SCHEDULES
from zoetrope_core.specs import UNET, Array
from zoetrope_server.beside import beside, one_ahead
from zoetrope_server.finite import decode_finite, require_finite
from zoetrope_server.job import Job
from zoetrope_server.media.encode import VideoEncoder
from zoetrope_server.media.fit import fit
from zoetrope_server.media.hardware import NO_HARDWARE, HardwareEncoders
from zoetrope_server.media.overlap import OverlappedEncoder
from zoetrope_server.previews import Previews
from zoetrope_server.sending import VideoSender
from zoetrope_server.stages import Conditioning, Stages

T = TypeVar("T")


class ImageDecoder(Protocol):
    """Whatever turns an encoded image into pixels."""

    async def decode(self, data: bytes) -> Array:
        """Encoded image to u8 [H,W,3]; raises InvalidImage."""
        ...

    async def measure(self, data: bytes) -> tuple[int, int]:
        """The (H, W) that `decode` would give, at little cost; raises InvalidImage."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageToVideo:
    """Image-to-video generation over some stages.

    Attributes:
        manifest: the facts of the served checkpoint.
        stages: what computes.
        decoder: what decodes images.
        media: the threads that fit images and encode videos.
        hardware: hardware encoders to try before the software.
    """

    manifest: Manifest
    stages: Stages
    decoder: ImageDecoder
    media: Executor
    hardware: HardwareEncoders = NO_HARDWARE

    async def generate(self, data: bytes, job: Job) -> None:
        """Generates one video and sends it, the last response being `done`.

        Args:
            data: the encoded image.
            job: the request and its stream.

        Raises:
            ZoetropeError: the request ends without a video; nothing is left running.
        """
        began = time.perf_counter()
        conditioning, start = await self._begin(data, job)
        sender = VideoSender(partial(_send_video, job), unit=contract.TEXT_UNIT if job.text else 1)
        async with Previews(job.request, self.manifest, self.media, partial(_send_preview, job)) as previews:
            clean = await self._denoise(conditioning, start, job, previews)
            await sender.last(await self._render(clean, job, sender))
        job.timings["total"] = time.perf_counter() - began
        await job.stream.send(Response(event=self._done(job, sender.sent)))

    async def _begin(self, data: bytes, job: Job) -> tuple[Conditioning, Array]:
        """What the denoising starts from: the conditioning and the noise f32 [F,C,h,w].

        The noise depends on the request alone, so it is drawn while the image is read and encoded.
        """
        request = job.request
        grain = self._in_thread(latents.augmentation_noise, request.size, request.seed)
        async with beside(grain) as grain_drawn:
            frame = await self._read_image(data, job)
            async with beside(self._in_thread(self._initial_noise, request)) as start_drawn:
                conditioning = await self._condition(frame, grain_drawn, job)
                with job.timed("noise"):
                    return conditioning, await start_drawn

    def _initial_noise(self, request: ValidRequest) -> Array:
        """The latents f32 [F,C,h,w] that the sampler starts from."""
        shape = (request.num_frames, self.manifest.latent_channels, *self.manifest.latent_size(request.size))
        return latents.initial_noise(shape, float(self._sigmas(request)[0]), request.seed)

    async def _read_image(self, data: bytes, job: Job) -> Array:
        """The encoded image as a frame u8 [H,W,3] of the video's size."""
        request = job.request
        await job.progress("decode_image", 0, 1)
        with job.timed("decode_image"):
            pixels = await self.decoder.decode(data)
            return await self._in_thread(fit, pixels, request.size, request.fit)

    async def _condition(self, frame: Array, grain: Awaitable[Array], job: Job) -> Conditioning:
        """Everything that the image and the parameters say to the denoiser; both encoders run at once."""
        request = job.request
        await job.progress("encode_image", 0, 1)
        await job.progress("encode_latents", 0, 1)
        async with beside(self._encode_latents(frame, grain, request)) as latents_encoded:
            with job.timed("encode_image"):
                embedding = await self._encode_image(frame)
            with job.timed("encode_latents"):
                encoded = await latents_encoded
        weights = guidance.weights(request.min_guidance_scale, request.max_guidance_scale, request.num_frames)
        return Conditioning(
            image_latents=guidance.with_unconditional(encoded, len(weights)),
            image_embeds=guidance.with_unconditional(embedding, len(weights)),
            added_time_ids=latents.time_ids(
                request.fps, request.motion_bucket_id, request.noise_aug_strength
            ),
            weights=weights,
        )

    async def _encode_image(self, frame: Array) -> Array:
        """The image embedding f32 [E]."""
        facts = self.manifest
        pixel_values = await self._in_thread(
            image.for_clip, frame, facts.clip_size, facts.clip_mean, facts.clip_std
        )
        return await self.stages.encode_image(pixel_values[0])

    async def _encode_latents(self, frame: Array, grain: Awaitable[Array], request: ValidRequest) -> Array:
        """The image latents f32 [C,h,w] of the image with augmentation noise."""
        pixels = await self._in_thread(_augmented, frame, request.noise_aug_strength, await grain)
        return await self.stages.encode_latents(pixels[0])

    async def _denoise(self, conditioning: Conditioning, start: Array, job: Job, previews: Previews) -> Array:
        """The clean latents f32 [F,C,h,w]."""
        request = job.request
        sigmas = self._sigmas(request)
        await job.progress("denoise", 0, request.num_inference_steps)

        async def draw(number: int) -> Array:
            return await self._in_thread(latents.step_noise, start.shape, number, request.seed)

        with job.timed("denoise"):
            model = await self._model(conditioning, request.guidance_interval)
            sampler = SAMPLERS[request.sampler]
            clean = await sampler(model, start, sigmas, _reporter(job, previews), draw)
        return require_finite(clean, UNET.name)

    def _sigmas(self, request: ValidRequest) -> Array:
        """The schedule f32 [steps + 1], the last sigma being 0."""
        if request.sigmas is not None:
            return np.array([*request.sigmas, 0.0], np.float32)
        ends = {"sigma_min": self.manifest.sigma_min, "sigma_max": self.manifest.sigma_max}
        return SCHEDULES[request.schedule](request.num_inference_steps, **ends, rho=self.manifest.rho)

    async def _model(self, conditioning: Conditioning, interval: tuple[float, ...] | None) -> Denoiser:
        """The denoiser; with an interval (low, high], other sigmas are denoised without guidance.

        Guidance in a limited interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724).
        """
        guided = await self.stages.prepare(conditioning)
        if interval is None or len(conditioning.weights) == 1:
            return guided
        plain = await self.stages.prepare(conditioning.without_guidance())
        low, high = interval

        async def model(x: Array, sigma: float) -> Array:
            return await (guided if low < sigma <= high else plain)(x, sigma)

        return model

    async def _render(self, clean: Array, job: Job, sender: VideoSender) -> bytes:
        """Decodes chunk by chunk while the chunk before is being encoded; what of the video is unsent."""
        request = job.request
        decoding = self._decodings(clean, job)
        encoder = VideoEncoder(
            fps=request.fps,
            format=request.format,
            codec=request.codec,
            quality=request.quality,
            streams=request.stream_video,
            hardware=self.hardware,
        )
        await job.progress("decode", 0, len(decoding))
        async with (
            OverlappedEncoder(encoder, self.media, sender.part) as encoding,
            aclosing(one_ahead(decoding)) as chunks,
        ):
            for number in range(1, len(decoding) + 1):
                with job.timed("decode"):
                    frames = await anext(chunks)
                if request.stream_frames:
                    await job.stream.send(Response(frames=frames))
                await encoding.add(frames)
                await job.progress("decode", number, len(decoding))
            await job.progress("encode_video", 0, 1)
            with job.timed("encode_video"):
                rest = await encoding.finish()
        job.timings["encoder"] = encoding.seconds
        return rest

    def _decodings(self, clean: Array, job: Job) -> list[Callable[[], Coroutine[Any, Any, Array]]]:
        """What decodes each chunk to frames u8 [f,H,W,3], in order."""
        unscaled, size = clean / clean.dtype.type(self.manifest.scaling_factor), job.request.decode_chunk_size
        exact = self.stages.decode_fp32 if self.manifest.fp32_decoder else None
        return [
            partial(
                decode_finite,
                self.stages.decode,
                unscaled[start : start + size],
                job.stream.check,
                exact=exact,
            )
            for start in range(0, len(unscaled), size)
        ]

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs a function of the processor in the media threads, so that the event loop stays free."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.media, partial(function, *arguments))

    def _done(self, job: Job, video_bytes: int) -> Done:
        return Done(
            id=job.id,
            seed=job.request.seed,
            parameters=job.request.to_dict(),
            timings={stage: round(seconds, 4) for stage, seconds in job.timings.items()},
            video_bytes=video_bytes,
        )


def _augmented(frame: Array, strength: float, grain: Array) -> Array:
    """The input of the VAE encoder: f32 [1,3,H,W] with augmentation noise."""
    return latents.augment(image.for_vae(frame), strength, grain)


async def _send_video(job: Job, piece: bytes) -> None:
    """Sends a piece of the video, if the job may go on."""
    job.stream.check()
    await job.stream.send(Response(video=piece))


async def _send_preview(job: Job, webp: bytes) -> None:
    """Sends a preview."""
    await job.stream.send(Response(preview=webp))


def _reporter(job: Job, previews: Previews) -> OnStep:
    """What happens after each step: the client learns of it, and may have gone."""
    began = time.perf_counter()

    async def on_step(step: Step) -> None:
        job.stream.check()
        previews.offer(step)
        each = (time.perf_counter() - began) / step.number
        await job.progress("denoise", step.number, step.count, round(each * (step.count - step.number), 3))

    return on_step
