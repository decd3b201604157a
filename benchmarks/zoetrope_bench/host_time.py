"""What a video costs beside its engines: the server over engines that take a known time.

The engines of a deployment sleep as long as those of a GPU would compute, so that what is left of the wall
time is the host's: wall - engines - what is waited for the video encoder. Their frames are all the same, so
the video encoder keeps pace on any machine.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.report import Figure
from zoetrope_bench.server import serving
from zoetrope_client.client import Client
from zoetrope_core.manifest import Manifest, Size
from zoetrope_core.specs import IMAGE_ENCODER, UNET, VAE_DECODER, VAE_ENCODER
from zoetrope_export.trajectory import sample_picture

STEP_TARGET_MS, VIDEO_TARGET_MS = 5.0, 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A server as it is deployed for a GPU.

    Attributes:
        name: what it serves.
        manifest: its shapes and the largest batch that the exporter chooses for them.
        seconds: how long one execution of each stage takes, by the stage's name.
        request: the fields of a request.
        targets: what a step and the rest of a video may cost, in milliseconds.
    """

    name: str
    manifest: Manifest
    seconds: Mapping[str, float]
    request: Mapping[str, Any]
    targets: tuple[float, float] | None = None

    @property
    def steps(self) -> int:
        """The steps of a request."""
        return int(self.request["num_inference_steps"])

    @property
    def engine_ms(self) -> float:
        """What the engines of one video take, one after the other."""
        chunks = -(-self.manifest.num_frames[0] // self.manifest.decode_chunk_size)
        calls = {IMAGE_ENCODER.name: 1, VAE_ENCODER.name: 1, UNET.name: self.steps, VAE_DECODER.name: chunks}
        return 1000 * sum(self.seconds[stage] * count for stage, count in calls.items())


def deployments(facts: Manifest, steps: int) -> tuple[Deployment, ...]:
    """SVD-XT with guidance, and a distilled checkpoint at a small size, where the host weighs most.

    Args:
        facts: SVD-XT's.
        steps: denoising steps of SVD-XT.
    """
    small = replace(facts, sizes=((256, 256),), num_frames=(14,), decode_chunk_size=7, max_batch_size=4)
    return (
        Deployment(
            name="SVD-XT",
            manifest=replace(facts, decode_chunk_size=7),
            seconds=engine_seconds(step=0.220, chunk=0.060, encoder=0.020),
            request={"num_inference_steps": steps},
            targets=(STEP_TARGET_MS, VIDEO_TARGET_MS),
        ),
        Deployment(
            name="LCM, 4 steps of 256x256",
            manifest=small,
            seconds=engine_seconds(step=0.010, chunk=0.011, encoder=0.008),
            request={"num_inference_steps": 4, "sampler": "lcm", "max_guidance_scale": 1.0},
        ),
    )


def engine_seconds(*, step: float, chunk: float, encoder: float) -> dict[str, float]:
    """How long an execution of each stage takes, by the stage's name."""
    return {
        IMAGE_ENCODER.name: encoder, VAE_ENCODER.name: encoder, UNET.name: step, VAE_DECODER.name: chunk
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """One video in milliseconds.

    Attributes:
        wall: as the client sees it.
        engines: what the engines took.
        tail: what was waited for the video encoder after the last frames.
        step: one step beside the UNet.
        stages: what each part of the request took, by the server.
    """

    wall: float
    engines: float
    tail: float
    step: float
    stages: Mapping[str, float] = field(default_factory=dict)

    def around(self, steps: int) -> float:
        """The host's time that no step took."""
        return self.wall - self.engines - self.tail - steps * self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A deployment's videos, one by one, and how many videos a second four clients got."""

    alone: Sequence[HostTime]
    together_per_s: Sequence[float]


def measure(deployment: Deployment, rounds: int, *, clients: int = 4) -> Measured:
    """Serves the deployment and asks for videos, one at a time and then from several clients at once."""
    image = _jpeg(deployment.manifest.sizes[0])
    with tempfile.TemporaryDirectory() as folder:
        repository = write_noop_repository(
            Path(folder) / "repository", deployment.manifest, deployment.seconds
        )
        with serving(repository, Path(folder) / "log") as server, Client(server.url) as client:
            videos = [_video(client, deployment, image) for _ in range(rounds + 1)]
            rates = [_rate(server.url, deployment, image, clients) for _ in range(min(rounds, 3))]
    return Measured(alone=videos[1:], together_per_s=rates)


def _jpeg(size: Size) -> bytes:
    """An image of the frame size with some structure."""
    buffer = io.BytesIO()
    Image.fromarray(sample_picture(*size)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _video(client: Client, deployment: Deployment, image: bytes) -> HostTime:
    began = time.perf_counter()
    video = client.generate(image, seed=1, **deployment.request)
    wall = (time.perf_counter() - began) * 1000
    stages = {stage: seconds * 1000 for stage, seconds in video.timings.items()}
    step = stages["denoise"] / deployment.steps - 1000 * deployment.seconds[UNET.name]
    return HostTime(
        wall=wall, engines=deployment.engine_ms, tail=stages["encode_video"], step=step, stages=stages
    )


def _rate(url: str, deployment: Deployment, image: bytes, clients: int) -> float:
    """Videos a second when several clients ask at once."""

    def generate(number: int) -> None:
        with Client(url) as client:
            client.generate(image, seed=number, **deployment.request)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(generate, range(clients)))
    return clients / (time.perf_counter() - began)


def figures(deployment: Deployment, measured: Measured) -> list[Figure]:
    """The medians over the videos."""
    step_target, video_target = deployment.targets or (None, None)
    name, steps, videos = deployment.name, deployment.steps, measured.alone

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    def figure(text: str, values: Sequence[float], target: float | None = None, unit: str = "ms") -> Figure:
        return Figure(name=f"{name}: {text}", measured=median(values), unit=unit, target=target, at_most=True)

    return [
        figure("a video", [video.wall for video in videos]),
        figure("of it: the engines", [video.engines for video in videos]),
        figure("of it: the video encoder's tail", [video.tail for video in videos]),
        figure("a step beside the UNet", [video.step for video in videos], step_target),
        figure("the host around the loop", [video.around(steps) for video in videos], video_target),
        *(
            figure(f"{stage} as timed", [video.stages[stage] for video in videos])
            for stage in ("decode_image", "encode_image", "encode_latents", "noise", "decode")
            if stage in videos[0].stages
        ),
        figure("four at once", measured.together_per_s, unit="videos/s"),
    ]
