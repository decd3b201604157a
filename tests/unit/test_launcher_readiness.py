"""Readiness without HTTP: gRPC's health service, a handshake, the orchestrator's pulse; over real sockets."""

import socket
import ssl
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from waiting import wait_until

from zoetrope_server.control import ControlServer
from zoetrope_server.launcher.control import ControlClient
from zoetrope_server.launcher.pulse import Pulse
from zoetrope_server.launcher.readiness import GrpcHealth, TlsHealth

IDLE = {"active": 0, "waiting": 0, "draining": False}


@pytest.fixture
def health_service():
    """A gRPC server whose health service gives `answer[0]`; yields the answer and the port."""
    answer = [b""]

    class Health(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method == "/grpc.health.v1.Health/Check":
                return grpc.unary_unary_rpc_method_handler(lambda request, context: answer[0])
            return None

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(Health(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield answer, port
    server.stop(None).wait()


def test_grpc_health_is_the_answer_of_the_standard_service(health_service):
    answer, port = health_service
    health = GrpcHealth(host="0.0.0.0", port=port)
    for said, ready in ((b"\x08\x01", True), (b"\x08\x02", False), (b"", False)):
        answer[0] = said
        assert health() is ready


def test_grpc_health_goes_through_no_proxy(health_service, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    answer, port = health_service
    answer[0] = b"\x08\x01"
    assert GrpcHealth(host="127.0.0.1", port=port)()


def test_a_port_that_is_silent_or_closed_is_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert GrpcHealth(host="127.0.0.1", port=port)() is False
        assert TlsHealth(host="127.0.0.1", port=port, control=ControlClient(path=Path("/nowhere")))() is False
        assert time.monotonic() - began < 5
    assert GrpcHealth(host="127.0.0.1", port=port)() is False
    assert TlsHealth(host="127.0.0.1", port=port, control=ControlClient(path=Path("/nowhere")))() is False


@pytest.fixture
def tls_port(tmp_path):
    """A port that shakes hands, and asks for a certificate."""
    pair = Authority(tmp_path, "authority").sign("zoetrope.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(tmp_path / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    continue

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_under_tls_the_handshake_and_the_orchestrator_answer(tls_port, control):
    control_path, status = control
    health = TlsHealth(host="127.0.0.1", port=tls_port, control=ControlClient(path=control_path))
    assert health() is True
    status.clear()
    assert health() is False, "the orchestrator gives no usable answer"
    other = ControlClient(path=control_path.with_name("none"))
    assert TlsHealth(host="127.0.0.1", port=tls_port, control=other)() is True


@pytest.fixture
def control(tmp_path):
    """A control socket and the status that it answers with."""
    status = dict(IDLE)
    server = ControlServer(tmp_path / "c.sock", {"status": lambda body: status})
    yield tmp_path / "c.sock", status
    server.close()


def test_the_pulse_follows_the_loop(control):
    path, status = control
    with Pulse(ControlClient(path=path)) as pulse:
        assert pulse.silent_s() < 5
        status["loop_lag_s"] = 100.0
        began = time.monotonic()
        wait_until(lambda: pulse.silent_s() > 0.9)
        assert pulse.silent_s() <= time.monotonic() - began + 1, "counted from when it was last seen"
        status["loop_lag_s"] = 0.0
        wait_until(lambda: pulse.silent_s() < 0.5)
        status.clear()  # an answer that says nothing
        wait_until(lambda: pulse.silent_s() > 0.9)


def test_a_repository_without_an_orchestrator_has_no_pulse_to_lose(tmp_path):
    with Pulse(ControlClient(path=tmp_path / "none")) as pulse:
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.8)
        assert pulse.silent_s() < 0.8
