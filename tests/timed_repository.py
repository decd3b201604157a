"""A model repository whose denoising step takes a known time, and whose frames depend on the seed."""

from pathlib import Path

from zoetrope_bench.noop_repository import write_noop_repository

UNET = """
import time

from zoetrope_bench.noop import NoopStage


class Sleeping:
    def run(self, inputs):
        time.sleep({step_seconds})
        return {{"denoised": inputs["latents"] / 2}}


class TritonPythonModel(NoopStage):
    def open(self, directory, stage, manifest):
        return Sleeping()
"""
VAE_DECODER = """
import numpy as np

from zoetrope_bench.noop import NoopStage


class Painting:
    def run(self, inputs):
        colours = np.remainder(inputs["latents"][:, :, :3], 256).astype(np.uint8)
        frames = colours.transpose(0, 1, 3, 4, 2).repeat(8, 2).repeat(8, 3)
        return {"frames": frames, "finite": np.ones((1, 1), bool)}


class TritonPythonModel(NoopStage):
    def open(self, directory, stage, manifest):
        return Painting()
"""


def write_timed_repository(path, manifest, *, step_seconds):
    """One execution of the UNet sleeps; what it computes is exact in any company, so are the frames.

    Where videos of other requests share an execution, they share its sleep too.
    """
    write_noop_repository(path, manifest)
    (Path(path) / "unet" / "1" / "model.py").write_text(UNET.format(step_seconds=step_seconds))
    (Path(path) / "vae_decoder" / "1" / "model.py").write_text(VAE_DECODER)
    return path
