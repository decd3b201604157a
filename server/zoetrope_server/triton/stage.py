"""A compiled stage as a python model of Triton: requests of one batch share executions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import ALL_STAGES, Array, StageSpec
from zoetrope_server import batching, logs
from zoetrope_server.ending import end_process
from zoetrope_server.engines import Engine, open_engine
from zoetrope_server.engines.device_loss import device_is_lost
from zoetrope_server.engines.executions import MAX_CONTEXTS
from zoetrope_server.engines.tensorrt import LIBRARIES
from zoetrope_server.metrics import STAGE_METRICS
from zoetrope_server.triton.metrics import TritonMetrics

_logger = logging.getLogger(__name__)
_SMALL_MODEL_BYTES = 256 << 20
"""Up to here every shape is warmed up; of larger models each keeps much memory."""
_RUNS = 3
"""Runs of a shape until its CUDA graph is replayed: it is launched, recorded, and replayed once."""


class TritonPythonModel:
    """Hosts the engine of the stage that the model is named after."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the engine and warms it up, so that the first request is as quick as the tenth."""
        model = Path(args["model_repository"])
        self._stage = ALL_STAGES[args["model_name"]]
        logs.configure(self._stage.name)
        self._max_batch = max(1, int(json.loads(args["model_config"])["max_batch_size"]))
        manifest = Manifest.load(model.parent)
        directory = model / args["model_version"]
        self._engine = self.open(directory, self._stage, manifest)
        runs = _RUNS if manifest.engine in LIBRARIES else 1
        for inputs in _warm_up_inputs(directory, self._stage, manifest):
            for _ in range(runs):
                self._engine.run(inputs)
        # Each update is a message to Triton: none where there is nothing to learn.
        self._metrics = TritonMetrics(STAGE_METRICS) if self._max_batch > 1 else None

    def open(self, directory: Path, stage: StageSpec, manifest: Manifest) -> Engine:
        """The engine of the stage, from the version folder of its model."""
        return open_engine(
            directory,
            stage,
            engine=manifest.engine,
            precision=manifest.precision,
            is_listed=partial(batching.is_listed, stage, manifest),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request; requests of equal shapes are computed together."""
        inputs = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        responses: list[Any] = [None] * len(requests)
        for group in batching.groups(inputs, self._max_batch):
            self._count([inputs[index] for index in group])
            for index, response in zip(group, self._compute([inputs[index] for index in group]), strict=True):
                responses[index] = response
        return responses

    def finalize(self) -> None:
        """Lets go of the metrics, before Triton does."""
        if self._metrics is not None:
            self._metrics.close()

    def _count(self, inputs: list[dict[str, Array]]) -> None:
        """Counts the videos of one execution."""
        if self._metrics is not None:
            videos = sum(map(batching.batch_of, inputs))
            self._metrics.observe("zoetrope_execution_videos", videos, self._stage.name)

    def _compute(self, inputs: list[dict[str, Array]]) -> list[Any]:
        """The responses of requests that share one execution; an error is an answer, not an exception."""
        try:
            outputs = self._engine.run(batching.stack(inputs))
            parts = batching.split(outputs, [len(next(iter(each.values()))) for each in inputs])
        except Exception as error:
            _logger.exception("stage %s failed", self._stage.name)
            if device_is_lost(self._engine, error):
                end_process(f"stage {self._stage.name} has lost its device: {error}")
            failure = pb_utils.TritonError(f"{type(error).__name__}: {error}")
            return [pb_utils.InferenceResponse(error=failure) for _ in inputs]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in part.items()])
            for part in parts
        ]


def _warm_up_inputs(directory: Path, stage: StageSpec, manifest: Manifest) -> Iterator[dict[str, Array]]:
    """Inputs of all shapes that serving meets, or of large models the default ones alone.

    TensorRT keeps one copy of the weights and one scratch memory for all shapes: its engines are warmed up at
    as many as have a context, however large they are, so that no request waits for kernels or a CUDA graph.
    """
    if manifest.engine in LIBRARIES:
        return islice(batching.served_shapes(stage, manifest), MAX_CONTEXTS)
    engine = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    most = None if engine <= _SMALL_MODEL_BYTES else 1
    return islice(batching.served_shapes(stage, manifest), most)
