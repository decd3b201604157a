"""The way of one video: from an encoded image and a request to an encoded video.

The same code runs over compiled engines behind Triton, over engines in this process and over fakes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from zoetrope_core import contract, guidance, image, latents
from zoetrope_core.contract import Response
from zoetrope_core.events import Done, Progress
from zoetrope_core.manifest import Manifest
from zoetrope_core.request import ValidRequest
from zoetrope_core.sampling import SAMPLERS, Denoiser, OnStep, Step
from zoetrope_core.schedules import SCHEDULES
from zoetrope_core.specs import UNET, Array
from zoetrope_server.finite import decode_finite, require_finite
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


class Stream(Protocol):
    """The client's end of one request."""

    def check(self) -> None:
        """Raises when the request must not go on: Cancelled, DeadlineExceeded."""
        ...

    async def send(self, response: Response) -> None:
        """Sends one response."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One validated request on its way.

    Attributes:
        id: its name in the log and the events.
        request: what to generate.
        stream: where responses go.
        timings: seconds by stage, growing.
        text: whether the client speaks JSON and gets the video as base64.
    """

    id: str
    request: ValidRequest
    stream: Stream
    timings: dict[str, float] = field(default_factory=dict)
    text: bool = False

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time of the block to the stage, and ends the job first if it must not go on."""
        self.stream.check()
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began

    async def progress(self, stage: str, step: int, steps: int, eta: float | None = None) -> None:
        """Tells the client how far the job is."""
        event = Progress(stage=stage, step=step, steps=steps, eta_seconds=eta)
        await self.stream.send(Response(event=event))


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
        frame = await self._read_image(data, job)
        conditioning = await self._condition(frame, job)
        sender = VideoSender(partial(_send_video, job), unit=contract.TEXT_UNIT if job.text else 1)
        async with Previews(job.request, self.manifest, self.media, partial(_send_preview, job)) as previews:
            clean = await self._denoise(conditioning, job, previews)
            await sender.last(await self._render(clean, job, sender))
        job.timings["total"] = time.perf_counter() - began
        await job.stream.send(Response(event=self._done(job, sender.sent)))

    async def _read_image(self, data: bytes, job: Job) -> Array:
        """The encoded image as a frame u8 [H,W,3] of the video's size."""
        request = job.request
        await job.progress("decode_image", 0, 1)
        with job.timed("decode_image"):
            pixels = await self.decoder.decode(data)
            return await self._in_thread(fit, pixels, request.size, request.fit)

    async def _condition(self, frame: Array, job: Job) -> Conditioning:
        """Everything that the image and the parameters say to the denoiser."""
        request, manifest = job.request, self.manifest
        await job.progress("encode_image", 0, 1)
        with job.timed("encode_image"):
            pixel_values = await self._in_thread(
                image.for_clip, frame, manifest.clip_size, manifest.clip_mean, manifest.clip_std
            )
            embedding = await self.stages.encode_image(pixel_values[0])
        await job.progress("encode_latents", 0, 1)
        with job.timed("encode_latents"):
            pixels = await self._in_thread(_augmented, frame, request)
            encoded = await self.stages.encode_latents(pixels[0])
        weights = guidance.weights(request.min_guidance_scale, request.max_guidance_scale, request.num_frames)
        return Conditioning(
            image_latents=guidance.with_unconditional(encoded, len(weights)),
            image_embeds=guidance.with_unconditional(embedding, len(weights)),
            added_time_ids=latents.time_ids(
                request.fps, request.motion_bucket_id, request.noise_aug_strength
            ),
            weights=weights,
        )

    async def _denoise(self, conditioning: Conditioning, job: Job, previews: Previews) -> Array:
        """The clean latents f32 [F,C,h,w]."""
        request = job.request
        sigmas = self._sigmas(request)
        shape = (request.num_frames, *conditioning.image_latents.shape[1:])
        await job.progress("denoise", 0, request.num_inference_steps)
        with job.timed("noise"):
            start = await self._in_thread(latents.initial_noise, shape, float(sigmas[0]), request.seed)

        async def draw(number: int) -> Array:
            return await self._in_thread(latents.step_noise, shape, number, request.seed)

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
        unscaled = clean / clean.dtype.type(self.manifest.scaling_factor)
        starts = range(0, len(unscaled), request.decode_chunk_size)
        encoder = VideoEncoder(
            fps=request.fps,
            format=request.format,
            codec=request.codec,
            quality=request.quality,
            streams=request.stream_video,
            hardware=self.hardware,
        )
        exact = self.stages.decode_fp32 if self.manifest.fp32_decoder else None
        await job.progress("decode", 0, len(starts))
        async with OverlappedEncoder(encoder, self.media, sender.part) as encoding:
            for number, start in enumerate(starts, start=1):
                chunk = unscaled[start : start + request.decode_chunk_size]
                with job.timed("decode"):
                    frames = await decode_finite(self.stages.decode, chunk, job.stream.check, exact=exact)
                if request.stream_frames:
                    await job.stream.send(Response(frames=frames))
                await encoding.add(frames)
                await job.progress("decode", number, len(starts))
            await job.progress("encode_video", 0, 1)
            with job.timed("encode_video"):
                rest = await encoding.finish()
        job.timings["encoder"] = encoding.seconds
        return rest

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


def _augmented(frame: Array, request: ValidRequest) -> Array:
    """The input of the VAE encoder: f32 [1,3,H,W] with augmentation noise."""
    return latents.augment(image.for_vae(frame), request.noise_aug_strength, request.seed)


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
