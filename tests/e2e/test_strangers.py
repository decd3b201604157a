"""`zoetrope serve` among strangers: what kills Triton, TLS, addresses, floods."""

import contextlib
import http.client
import os
import signal
import socket
import time

import numpy as np
import psutil
import pytest
from certificates import Authority
from supervised import (
    ECHO,
    ECHO_CONFIG,
    ask,
    call,
    infer,
    model,
    starting,
    streaming,
    tensor,
    tritons,
    write_models,
)
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2
from tritonclient.utils import InferenceServerException
from waiting import wait_until

pytestmark = pytest.mark.e2e
HTTP = ("--triton-http", "--http-port=0")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    repository = write_models(tmp_path_factory.mktemp("strangers") / "models")
    model(repository, "text", ECHO, ECHO_CONFIG.replace("FP32", "STRING"))
    return repository


@pytest.fixture
def start(tmp_path, models):
    with starting(tmp_path, models) as start:
        yield start


def listening(pid):
    """The addresses on which a process listens."""
    return sorted(
        f"{each.laddr.ip.removeprefix('::ffff:')}:{each.laddr.port}"
        for each in psutil.Process(pid).net_connections(kind="tcp")
        if each.status == psutil.CONN_LISTEN
    )


def tiny_chunks(address, path="/v2/models/echo/infer"):
    """A body in a million chunks; the process that takes it in pieces on its stack dies."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n")
        connection.recv(100)


def deep_json(address, path="/v2/models/echo/infer"):
    """JSON that is nested two million deep."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(address, "POST", path, body=b'{"inputs":' + b"[" * 2_000_000)


def test_http_is_off_and_what_is_open_withstands_what_kills_it(start):
    server = start().wait_ready()
    assert server.endpoints["http"] is None
    addresses = [server.endpoints[name] for name in ("grpc", "metrics", "health")]
    assert listening(server.endpoints["triton_pid"]) == sorted(addresses[:2])
    for address in addresses:
        tiny_chunks(address)
        deep_json(address)
    assert infer(server, [1.0]) == [1.0]
    assert server.probe("/readyz") == (200, {"status": "ready"})
    assert psutil.pid_exists(server.endpoints["triton_pid"])


def class_count(server):
    """The two likeliest classes of an output of text, over gRPC."""
    with InferenceServerClient(server.endpoints["grpc"]) as client:
        text = InferInput("x", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"zoetrope"], np.object_))
        with pytest.raises(InferenceServerException):
            client.infer("text", [text], outputs=[InferRequestedOutput("y", class_count=2)])


def test_an_embedded_triton_that_a_request_kills_comes_back(start):
    """It cannot be mended; streams end within 2 s of its death, and it is back within 10 s."""
    server = start(*HTTP).wait_ready()
    attacks = [
        lambda: tiny_chunks(server.endpoints["http"]),
        lambda: deep_json(server.endpoints["http"]),
        lambda: class_count(server),
    ]
    for attack in attacks:
        (triton,) = tritons(server)
        with streaming() as stream:
            running = stream(server, 60.0)
            attack()
            triton.wait(20)
            died = time.monotonic()
            assert running.next(2)[1] is not None
            back = died + 10 - time.monotonic()
            wait_until(lambda: server.ready() and infer(server, [3.0]) == [3.0], back)


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual-tls"])
def test_with_tls_nothing_is_served_in_plain_text(start, tmp_path, mutual):
    authority = Authority(tmp_path, "authority")
    own, client = authority.sign("zoetrope.test", "127.0.0.1"), authority.sign("client.test")
    flags = [f"--grpc-cert={own.certificate}", f"--grpc-key={own.key}"]
    flags += [f"--grpc-client-ca={authority.certificate}"] if mutual else []
    server = start(*flags).wait_ready()
    addresses = [server.endpoints[name] for name in ("grpc", "metrics")]
    assert listening(server.endpoints["triton_pid"]) == sorted(addresses)
    for address in (*addresses, server.endpoints["health"]):
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert ask(address, "POST", "/v2/models/echo/infer")[0] in (404, 405, 501)
        assert call(address, "ServerReady", service_pb2.ServerReadyRequest())[0] != "OK"
    secrets = {"root_certificates": str(authority.certificate)}
    if mutual:
        secrets |= {"private_key": str(client.key), "certificate_chain": str(client.certificate)}
    with InferenceServerClient(server.endpoints["grpc"], ssl=True, **secrets) as connection:
        assert connection.infer("echo", [tensor([2.0])]).as_numpy("y").tolist() == [2.0]
    assert server.probe("/readyz")[0] == 200
    os.kill(server.endpoints["triton_pid"], signal.SIGSTOP)
    try:
        wait_until(lambda: server.probe("/readyz")[0] == 503)  # a Triton that hangs is not ready
    finally:
        os.kill(server.endpoints["triton_pid"], signal.SIGCONT)
    refused = start(*flags, "--triton-http")
    assert refused.end() == 1 and "in plain text" in refused.stderr()


def test_a_stopped_orchestrator_fails_the_liveness_probe(start):
    server = start("--stall-timeout-s=1").wait_ready()
    assert server.probe("/livez")[0] == 200
    os.kill(server.stub("work"), signal.SIGSTOP)
    wait_until(lambda: server.probe("/livez")[0] == 503, 10)
    assert "event loop has not run for" in server.probe("/livez")[1]["reason"]
    os.kill(server.stub("work"), signal.SIGCONT)
    wait_until(lambda: server.probe("/livez")[0] == 200, 10)


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]:"), ("localhost", "127.0.0.1:")])
def test_other_ways_to_write_loopback(start, host, shown):
    server = start(f"--host={host}", *HTTP, f"--http-host={host}").wait_ready()
    assert all(server.endpoints[name].startswith(shown) for name in ("grpc", "http", "metrics", "health"))
    assert infer(server, [1.0]) == [1.0]
    assert ask(server.endpoints["http"], "GET", "/v2/health/ready")[0] == 200
    assert ask(server.endpoints["metrics"], "GET", "/metrics")[0] == 200
    assert server.probe("/readyz")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_the_embedded_triton_stays_on_loopback(start, host):
    server = start(f"--host={host}")
    assert server.end() == 1
    wanted = "may listen on loopback only" if host else "--host (ZOETROPE_HOST) is empty"
    assert wanted in server.stderr() and "Traceback" not in server.stderr()


def test_a_flood_of_one_message_writes_a_few_lines(start):
    """Triton complains of each connection that it has no descriptor for, thousands of times a second."""
    server = start(*HTTP, prefix=("prlimit", "--nofile=100:200")).wait_ready()
    triton = psutil.Process(server.endpoints["triton_pid"])
    assert triton.rlimit(psutil.RLIMIT_NOFILE) == (200, 200), "raised to the hard limit"
    host, port = server.endpoints["http"].split(":")
    with contextlib.ExitStack() as held:
        for _ in range(250):
            held.enter_context(socket.create_connection((host, int(port)), timeout=5))
        wait_until(lambda: "Too many open files" in server.stderr())
        before = len(server.stderr())
        time.sleep(0.5)  # of some megabytes
        assert len(server.stderr()) - before < 10_000
