"""The orchestrator: one per server, it takes requests in, runs them and always ends their streams."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.errors import Cancelled, StageLost, ZoetropeError
from zoetrope_core.events import Accepted, Heartbeat
from zoetrope_core.manifest import Manifest
from zoetrope_core.request import GenerateRequest, ValidRequest
from zoetrope_core.sizes import far_from_trained
from zoetrope_server.admission import Admission, Place
from zoetrope_server.forecast import Costs
from zoetrope_server.job import Job
from zoetrope_server.media.hardware import NO_HARDWARE, HardwareEncoders
from zoetrope_server.metrics import Metrics, NoMetrics, record_end, record_queue
from zoetrope_server.pipeline import ImageDecoder, ImageToVideo
from zoetrope_server.stages import Stages
from zoetrope_server.ticket import Channel, Ticket
from zoetrope_server.ticks import LoopTicks

_logger = logging.getLogger(__name__)
_LONGEST_NAME = 128
REFRESH_SECONDS = 2.0
"""How often the metrics learn how far a request is."""


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything that the orchestrator process holds.

    Attributes:
        manifest: the facts of the served checkpoint.
        stages: what computes.
        decoder: what decodes images.
        admission: the queue.
        media_threads: threads that fit images and encode videos.
        metrics: where it counts.
        hardware: hardware encoders to try before the software.
    """

    manifest: Manifest
    stages: Stages
    decoder: ImageDecoder
    admission: Admission
    media_threads: int = 2
    metrics: Metrics = field(default_factory=NoMetrics)
    hardware: HardwareEncoders = NO_HARDWARE
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _media: ThreadPoolExecutor = field(init=False)
    _pipeline: ImageToVideo = field(init=False)
    _loop: asyncio.AbstractEventLoop | None = None
    _costs: Costs = field(default_factory=Costs)
    _ticks: LoopTicks = field(default_factory=LoopTicks)
    _lost: str | None = None

    def __post_init__(self) -> None:
        """Starts the media threads."""
        self._media = ThreadPoolExecutor(self.media_threads, thread_name_prefix="media")
        self._pipeline = ImageToVideo(
            manifest=self.manifest,
            stages=self.stages,
            decoder=self.decoder,
            media=self._media,
            hardware=self.hardware,
        )

    async def serve(self, channel: Channel) -> None:
        """Serves one request; whatever happens, its stream ends."""
        ticket = Ticket(id=self._name(channel.id), channel=channel, media=self._media)
        self._adopt_loop()
        began = time.perf_counter()
        timings: dict[str, float] = {}
        ticket.task = asyncio.create_task(self._run(ticket, timings))
        self._tickets[ticket.id] = ticket
        await self._follow(ticket, ticket.task)
        if ticket.sending is not None:
            # A cancelled request may have left a copy under way, and nothing may follow the end of a stream.
            await asyncio.wait([ticket.sending])
        self._tickets.pop(ticket.id, None)
        error = _outcome(ticket)
        seconds = time.perf_counter() - began
        _log(ticket.id, error, seconds, timings)
        channel.finish(error)
        record_end(self.metrics, "done" if error is None else error.code, seconds, timings)
        record_queue(self.metrics, self.admission)

    async def _follow(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        """Waits for the end of the request; meanwhile its steps are counted, and the work shrinks."""
        counted = 0
        while not task.done():
            await asyncio.wait([task], timeout=REFRESH_SECONDS)
            steps = 0 if ticket.place is None else ticket.place.steps
            if steps > counted:
                self.metrics.add("zoetrope_steps_total", steps - counted)
            counted = max(counted, steps)
            if not task.done():
                record_queue(self.metrics, self.admission)

    def status(self) -> dict[str, Any]:
        """How much the orchestrator has to do."""
        return {
            "active": self.admission.active,
            "waiting": self.admission.waiting,
            "draining": self.admission.draining,
            "loop_lag_s": round(self._ticks.lag_s, 3),
        }

    @property
    def busy(self) -> bool:
        """Whether a stream has not ended yet."""
        return bool(self._tickets)

    def drain(self) -> None:
        """Takes no new request from now on; from any thread."""
        self.admission.draining = True

    def fail(self, reason: str) -> None:
        """Ends all requests with `stage_lost`, and those that still come; from any thread."""
        self._lost = reason
        for ticket in list(self._tickets.values()):
            self._on_loop(partial(ticket.abort, StageLost(reason)))

    def cancel(self, id: str) -> bool:
        """Cancels one request; from any thread. Returns whether it was there."""
        ticket = self._tickets.get(id)
        if ticket is not None:
            self._on_loop(partial(ticket.abort, Cancelled("the client has cancelled")))
        return ticket is not None

    def close(self) -> None:
        """Frees the threads."""
        self._media.shutdown(wait=False, cancel_futures=True)

    async def _run(self, ticket: Ticket, timings: dict[str, float]) -> None:
        """The request from its tensors to its last response."""
        if self._lost is not None:
            raise StageLost(self._lost)
        tensors = ticket.channel.read()
        image, asked = contract.unpack_request(tensors)
        request = asked.validate(self.manifest, drawn_seed=secrets.randbits(53))

        async def on_wait(before: int, due: bool) -> None:
            ticket.check()
            if due:
                await ticket.send(Response(event=Heartbeat(waiting=before)))

        open_size = asked.needs_picture(self.manifest)
        ticket.place = place = self._place(request, ticket.arrived, work_known=not open_size)
        async with self.admission.hold(place):
            if open_size:
                # Only now, so that the queue's bound is one of the images that are measured too.
                request = await self._suited(asked, image, request.seed)
                self.admission.revise(place, self._costs.seconds(request))
            accepted = Accepted(
                id=ticket.id,
                seed=request.seed,
                steps=request.num_inference_steps,
                trace_id=ticket.channel.trace_id,
            )
            await ticket.send(Response(event=accepted))
            for warning in far_from_trained(self.manifest, request.size, request.num_frames):
                await ticket.send(Response(event=warning))
            record_queue(self.metrics, self.admission)
            await place.turn(self.admission.before, on_wait)
            self.metrics.observe("zoetrope_queue_seconds", time.monotonic() - ticket.arrived)
            sharing: float = self.admission.active
            text = contract.sent_as_text(tensors)
            job = Job(id=ticket.id, request=request, stream=ticket, timings=timings, text=text)
            await self._pipeline.generate(image, job)
            ticket.flush()
            place.served()
            self.metrics.add("zoetrope_frames_total", request.num_frames)
            sharing = (sharing + self.admission.active) / 2
            self._costs.learn(request, timings["denoise"], timings["total"], sharing)

    async def _suited(self, asked: GenerateRequest, image: bytes, seed: int) -> ValidRequest:
        """The request with the size that suits its picture."""
        picture = await self.decoder.measure(image)
        return asked.validate(self.manifest, drawn_seed=seed, picture=picture)

    def _place(self, request: ValidRequest, arrived: float, *, work_known: bool) -> Place:
        due = None if request.deadline_s is None else arrived + request.deadline_s
        work = self._costs.seconds(request) if work_known else None
        return Place(priority=request.priority, work=work, due=due)

    def _name(self, asked: str) -> str:
        """The name of a request: the client's, made unique where another running request has it."""
        unique, name = secrets.token_hex(8), printable(asked)
        return unique if not name else f"{name}-{unique}" if name in self._tickets else name

    def _adopt_loop(self) -> None:
        """Sizes the loop's default executor: each running request waits for one stage call in it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            # A cancelled request frees its place while its last call still holds a thread.
            calls = ThreadPoolExecutor(2 * self.admission.max_active, thread_name_prefix="stage-call")
            loop.set_default_executor(calls)
            self._ticks.start(loop)

    def _on_loop(self, function: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(function)


def printable(name: str) -> str:
    """A client's name of a request as it is kept and logged: its first 128 printable characters."""
    return "".join(filter(str.isprintable, name[:_LONGEST_NAME]))


def _outcome(ticket: Ticket) -> ZoetropeError | None:
    """How the request ended: None when its video was sent."""
    task = ticket.task
    if task is None or task.cancelled():
        return ticket.failure or Cancelled("the request was cancelled")
    error = task.exception()
    if error is None or isinstance(error, ZoetropeError):
        return error
    _logger.error("request %s raised", ticket.id, exc_info=error)
    return ZoetropeError("internal error; the server's log says more", id=ticket.id)


def _log(id: str, error: ZoetropeError | None, seconds: float, timings: Mapping[str, float]) -> None:
    """One structured line a request."""
    line = {
        "request": id,
        "outcome": "done" if error is None else error.code,
        "message": None if error is None else error.message,
        "seconds": round(seconds, 4),
        "stages": {stage: round(spent, 4) for stage, spent in timings.items()},
    }
    _logger.info("%s", json.dumps(line))
