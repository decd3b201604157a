"""The server under load: sends one request and notes when what came. All that knows the protocol is here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import grpc
from tritonclient.grpc import service_pb2_grpc

from zoetrope_bench.load.mix import RequestClass
from zoetrope_bench.load.records import DONE
from zoetrope_client import codec
from zoetrope_client.events import Accepted, Done, Event, Fragment, Frames, Preview, Progress
from zoetrope_core.errors import ZoetropeError


@dataclass(slots=True, kw_only=True)
class Observed:
    """What was seen of a request so far; the names are those of `records.Record`."""

    sent: float | None = None
    first_response: float | None = None
    accepted: float | None = None
    first_progress: float | None = None
    first_step: float | None = None
    first_preview: float | None = None
    first_frames: float | None = None
    first_fragment: float | None = None
    ended: float | None = None
    bytes: int = 0
    video_bytes: int = 0
    size: tuple[int, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    def note(self, at: float, events: Sequence[Event] = ()) -> None:
        """Takes a response that came at `at`, with its events."""
        self._first("first_response", at)
        for event in events:
            self._note(at, event)

    def _note(self, at: float, event: Event) -> None:
        match event:
            case Preview(image=data):
                self._came("first_preview", at, len(data))
            case Frames(array=frames):
                self._came("first_frames", at, frames.nbytes)
            case Fragment(data=data):
                self._came("first_fragment", at, len(data))
            case Accepted():
                self.accepted = at
            case Progress(stage=stage, step=step):
                self._first("first_progress", at)
                if stage == "denoise" and step:
                    self._first("first_step", at)
            case Done(parameters=used, timings=timings, video_bytes=length):
                self.ended, self.timings, self.video_bytes = at, timings, length
                size = tuple(used.get(name) or 0 for name in ("width", "height", "num_frames"))
                self.size = size if all(size) else ()

    def _came(self, moment: str, at: float, length: int) -> None:
        self._first(moment, at)
        self.bytes += length

    def _first(self, name: str, at: float) -> None:
        if getattr(self, name) is None:
            setattr(self, name, at)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a request ended; the names are those of `records.Record`."""

    code: str = DONE
    status: str = "OK"
    message: str = ""
    retry_after_s: float | None = None


class Target(Protocol):
    """Whatever answers requests."""

    def prepare(self, request_class: RequestClass, index: int) -> Any:
        """The message of a request, made before it is due."""
        ...

    async def ask(self, message: Any, observed: Observed, clock: Callable[[], float]) -> Ending:
        """Sends it, notes what comes, and says how it ended; never raises but for a cancellation."""
        ...


class GrpcTarget:
    """A server's decoupled model over one gRPC channel; an asynchronous context manager."""

    def __init__(
        self, url: str, *, timeout_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Opens the channel; needs a running event loop.

        Args:
            url: HOST:PORT of the gRPC endpoint.
            timeout_s: the gRPC deadline of requests without a `deadline_s`.
            headers: sent with every call.
        """
        self._url, self._timeout = url, timeout_s
        self._metadata = tuple((headers or {}).items())
        self._channel = grpc.aio.insecure_channel(
            url, codec.channel_options({}, keepalive_s=None, max_message_bytes=None)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> GrpcTarget:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ready(self, timeout_s: float) -> bool:
        """Connects, so that the first request does not pay for it; False when nothing is there by then."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout_s)
        except TimeoutError:
            return False
        return True

    def prepare(self, request_class: RequestClass, index: int) -> Any:
        """The message, and its gRPC deadline."""
        request = codec.build_request(None, {"seed": index, **request_class.fields})
        return codec.encode(request_class.picture, request), request.deadline_s or self._timeout

    async def ask(self, message: Any, observed: Observed, clock: Callable[[], float]) -> Ending:
        """See `Target`."""
        content, timeout = message
        reader = codec.StreamReader(self._url)
        observed.sent = clock()
        call = self._stub.ModelStreamInfer(iter((content,)), metadata=self._metadata, timeout=timeout)
        try:
            async for received in call:
                at = clock()
                if events := reader.read(received):
                    observed.note(at, events)
                if reader.failed:
                    observed.ended = at
                    observed.note(at)
                    # The stream is just ending: it is let, as the client does.
                    await asyncio.wait((asyncio.ensure_future(call.code()),), timeout=codec.END_SECONDS)
                    break
            reader.end()
        except ZoetropeError as error:
            return ending(error)
        except grpc.RpcError as error:
            failure = reader.failure(error.code().name, error.details())
            return Ending() if failure is None else ending(failure, error.code().name)
        finally:
            call.cancel()
        return Ending()


def ending(error: ZoetropeError, status: str | None = None) -> Ending:
    """How a request ended that ended with an error; `status` is gRPC's own, where it ended with one."""
    retry = error.details.get("retry_after_s")
    return Ending(
        code=str(error.details.get("code", error.code)),
        status=status or error.status,
        message=error.message[:500],
        retry_after_s=float(retry) if isinstance(retry, int | float) else None,
    )
