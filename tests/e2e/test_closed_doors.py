"""What `zoetrope serve` keeps closed to strangers, over the real embedded Triton."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from certificates import Authority
from supervised import ECHO, ECHO_CONFIG, infer, model, starting, streaming, tensor, write_models
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from zoetrope_client import Client
from zoetrope_client.errors import NotServed
from zoetrope_server.launcher import exposure
from zoetrope_server.launcher.flags import SECRET_HEADER
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.workspace import Workspace

pytestmark = pytest.mark.e2e
HTTP = ("--triton-http", "--http-port=0")

HTTP_CLOSED = [
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/models/echo/trace/setting"),
    ("POST", "/v2/models/echo/trace/setting"),
    *(
        (method, f"/v2/{kind}sharedmemory/{what}")
        for kind in ("system", "cuda")
        for method, what in (
            ("GET", "status"),
            ("GET", "region/x/status"),
            ("POST", "region/x/register"),
            ("POST", "region/x/unregister"),
            ("POST", "unregister"),
        )
    ),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/echo/load"),
    ("POST", "/v2/repository/models/echo/unload"),
]
HTTP_STATISTICS = [
    ("GET", "/v2/models/echo/stats"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/echo/config"),
]
HTTP_OPEN = [
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2"),
    ("GET", "/v2/models/echo"),
    ("GET", "/v2/models/echo/ready"),
]
GRPC_CLOSED = {
    "LogSettings": service_pb2.LogSettingsRequest(),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/x"),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="x"),
    "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest(),
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="echo"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="echo"),
}
GRPC_STATISTICS = {
    "ModelStatistics": service_pb2.ModelStatisticsRequest(),
    "ModelConfig": service_pb2.ModelConfigRequest(name="echo"),
}
GRPC_OPEN = {
    "ServerLive": service_pb2.ServerLiveRequest(),
    "ServerReady": service_pb2.ServerReadyRequest(),
    "ServerMetadata": service_pb2.ServerMetadataRequest(),
    "ModelReady": service_pb2.ModelReadyRequest(name="echo"),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name="echo"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    repository = write_models(tmp_path_factory.mktemp("doors") / "models")
    model(repository, "text", ECHO, ECHO_CONFIG.replace("FP32", "STRING"))
    return repository


@pytest.fixture
def start(tmp_path, models):
    with starting(tmp_path, models) as start:
        yield start


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """A server with HTTP, which the tests leave as it is."""
    with starting(tmp_path_factory.mktemp("served"), models) as start:
        yield start(*HTTP).wait_ready()


def ask(address, method, path, headers=None, body=b"{}"):
    """The HTTP status and the text of the answer."""
    request = urllib.request.Request(f"http://{address}{path}", method=method, headers=headers or {})
    request.data = body if method == "POST" else None
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(address, method, message, metadata=()):
    """The gRPC status, as text, and what was said."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, method)(message, timeout=10, metadata=metadata)
            return "OK", ""
        except grpc.RpcError as error:
            return error.code().name, error.details()


def secret_of(triton):
    """What stands on tritonserver's command line, for whoever may read it there."""
    flags = dict(argument.partition("=")[::2] for argument in psutil.Process(triton).cmdline()[1:])
    (categories, key), (_, other) = (
        flags[name].split(":") for name in ("--http-restricted-api", "--grpc-restricted-protocol")
    )
    assert key == other and categories
    name, value = key.split("=")
    assert name == SECRET_HEADER and len(value) == 64
    return value


def listening(pid):
    """The addresses on which a process listens."""
    return sorted(
        f"{each.laddr.ip.removeprefix('::ffff:')}:{each.laddr.port}"
        for each in psutil.Process(pid).net_connections(kind="tcp")
        if each.status == psutil.CONN_LISTEN
    )


@pytest.mark.parametrize(("method", "path"), HTTP_CLOSED)
def test_an_administrative_endpoint_over_http_needs_the_secret(served, method, path):
    status, said = ask(served.endpoints["http"], method, path)
    assert (status, "restricted" in said) == (403, True)
    key = {SECRET_HEADER: secret_of(served.endpoints["triton_pid"])}
    if not path.endswith("load"):  # those are refused with it too: the models are fixed
        assert ask(served.endpoints["http"], method, path, key)[0] != 403


@pytest.mark.parametrize("method", GRPC_CLOSED)
def test_an_administrative_call_over_grpc_needs_the_secret(served, method):
    address, message = served.endpoints["grpc"], GRPC_CLOSED[method]
    status, said = call(address, method, message)
    assert (status, "This protocol is restricted" in said) == ("UNAVAILABLE", True)
    wrong = ((f"triton-grpc-protocol-{SECRET_HEADER}", "0" * 64),)
    assert "This protocol is restricted" in call(address, method, message, wrong)[1]
    right = ((wrong[0][0], secret_of(served.endpoints["triton_pid"])),)
    assert "restricted" not in call(address, method, message, right)[1]


def test_what_clients_and_load_generators_need_is_open_on_loopback(served):
    for method, path in HTTP_OPEN + HTTP_STATISTICS:
        assert ask(served.endpoints["http"], method, path)[0] == 200, path
    for method, message in (GRPC_OPEN | GRPC_STATISTICS).items():
        assert call(served.endpoints["grpc"], method, message) == ("OK", ""), method
    assert infer(served, [1.0]) == [1.0]


@pytest.mark.parametrize("opened", [False, True])
def test_statistics_are_closed_elsewhere_unless_they_are_opened(models, monkeypatch, opened):
    """Triton runs on loopback here, with the flags of another address."""
    monkeypatch.setattr(exposure, "is_loopback", lambda address: False)
    ports = {f"{name}_port": 0 for name in ("grpc", "http", "metrics", "health")}
    settings = ServeSettings.merged(
        **ports, triton_http=True, open_statistics=opened, expose_vulnerable_triton=True
    )
    with Workspace(settings, models) as workspace, workspace.triton() as triton:
        assert triton.wait_ready(30)
        http, address = (f"127.0.0.1:{workspace.ports[name]}" for name in ("http", "grpc"))
        wanted = (200, "OK") if opened else (403, "UNAVAILABLE")
        assert {ask(http, *each)[0] for each in HTTP_STATISTICS} == {wanted[0]}
        assert {call(address, *each)[0] for each in GRPC_STATISTICS.items()} == {wanted[1]}
        assert {ask(http, *each)[0] for each in HTTP_CLOSED} == {403}
        assert {call(address, *each)[0] for each in GRPC_CLOSED.items()} == {"UNAVAILABLE"}
        assert {call(address, *each)[0] for each in GRPC_OPEN.items()} == {"OK"}
        if not opened:
            with Client(address) as client, pytest.raises(NotServed, match="--open-statistics"):
                client.metadata()


def test_the_pages_are_private_and_clients_cannot_register_them(served):
    pages = [path for path in Path("/dev/shm").glob(served.prefix + "*") if path.suffix != ".lock"]
    assert pages and served.prefix.startswith("triton_python_backend_shm_region_zoetrope-")
    assert {stat.S_IMODE(path.stat().st_mode) for path in pages} == {0o600}
    (folder,) = served.run_dir.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for page in pages:
        body = json.dumps({"key": f"/{page.name}", "offset": 0, "byte_size": 64}).encode()
        path = "/v2/systemsharedmemory/region/peek/register"
        assert ask(served.endpoints["http"], "POST", path, body=body)[0] == 403
        message = service_pb2.SystemSharedMemoryRegisterRequest(
            name="peek", key=f"/{page.name}", byte_size=64
        )
        assert call(served.endpoints["grpc"], "SystemSharedMemoryRegister", message)[0] == "UNAVAILABLE"


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


@pytest.mark.parametrize("attack", [tiny_chunks, deep_json])
def test_http_is_off_and_what_is_open_withstands_what_kills_it(start, attack):
    server = start().wait_ready()
    assert server.endpoints["http"] is None
    addresses = [server.endpoints[name] for name in ("grpc", "metrics", "health")]
    assert listening(server.endpoints["triton_pid"]) == sorted(addresses[:2])
    for address in addresses:
        attack(address)
    assert infer(server, [1.0]) == [1.0]
    assert server.probe("/readyz") == (200, {"status": "ready"})
    assert psutil.pid_exists(server.endpoints["triton_pid"])


@pytest.mark.parametrize("attack", [tiny_chunks, deep_json])
def test_an_embedded_triton_that_is_killed_over_http_comes_back(start, attack):
    """It cannot be mended; streams end within 2 s of its death, and it is back within 10 s."""
    server = start(*HTTP).wait_ready()
    with streaming() as stream:
        running = stream(server, 60.0)
        triton = psutil.Process(server.endpoints["triton_pid"])
        attack(server.endpoints["http"])
        triton.wait(20)
        died = time.monotonic()
        assert running.next(2)[1] is not None
        wait_until(lambda: server.ready() and infer(server, [3.0]) == [3.0], died + 10 - time.monotonic())


def test_class_count_ends_the_embedded_triton_and_it_comes_back(start):
    """gRPC has the same hole, and it is why the promise of the embedded Triton is loopback."""
    server = start().wait_ready()
    triton = psutil.Process(server.endpoints["triton_pid"])
    with InferenceServerClient(server.endpoints["grpc"]) as client:
        text = InferInput("x", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"zoetrope"], np.object_))
        with pytest.raises(InferenceServerException):
            client.infer("text", [text], outputs=[InferRequestedOutput("y", class_count=2)])
    triton.wait(10)
    wait_until(lambda: server.ready() and infer(server, [3.0]) == [3.0], 10)


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


def test_an_empty_variable_is_none(start):
    names = [f"ZOETROPE_{name.upper()}" for name in ServeSettings.model_fields]
    ports = {name for name in names if name.endswith("_PORT")}
    server = start(environment=dict.fromkeys([*names, "ZOETROPE_LOG_LEVEL"], "")).wait_ready()
    assert ports and server.endpoints["grpc"].startswith("127.0.0.1:") and server.endpoints["http"] is None


def test_a_terminal_that_closes_drains(start):
    server = start().wait_ready()
    with streaming() as stream:
        running = stream(server, 1.5)
        for _ in range(2):  # of the kernel and of the shell
            server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.probe("/readyz")[1]["status"] == "draining", 2)
        assert running.next(10) == ([1.5], None)
    assert server.end() == 0
    assert "did not exit in time" not in server.stderr()


def test_hangups_that_were_ignored_stay_so(start):
    server = start(prefix=("nohup",)).wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert infer(server, [1.0]) == [1.0]
    assert server.probe("/readyz") == (200, {"status": "ready"})


def limits(pid):
    return psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)


def test_open_files_are_raised_to_the_hard_limit(start):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = start(prefix=("prlimit", f"--nofile=256:{hard}")).wait_ready()
    assert limits(server.endpoints["triton_pid"]) == (hard, hard)


def test_a_flood_of_one_message_writes_a_few_lines(start):
    """Triton complains of each connection that it has no descriptor for, thousands of times a second."""
    server = start(*HTTP, prefix=("prlimit", "--nofile=200:200")).wait_ready()
    host, port = server.endpoints["http"].split(":")
    with contextlib.ExitStack() as held:
        for _ in range(250):
            held.enter_context(socket.create_connection((host, int(port)), timeout=5))
        wait_until(lambda: "Too many open files" in server.stderr())
        before = len(server.stderr())
        time.sleep(0.5)  # of some megabytes
        assert len(server.stderr()) - before < 10_000
