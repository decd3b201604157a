"""The same generation by diffusers and by Zoetrope: same weights, same noise, same picture."""

from dataclasses import dataclass, field

import numpy as np

from zoetrope_core.request import GenerateRequest
from zoetrope_core.specs import STAGES
from zoetrope_export import verification
from zoetrope_export.architectures import Architecture
from zoetrope_export.engines import TorchEngine
from zoetrope_export.parity import psnr
from zoetrope_export.stage_modules import stage_module
from zoetrope_export.trajectory import sample_picture

SEED = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint and a request for it; the augmentation is strong, so that where it enters can be seen."""

    architecture: Architecture
    request: dict = field(default_factory=dict)

    @property
    def fields(self):
        defaults = {"num_inference_steps": 4, "noise_aug_strength": 0.2, "motion_bucket_id": 60, "fps": 9}
        return defaults | self.request


CASES = {
    # VAE factor 8, three levels, SVD's number of frames, a chunk of one frame at the end
    "eight": Case(
        architecture=Architecture(
            unet_channels=(32, 64, 64), unet_heads=(1, 2, 2), num_frames=14, size=(64, 96)
        ),
        request={"decode_chunk_size": 13},
    ),
    # VAE factor 4, two wide levels of two layers
    "four": Case(
        architecture=Architecture(
            unet_channels=(64, 96),
            unet_heads=(2, 3),
            unet_layers=2,
            time_ids_dim=16,
            embedding_dim=32,
            num_frames=6,
            size=(40, 56),
            vae_channels=(32, 64, 64),
            vae_layers=2,
            scaling_factor=0.3,
            clip_width=96,
            clip_layers=3,
            clip_heads=3,
            clip_patch=56,
        ),
        request={"decode_chunk_size": 4},
    ),
    # 25 frames, four levels, a tall picture
    "long": Case(
        architecture=Architecture(
            unet_channels=(32, 64, 64, 64),
            unet_heads=(1, 4, 2, 1),
            num_frames=25,
            size=(96, 64),
            vae_channels=(32, 32, 32),
            sigma_max=80.0,
        ),
        request={"decode_chunk_size": 8, "num_inference_steps": 3, "max_guidance_scale": 2.0},
    ),
}


def check_parity(expected, actual, *, least_db=45.0, most_levels=2):
    """The parity check itself: frames u8 [F,H,W,3], by PSNR and, unless None, by the largest difference."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.uint8
    assert psnr(expected, actual) >= least_db
    if most_levels is not None:
        assert np.abs(expected.astype(int) - actual.astype(int)).max() <= most_levels


def request_of(manifest, case):
    """The case as a validated request that streams its frames."""
    asked = GenerateRequest.from_dict(case.fields | {"seed": SEED, "stream_frames": True})
    return asked.validate(manifest)


def diffusers_frames(checkpoint, manifest, case):
    """What `StableVideoDiffusionPipeline` makes of the case: frames u8 [F,H,W,3]."""
    request = request_of(manifest, case)
    pipeline = verification.fp32_pipeline(checkpoint)
    (frames,) = verification.reference_frames(pipeline, manifest, [request], sample_picture(*request.size))
    return frames


def torch_engines(checkpoint):
    """The PyTorch stages of a checkpoint, by name."""
    return {name: TorchEngine(stage_module(checkpoint, name), stage) for name, stage in STAGES.items()}


def zoetrope_frames(manifest, stages, case):
    """What `ImageToVideo` makes of the case over some stages: frames u8 [F,H,W,3]."""
    request = request_of(manifest, case)
    return verification.pipeline_frames(manifest, stages, request, sample_picture(*request.size))
