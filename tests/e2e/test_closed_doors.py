"""What `zoetrope serve` keeps closed to strangers, over the real embedded Triton."""

import json
import stat
from pathlib import Path

import psutil
import pytest
from supervised import ask, call, infer, starting, write_models
from tritonclient.grpc import service_pb2

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
    return write_models(tmp_path_factory.mktemp("doors") / "models")


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """A server with HTTP, which the tests leave as it is."""
    with starting(tmp_path_factory.mktemp("served"), models) as start:
        yield start(*HTTP).wait_ready()


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
