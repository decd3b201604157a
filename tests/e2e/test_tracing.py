"""Spans of a request at a real OTLP endpoint, and the trace's id in the client's hands."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fakes import png

from zoetrope_bench.server import serving
from zoetrope_client import Client
from zoetrope_core.events import Accepted

pytestmark = pytest.mark.e2e


@contextmanager
def collector():
    """An endpoint for OTLP over HTTP; its URL and the bodies that it was sent."""
    bodies = []
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            arrived.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies, arrived
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def accepted(client):
    events = list(client.stream(png(), num_inference_steps=1))
    return next(event for event in events if isinstance(event, Accepted))


def test_a_span_reaches_the_collector_under_the_id_that_the_client_knows(noop_repository, tmp_path):
    with (
        collector() as (url, bodies, arrived),
        serving(noop_repository, tmp_path / "log", "--trace-url", url) as server,
    ):
        with Client(server.url) as client:
            trace_id = accepted(client).trace_id
        assert trace_id and len(trace_id) == 32
        assert arrived.wait(30), "no span came"
        server.stop()  # what is still buffered leaves now
    assert {path for path, _ in bodies} == {"/v1/traces"}
    resources = [each for _, body in bodies for each in json.loads(body)["resourceSpans"]]
    assert {"key": "service.name", "value": {"stringValue": "zoetrope"}} in resources[0]["resource"][
        "attributes"
    ]
    spans = [span for each in resources for scope in each["scopeSpans"] for span in scope["spans"]]
    assert {span["traceId"] for span in spans} == {trace_id}
    assert {"compute", "image_to_video"} <= {span["name"] for span in spans}


def test_without_a_collector_nothing_is_traced(roomy_server):
    with Client(roomy_server.url) as client:
        assert accepted(client).trace_id is None
