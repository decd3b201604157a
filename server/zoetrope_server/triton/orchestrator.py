"""The orchestrator inside Triton: tensors to and from Triton's objects, stage calls through BLS."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.errors import StageFailed, StageLost, ZoetropeError
from zoetrope_core.events import Done, Failed
from zoetrope_core.manifest import Manifest
from zoetrope_core.specs import UNET, Array, StageSpec
from zoetrope_server import batching, logs
from zoetrope_server.admission import Admission
from zoetrope_server.control import ControlServer
from zoetrope_server.ending import end_process
from zoetrope_server.engines.device_loss import is_sticky
from zoetrope_server.media.hardware import NO_HARDWARE, HardwareEncoders
from zoetrope_server.media.workers import DecodeWorkers
from zoetrope_server.service import Service
from zoetrope_server.settings import OrchestratorSettings
from zoetrope_server.sharing import Sharing
from zoetrope_server.stages import ContractStages, StageCall
from zoetrope_server.triton.metrics import TritonMetrics
from zoetrope_server.watchdog import Watchdog

_logger = logging.getLogger(__name__)
_ERRORS_OUT_S = 2.0
_POLL_S = 0.1


class BlsStages(ContractStages):
    """Stages that are models of the same Triton, called through BLS; videos may share calls of the UNet."""

    def __init__(self, watchdog: Watchdog, *, max_batch: int = 1) -> None:
        """Takes what watches the calls, and the most videos that share one."""
        self._watchdog = watchdog
        self._max_batch = max_batch
        self._sharing = Sharing(self._together, max_batch=max_batch)

    def bind(self, stage: StageSpec, constants: Mapping[str, Array]) -> StageCall:
        """See `ContractStages`."""
        alone, video = self._call(stage, constants), object()
        if stage.name != UNET.name or self._max_batch == 1:
            return alone

        async def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
            step = _Step(alone=alone, inputs=inputs, constants=constants)
            return await self._sharing.call(video, step.shape, step)

        return call

    async def _together(self, steps: Sequence[_Step]) -> Sequence[dict[str, Array]]:
        """The outputs of steps of several videos, computed in one call."""
        if len(steps) == 1:
            return [await steps[0].alone(steps[0].inputs)]
        inputs = batching.stack([{**step.constants, **step.inputs} for step in steps])
        outputs = await self._call(UNET, {})(inputs)
        return batching.split(outputs, [1] * len(steps))

    def _call(self, stage: StageSpec, constants: Mapping[str, Array]) -> StageCall:
        """A call of its own; a bound tensor is one Triton tensor for all calls."""
        bound = [pb_utils.Tensor(name, array) for name, array in constants.items()]
        outputs = [spec.name for spec in stage.outputs]
        fixed = tuple(array.shape for array in constants.values())
        # Triton's own backends answer on the GPU unless told otherwise, and from there nothing is read here.
        memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

        async def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
            tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
            request = pb_utils.InferenceRequest(
                model_name=stage.name,
                requested_output_names=outputs,
                inputs=bound + tensors,
                preferred_memory=memory,
            )
            shape = (fixed, *(array.shape for array in inputs.values()))
            response = await self._watchdog.watch(stage.name, shape, request.async_exec())
            if response.has_error():
                raise self._failure(stage, response.error().message())
            return {tensor.name(): _held(response, tensor) for tensor in response.output_tensors()}

        return call

    def _failure(self, stage: StageSpec, message: str) -> StageFailed:
        """What an error of a stage means; one that a native host will give for good ends the server."""
        message = f"{stage.name}: {message}"
        if not is_sticky(message):
            return StageFailed(message, stage=stage.name)
        self._watchdog.report(message)
        return StageLost(message, stage=stage.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step of one video: the call that computes it alone, and all its inputs."""

    alone: StageCall
    inputs: Mapping[str, Array]
    constants: Mapping[str, Array]

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """What steps of one call have in common."""
        return tuple(array.shape for array in (*self.constants.values(), *self.inputs.values()))


class _Memory:
    """The memory of a response's tensor, which lives as long as an array over it."""

    def __init__(self, response: Any, tensor: Any) -> None:
        self._owners = (response, tensor)
        self.__array_interface__ = tensor.as_numpy().__array_interface__


def _held(response: Any, tensor: Any) -> Array:
    """The tensor as an array without a copy.

    The array holds its response too: nothing says that what `as_numpy` returns does, and without the
    response the shared memory under the array would belong to the next one.
    """
    return np.asarray(_Memory(response, tensor))


class TritonChannel:
    """One request of the decoupled model; see `zoetrope_server.service.Channel`."""

    def __init__(self, request: Any) -> None:
        """Takes the request and its sender."""
        self._request = request
        self._sender = request.get_response_sender()
        self._text = False
        self._last: Response | None = None
        self.id: str = request.request_id()

    @property
    def trace_id(self) -> str | None:
        """The trace that Triton has opened for the request."""
        context = self._request.trace().get_context()
        parts = json.loads(context).get("traceparent", "").split("-") if context else []
        return parts[1] if len(parts) == 4 else None

    def read(self) -> dict[str, Array]:
        """The input tensors by name."""
        tensors = {tensor.name(): tensor.as_numpy() for tensor in self._request.inputs()}
        self._text = contract.sent_as_text(tensors)
        return tensors

    def cancelled(self) -> bool:
        """Whether the client has gone or has cancelled."""
        return bool(self._sender.is_cancelled())

    def send(self, response: Response) -> None:
        """Sends one response; `done` waits for `finish`, which it goes out with."""
        if isinstance(response.event, Done):
            self._last = response
        else:
            self._sender.send(self._packed(response))

    def finish(self, error: ZoetropeError | None) -> None:
        """Ends the stream, with the `error` event where there is an error.

        Never with an error response: with the header `triton_grpc_error` that ends the RPC, and Triton 2.51
        crashes when it meets another response, or the client's cancellation, on its way out. It crashes too
        when a client has seen the last event and cancels before the stream has ended: so the last event and
        the end are one message.
        """
        last = self._last if error is None else _failed(error)
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            if last is not None:
                self._sender.send(self._packed(last), flags=final)
                return
        except Exception:
            _logger.exception("the last event of request %s could not be sent", self.id)
        # Without it the client would wait for good.
        self._sender.send(flags=final)

    def _packed(self, response: Response) -> Any:
        tensors = contract.pack_response(response, text=self._text)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])


def max_batch(repository: Path, manifest: Manifest) -> int:
    """The most videos that the UNet's model takes at once: less than exported where its config was edited."""
    file = repository / UNET.name / "config.pbtxt"
    config = file.read_text() if file.is_file() else ""
    found = re.search(r"^max_batch_size: *(\d+)", config, re.MULTILINE)
    return max(1, int(found[1]) if found else manifest.max_batch_size)


def _failed(error: ZoetropeError) -> Response:
    """The `error` event of an error."""
    body = error.to_event()
    code, status, message = body.pop("code"), body.pop("status"), body.pop("message")
    return Response(event=Failed(code=code, status=status, message=message, details=body))


class Orchestrator:
    """The service with all that it needs inside a Triton process."""

    def __init__(self, repository: Path) -> None:
        """Opens the service for a model repository, with the settings of the environment."""
        logs.configure(contract.MODEL)
        settings = OrchestratorSettings()
        self._decoder = DecodeWorkers(workers=settings.decode_workers)
        self._metrics = TritonMetrics()
        manifest = Manifest.load(repository)
        self._watchdog = Watchdog(self._lose, start_timeout_s=settings.start_timeout_s)
        self.service = Service(
            manifest=manifest,
            stages=BlsStages(self._watchdog, max_batch=max_batch(repository, manifest)),
            decoder=self._decoder,
            admission=Admission(max_active=settings.max_active, max_waiting=settings.max_waiting),
            media_threads=settings.media_threads,
            metrics=self._metrics,
            hardware=HardwareEncoders.probed() if settings.hardware_encoders == "auto" else NO_HARDWARE,
        )
        self._control = self._serve_control(settings.control_socket)

    async def serve(self, request: Any) -> None:
        """Serves one Triton request."""
        await self.service.serve(TritonChannel(request))

    def close(self) -> None:
        """Ends workers and threads."""
        if self._control is not None:
            self._control.close()
        self._decoder.close()
        self.service.close()
        self._metrics.close()

    def _lose(self, reason: str) -> None:
        """Ends all requests with `stage_lost`, then this process, so that the server is started again."""
        _logger.error("%s", reason)
        self.service.fail(reason)
        self._ending = asyncio.get_running_loop().create_task(self._end(reason))

    async def _end(self, reason: str) -> None:
        """Ends this process when the clients have been told, or have had the time to be."""
        deadline = time.monotonic() + _ERRORS_OUT_S
        while self.service.busy and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_POLL_S)
        end_process(reason)

    def _serve_control(self, path: Path | None) -> ControlServer | None:
        service = self.service

        def drain(body: Mapping[str, Any]) -> Mapping[str, Any]:
            service.drain()
            return service.status()

        def fail(body: Mapping[str, Any]) -> Mapping[str, Any]:
            service.fail(str(body["reason"]))
            return {}

        operations = {
            "status": lambda body: service.status(),
            "drain": drain,
            "fail": fail,
            "cancel": lambda body: {"found": service.cancel(str(body["id"]))},
        }
        return None if path is None else ControlServer(path, operations)
