"""The unary twin: one request, one response, for ModelInfer, plain HTTP and off-the-shelf load generators.

Each instance forwards one request at a time to the decoupled model and collects its responses.
"""

from __future__ import annotations

import json
import logging
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from zoetrope_core import contract, events
from zoetrope_core.errors import StageFailed, from_code
from zoetrope_server import logs
from zoetrope_server.settings import OrchestratorSettings
from zoetrope_server.triton.errors import triton_error

CONTROL_SECONDS = 2.0
_logger = logging.getLogger(__name__)


class UnaryModel:
    """Forwards requests to `image_to_video`."""

    def __init__(self) -> None:
        """Reads the settings of the environment."""
        logs.configure(contract.UNARY_MODEL)
        self._control = OrchestratorSettings().control_socket

    def serve(self, request: Any) -> Any:
        """The one response to a request: the video and the `done` event, or the inner request's error."""
        video: list[bytes] = []
        parts: dict[str, bytes] = {}
        for response in self._responses(request):
            tensors = {tensor.name(): tensor.as_numpy()[0] for tensor in response.output_tensors()}
            video.append(tensors.get("video", b""))
            event = events.from_json(tensors["event"]) if "event" in tensors else None
            if isinstance(event, events.Failed):
                error = from_code(event.code, event.message, status=event.status, details=event.details)
                return pb_utils.InferenceResponse(error=triton_error(error))
            if isinstance(event, events.Done):
                parts = {"video": b"".join(video), "event": tensors["event"]}
        if not parts:
            error = StageFailed("the stream ended without a video", stage=contract.MODEL)
            return pb_utils.InferenceResponse(error=triton_error(error))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, contract.bytes_tensor(data)) for name, data in parts.items()]
        )

    def _responses(self, request: Any) -> Iterator[Any]:
        """The responses of the inner request, which is told when the client has gone."""
        id = f"{request.request_id() or 'unary'}-{uuid.uuid4().hex[:12]}"
        inner = pb_utils.InferenceRequest(
            model_name=contract.MODEL,
            requested_output_names=["event", "video"],
            inputs=list(request.inputs()),
            request_id=id,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        told = False
        for response in inner.exec(decoupled=True):
            if not response.has_error():
                yield response
            if not told and request.is_cancelled():
                # Triton's iterator has no `cancel` for a synchronous call; the orchestrator ends the request.
                told = True
                self._cancel(id)

    def _cancel(self, id: str) -> None:
        """Asks the orchestrator to cancel a request; without a control socket the request runs on."""
        if self._control is None:
            return
        try:
            _ask(self._control, {"op": "cancel", "id": id})
        except OSError as error:
            _logger.warning("could not cancel %s: %s", id, error)


def _ask(path: Path, body: dict[str, str]) -> None:
    """Sends one line to the control socket and waits for its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(CONTROL_SECONDS)
        control.connect(str(path))
        control.sendall(json.dumps(body).encode() + b"\n")
        control.recv(4096)
