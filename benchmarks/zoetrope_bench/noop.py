"""Models without arithmetic, for measuring what everything around the engines costs; run inside Triton."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET, VAE_DECODER, Array, StageSpec
from zoetrope_server.batching import example_inputs
from zoetrope_server.engines import Engine
from zoetrope_server.triton.stage import TritonPythonModel as Stage

BARE = "bare_unet"
"""The name of the no-op model that the minimal loop calls."""


class NoopEngine:
    """Answers with zeros of the right shape, or with the latents themselves."""

    def __init__(self, stage: StageSpec, manifest: Manifest) -> None:
        """Allocates the answer once."""
        height, width = manifest.sizes[0]
        latent = manifest.latent_size(manifest.sizes[0])
        frames = manifest.decode_chunk_size
        sizes = {"H": height, "W": width, "h": latent[0], "w": latent[1], "f": frames}
        symbols = manifest.symbols() | sizes | {"F": manifest.num_frames[0]}
        self._stage = stage
        self._answer = {
            spec.name: np.ones((1, *spec.shape(symbols)), spec.numpy_dtype) for spec in stage.outputs
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the stage, without computing anything."""
        if self._stage is UNET:
            return {"denoised": inputs["latents"]}
        if self._stage is VAE_DECODER:
            frames = inputs["latents"].shape[1]
            return {**self._answer, "frames": self._answer["frames"][:, :frames]}
        return self._answer


class NoopStage(Stage):
    """A stage model whose engine does nothing."""

    def open(self, directory: Path, stage: StageSpec, manifest: Manifest) -> Engine:
        """An engine without arithmetic."""
        return NoopEngine(stage, manifest)


def sleeping(seconds: float) -> type[NoopStage]:
    """The model of a stage whose every execution takes a known time, whatever else the machine does."""

    class Sleeping(NoopEngine):
        """A no-op that takes its time."""

        def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            """See `NoopEngine.run`."""
            time.sleep(seconds)
            return super().run(inputs)

    class SleepingStage(NoopStage):
        """A stage model that sleeps."""

        def open(self, directory: Path, stage: StageSpec, manifest: Manifest) -> Engine:
            """An engine that sleeps."""
            return Sleeping(stage, manifest)

    return SleepingStage


class BareUnet:
    """The least that a model can do: the latents come back."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request."""
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(
                        "denoised", pb_utils.get_input_tensor_by_name(request, "latents").as_numpy()
                    )
                ]
            )
            for request in requests
        ]


class MinimalLoop:
    """The least that a loop of stage calls can do: six tensors in, one out, for each step."""

    def initialize(self, args: dict[str, str]) -> None:
        """Allocates the inputs once."""
        manifest = Manifest.load(Path(args["model_repository"]).parent)
        self._inputs = example_inputs(UNET, manifest)

    async def execute(self, requests: Sequence[Any]) -> None:
        """Answers each request with the seconds that its steps took."""
        for request in requests:
            steps = int(pb_utils.get_input_tensor_by_name(request, "steps").as_numpy()[0])
            seconds = np.array([await self._loop() for _ in range(steps)])
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("seconds", seconds)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _loop(self) -> float:
        began = time.perf_counter()
        request = pb_utils.InferenceRequest(
            model_name=BARE,
            requested_output_names=["denoised"],
            inputs=[pb_utils.Tensor(name, array) for name, array in self._inputs.items()],
        )
        response = await request.async_exec()
        response.output_tensors()[0].as_numpy()
        return time.perf_counter() - began
