"""Servers that speak the contract by a script, without Triton: over a real socket, or in this process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from zoetrope_client.mock_channels import decode, encode
from zoetrope_client.testing import MockTransport, StatusError
from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.errors import Overloaded
from zoetrope_core.events import Accepted, Done, Failed, Progress, Warned
from zoetrope_core.manifest import Manifest
from zoetrope_core.metadata import PARAMETER, describe
from zoetrope_core.request import GenerateRequest

TINY_PIECE = 1000
METADATA = describe(
    Manifest(
        checkpoint="c", engine="e", precision="p", latent_channels=4, embedding_dim=8, vae_scale_factor=8,
        scaling_factor=1.0, clip_size=224, clip_mean=(0, 0, 0), clip_std=(1, 1, 1),
        sigma_min=0.1, sigma_max=1, rho=7, sizes=((64, 96),), num_frames=(6,), decode_chunk_size=2,
    ),
    release="1.2.3", max_active=1, max_waiting=2,
)  # fmt: skip
"""What a server may say of itself; see `Servicer.told`."""


def final():
    """The empty response with which Triton ends a request."""
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.parameters["triton_final_response"].bool_param = True
    return message


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers each stream with `script(self, image, request, context)`, a generator of responses."""

    def __init__(self, script):
        self.script, self.ready, self.told = script, True, None
        self.requests, self.messages, self.metadata = [], [], []
        self.cancelled = threading.Event()
        self.closing = threading.Event()

    def ServerReady(self, message, context):
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ModelConfig(self, message, context):
        self.metadata.append(dict(context.invocation_metadata()))
        answer = service_pb2.ModelConfigResponse()
        answer.config.name = message.name
        if self.told is not None:
            answer.config.parameters[PARAMETER].string_value = self.told
        return answer

    def ServerLive(self, message, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ModelStreamInfer(self, messages, context):
        finished = threading.Event()
        context.add_callback(lambda: finished.is_set() or self.cancelled.set())
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            for message in messages:
                yield from self._answer(message, context)
        except Exception:  # what `context.abort` raises
            finished.set()
            raise
        if context.is_active():
            finished.set()

    def _answer(self, message, context):
        self.messages.append(message)
        image, request = decode(message)
        self.requests.append((image, request))
        for response in self.script(self, image, request, context):
            yield encode(response) if isinstance(response, Response) else response


@contextmanager
def serving(script, *, port=0):
    """A server on the loopback, on a free port without one; yields the servicer, its address is `url`."""
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    servicer = Servicer(script)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.url = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield servicer
    finally:
        servicer.closing.set()
        server.stop(grace=None).wait()
        pool.shutdown()


class Mocked(MockTransport):
    """A transport that answers each stream with a script, as `Servicer` does."""

    def __init__(self, script, **settings):
        super().__init__(lambda call: script(self, call.image, call.request, Context()), **settings)

    @property
    def requests(self):
        return [(call.image, call.request) for call in self.calls]


class Context:
    """What the scripts that run in this process ask of gRPC."""

    def abort(self, status, message):
        raise StatusError(status, message)


def accepted(request):
    return Response(event=Accepted(id="r1", seed=request.seed or 0, steps=request.num_inference_steps))


def done(request, video):
    timings = {"denoise": 0.5, "total": 0.75}
    parameters = {**request.to_dict(), "width": 48, "height": 32, "num_frames": 6}
    event = Done(
        id="r1", seed=request.seed or 0, parameters=parameters, timings=timings, video_bytes=len(video)
    )
    return Response(event=event)


def video_of(image, request):
    """What the scripts send as a video: it depends on all that was received, and has several pieces."""
    return (image + request.to_json()) * 30


def normal(servicer, image, request, context):
    """All that a good stream has."""
    yield accepted(request)
    for step in range(3):
        yield Response(event=Progress(stage="denoise", step=step, steps=2, eta_seconds=2.0 - step))
    if request.preview_every:
        yield from (Response(preview=b"preview %d" % number) for number in (1, 2))
    yield Response(frames=np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3))
    video = video_of(image, request)
    for start in range(0, len(video), TINY_PIECE):
        yield Response(video=video[start : start + TINY_PIECE])
    yield done(request, video)
    yield final()


def warning(servicer, image, request, context):
    """A good stream with a warning, and with an event of a newer server."""
    first, *rest = normal(servicer, image, request, context)
    yield first
    yield Response(event=Warned(code="far_from_trained", field="size", message="far\naway"))
    newer = encode(Response(event=Accepted(id="r1", seed=0, steps=1)))
    text = b'{"version": 1, "type": "brand_new"}'
    newer.infer_response.raw_output_contents[0] = serialize_byte_tensor(contract.bytes_tensor(text)).item()
    yield newer
    yield from rest


def failing(error):
    """The error as Triton sends it: an event, then the status (for the header `triton_grpc_error`)."""

    def script(servicer, image, request, context):
        yield accepted(request)
        body = error.to_event()
        code, status, message = body.pop("code"), body.pop("status"), body.pop("message")
        yield Response(event=Failed(code=code, status=status, message=message, details=body))
        context.abort(getattr(grpc.StatusCode, status), error.status_message())

    return script


def aborting(status, message, first=()):
    """A status without an event, after the responses `first`."""

    def script(servicer, image, request, context):
        yield from first
        context.abort(status, message)

    return script


def refusing(servicer, image, request, context):
    """A full queue."""
    context.abort(
        grpc.StatusCode.UNAVAILABLE, Overloaded("the queue is full", retry_after_s=3.5).status_message()
    )
    yield


def refused_for(seconds):
    """A full queue that says when to come again."""

    def script(servicer, image, request, context):
        error = Overloaded("the queue is full", retry_after_s=seconds)
        context.abort(grpc.StatusCode.UNAVAILABLE, error.status_message())
        yield

    return script


def picturing(preview):
    """A good stream with a preview that is a picture, and slow enough that a screen shows it."""

    def script(servicer, image, request, context):
        for response in normal(servicer, image, request, context):
            yield response
            if isinstance(response, Response) and isinstance(response.event, Progress):
                yield Response(preview=preview)
            elif isinstance(response, Response) and response.frames is not None:
                time.sleep(0.5)

    return script


def cutting(servicer, image, request, context):
    """Ends in the middle, without any status."""
    yield accepted(request)
    yield Response(video=b"half a vid")


def endless(servicer, image, request, context):
    """Never ends by itself."""
    yield accepted(request)
    step = 0
    while context.is_active() and not servicer.closing.is_set():
        step += 1
        yield Response(event=Progress(stage="denoise", step=step, steps=10**6))
        time.sleep(0.02)


def silent(servicer, image, request, context):
    """Accepts and says no more, as a hanging server does."""
    yield accepted(request)
    while context.is_active() and not servicer.closing.is_set():
        time.sleep(0.02)


def hanging_after_an_error(servicer, image, request, context):
    """Forgets to end the stream after its `error` event."""
    yield Response(event=Failed(code="stage_failed", status="INTERNAL", message="boom"))
    yield from silent(servicer, image, request, context)


def ending_after_an_error(servicer, image, request, context):
    """Takes a moment to end the stream after its `error` event."""
    yield Response(event=Failed(code="stage_failed", status="INTERNAL", message="boom"))
    time.sleep(0.1)


REQUEST = GenerateRequest(seed=7)
