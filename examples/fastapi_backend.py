"""A web backend in front of Zoetrope: a picture in, progress as server-sent events, the video to fetch.

Run it beside a server: `pip install fastapi uvicorn` and `uvicorn fastapi_backend:app`. Then:

    curl -N --data-binary @photo.jpg 'http://127.0.0.1:8000/videos?seed=7'
    curl -O http://127.0.0.1:8000/videos/ID

A browser that goes away cancels its request on the server. Videos are kept in memory, the newest few alone: a
real backend stores them.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from zoetrope_client import AsyncClient, Done, Event, Fragment, Frames, Preview, Video
from zoetrope_client.errors import InvalidRequest, Refused, ServerUnavailable, ZoetropeError
from zoetrope_client.video import Assembly

KEPT = 32
MAX_BYTES = 20 << 20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One connection for the life of the backend; each request is a stream of its own over it."""
    async with AsyncClient(os.environ.get("ZOETROPE_URL", "127.0.0.1:8001")) as client:
        app.state.client = client
        app.state.videos = OrderedDict()
        yield


app = FastAPI(title="Moving pictures", lifespan=lifespan)


@app.post("/videos")
async def generate(
    request: Request,
    seed: Annotated[int | None, Query(ge=0)] = None,
    steps: Annotated[int, Query(ge=1, le=50)] = 25,
    motion: Annotated[int, Query(ge=0, le=255)] = 127,
) -> StreamingResponse:
    """Animates the picture in the body; a stream of server-sent events, `done` or `error` last."""
    client: AsyncClient = request.app.state.client
    fields = {"num_inference_steps": steps, "motion_bucket_id": motion, "seed": seed}
    known = {name: value for name, value in fields.items() if value is not None}
    picture = await _body(request)
    try:
        events = client.stream(picture, deadline_s=300, **known)
        first = await anext(events)  # a refusal is a status, as long as no event has gone out
    except ZoetropeError as error:
        raise _http_error(error) from error
    return StreamingResponse(_told(request, first, events), media_type="text/event-stream")


@app.get("/videos/{id}")
async def video(request: Request, id: str) -> Response:
    """The finished video."""
    found: Video | None = request.app.state.videos.get(id)
    if found is None:
        raise HTTPException(404, "no such video")
    return Response(found.data, media_type=found.media_type)


async def _body(request: Request) -> bytes:
    """The body, and no more of it than is allowed."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"at most {MAX_BYTES} bytes")
    return bytes(data)


async def _told(request: Request, first: Event, events: AsyncGenerator[Event, None]) -> AsyncIterator[str]:
    """The events as they go to the browser; leaving this generator cancels the request on the server."""
    assembly = Assembly()
    try:
        async with aclosing(events):
            assembly.add(first)
            yield _sse(first)
            async for event in events:
                assembly.add(event)
                if isinstance(event, Done):
                    _keep(request.app.state.videos, assembly.video())
                if not isinstance(event, Fragment | Frames | Preview):
                    yield _sse(event)
    except ZoetropeError as error:
        yield f"event: error\ndata: {json.dumps(error.to_event())}\n\n"


def _sse(event: Any) -> str:
    body = asdict(event)
    if isinstance(event, Done):
        body = {"id": event.id, "seed": event.seed, "video": f"/videos/{event.id}"}
    return f"event: {event.type}\ndata: {json.dumps(body)}\n\n"


def _keep(videos: OrderedDict[str, Video], video: Video) -> None:
    videos[video.id] = video
    while len(videos) > KEPT:
        videos.popitem(last=False)


def _http_error(error: ZoetropeError) -> HTTPException:
    if isinstance(error, InvalidRequest):
        return HTTPException(422, error.message)
    if isinstance(error, Refused | ServerUnavailable):
        seconds = round(float(error.details.get("retry_after_s", 5)))
        return HTTPException(503, error.message, headers={"Retry-After": str(max(seconds, 1))})
    return HTTPException(502, error.message)
