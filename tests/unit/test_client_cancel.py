"""Every way of giving up a stream is seen by the server; a real gRPC server over a real socket."""

import gc
import time
from contextlib import closing

import grpc_server as scripts
import pytest
from grpc_server import serving

from zoetrope_client import Client, codec
from zoetrope_core.errors import Cancelled, DeadlineExceeded, StageFailed

IMAGE = b"\x89PNG not decoded here"


def leave_by_break(events):
    for _ in events:
        break
    del events
    gc.collect()


def leave_by_close(events):
    next(events)
    events.close()


def leave_by_exception(events):
    with pytest.raises(KeyboardInterrupt), closing(events):
        for _ in events:
            raise KeyboardInterrupt


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_exception])
def test_leaving_early_cancels_on_the_server(leave):
    with serving(scripts.endless) as server, Client(server.url) as client:
        leave(client.stream(IMAGE))
        assert server.cancelled.wait(5)


def test_closing_the_client_cancels_what_runs():
    with serving(scripts.endless) as server:
        with Client(server.url) as client:
            events = client.stream(IMAGE)
            next(events)
        assert server.cancelled.wait(5)
        with pytest.raises(Cancelled):
            list(events)


def test_a_finished_stream_is_not_cancelled():
    with serving(scripts.normal) as server, Client(server.url) as client:
        client.generate(IMAGE)
    assert not server.cancelled.is_set(), "and the server is at an end, so that nothing comes later"


@pytest.mark.parametrize("script", [scripts.endless, scripts.silent])
def test_a_deadline_ends_the_wait_and_cancels_on_the_server(script):
    with serving(script) as server, Client(server.url) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.generate(IMAGE, deadline_s=0.3)
        assert 0.2 < time.monotonic() - began < 3
        assert server.cancelled.wait(5)


def test_a_stream_that_ends_by_its_error_is_not_cancelled():
    script = scripts.ending_after_an_error
    with serving(script) as server, Client(server.url) as client, pytest.raises(StageFailed):
        client.generate(IMAGE)
    assert not server.cancelled.is_set()


def test_an_error_event_ends_the_wait_even_if_the_stream_goes_on(monkeypatch):
    monkeypatch.setattr(codec, "END_SECONDS", 0.1)
    with serving(scripts.hanging_after_an_error) as server, Client(server.url) as client:
        with pytest.raises(StageFailed) as raised:
            client.generate(IMAGE)
        assert server.cancelled.wait(5)
        assert raised.value.__traceback__  # which keeps the call alive: it was cancelled, not collected
