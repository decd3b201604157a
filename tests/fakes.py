"""Stand-ins at the seams: stages that compute something simple, a decoder in this process, a channel."""

import io

import numpy as np
from PIL import Image

from zoetrope_core.contract import Response, pack_request
from zoetrope_core.manifest import Manifest
from zoetrope_core.request import GenerateRequest

MANIFEST = Manifest(
    checkpoint="fake",
    engine="fake",
    precision="fp32",
    latent_channels=4,
    embedding_dim=8,
    vae_scale_factor=8,
    scaling_factor=0.5,
    clip_size=224,
    clip_mean=(0.5, 0.5, 0.5),
    clip_std=(0.25, 0.25, 0.25),
    sigma_min=0.002,
    sigma_max=700.0,
    rho=7.0,
    sizes=((32, 48), (48, 32)),
    num_frames=(6, 3),
    decode_chunk_size=4,
    max_batch_size=4,
)


COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
"""A map for previews that is right for `FakeStages`: the first three channels are the colours."""


class FakeStages:
    """Stages by arithmetic; `fail` names the stage that raises, `gate` is awaited in each denoising step."""

    def __init__(self, manifest=MANIFEST, fail=None, error=None, gate=None):
        self.manifest, self.fail, self.gate = manifest, fail, gate
        self.error = error or RuntimeError("boom")
        self.calls = []
        self.conditioning = None

    def _enter(self, stage, shape):
        self.calls.append((stage, shape))
        if stage == self.fail:
            raise self.error

    async def encode_image(self, pixel_values):
        self._enter("encode_image", pixel_values.shape)
        return np.full(self.manifest.embedding_dim, pixel_values.mean(), np.float32)

    async def encode_latents(self, pixels):
        self._enter("encode_latents", pixels.shape)
        f = self.manifest.vae_scale_factor
        planes = pixels[:, ::f, ::f]
        return np.concatenate([planes, planes[:1]])[: self.manifest.latent_channels]

    async def prepare(self, conditioning):
        self._enter("prepare", conditioning.image_latents.shape)
        self.conditioning = conditioning

        async def denoiser(x, sigma):
            self._enter("denoise", x.shape)
            if self.gate is not None:
                await self.gate()
            clean = np.broadcast_to(conditioning.image_latents[-1], x.shape)
            return (clean * self.manifest.scaling_factor).astype(np.float32)

        return denoiser

    async def decode(self, latents):
        self._enter("decode", latents.shape)
        return self._pixels(latents)

    async def decode_fp32(self, latents):
        self._enter("decode_fp32", latents.shape)
        return self._pixels(latents)

    def _pixels(self, latents):
        f = self.manifest.vae_scale_factor
        frames = latents[:, :3].repeat(f, 2).repeat(f, 3).transpose(0, 2, 3, 1)
        return np.clip((frames + 1) * 127.5, 0, 255).astype(np.uint8)


class FakeDecoder:
    """Decodes in this process."""

    async def decode(self, data):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    async def measure(self, data):
        return Image.open(io.BytesIO(data)).size[::-1]

    def close(self):
        pass


class FakeChannel:
    """A request whose responses are kept; `hung_up` is the client's going away."""

    def __init__(self, tensors=None, id="", **request):
        self.tensors = pack_request(png(), GenerateRequest(**request)) if tensors is None else tensors
        self.id = id
        self.sent: list[Response] = []
        self.finished = []
        self.hung_up = False
        self.trace_id = None

    def read(self):
        return self.tensors

    def cancelled(self):
        return self.hung_up

    def send(self, response):
        assert not self.finished, "sent after the end of the stream"
        self.sent.append(response)

    def finish(self, error):
        self.finished.append(error)

    @property
    def events(self):
        return [response.event for response in self.sent if response.event is not None]


def png(height=32, width=48, seed=0):
    """A small PNG with some structure."""
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    pixels = (ramp + np.random.default_rng(seed).normal(0, 8, (height, width, 3))).clip(0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
