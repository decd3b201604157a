"""tritonserver's command line and environment."""

from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope_server.launcher.flags import (
    GrpcTls,
    HttpEndpoint,
    TritonOptions,
    triton_command,
    triton_environment,
)
from zoetrope_server.launcher.installation import TritonInstallation

INSTALLATION = TritonInstallation(
    binary=Path("/opt/bin/tritonserver"),
    backend_source=None,
    library_dirs=(Path("/python/lib"), Path("/wheel.libs")),
    version=(2, 51),
    embedded=True,
)
OPTIONS = TritonOptions(
    repository=Path("/models"), shm_prefix="zoetrope-1-", secret="s3cret", grpc_port=1, metrics_port=3
)
CLOSED = "shared-memory,model-repository,trace,logging"


def flags(installation=INSTALLATION, options=OPTIONS, backends=None):
    command = triton_command(installation, options, backends)
    return dict(argument.partition("=")[::2] for argument in command[1:])


def test_the_command_is_closed_by_default():
    found = flags()
    assert triton_command(INSTALLATION, OPTIONS, None)[0] == "/opt/bin/tritonserver"
    expected = {
        "--model-repository": "/models",
        "--model-control-mode": "none",
        "--disable-auto-complete-config": "",
        "--exit-on-error": "true",
        "--exit-timeout-secs": "30",
        "--backend-config": "python,shm-region-prefix-name=zoetrope-1-",
        "--grpc-address": "127.0.0.1",
        "--allow-http": "false",
        "--metrics-address": "127.0.0.1",
        "--grpc-port": "1",
        "--grpc-restricted-protocol": f"{CLOSED}:zoetrope-admin=s3cret",
        "--metrics-port": "3",
        "--allow-sagemaker": "false",
        "--allow-vertex-ai": "false",
        "--allow-gpu-metrics": "true",
    }
    assert found.items() >= expected.items()
    assert not [name for name in found if name.startswith("--http")]
    assert "s3cret" not in repr(OPTIONS)


def test_options_reach_the_command():
    options = replace(OPTIONS, host="0.0.0.0", exit_timeout_s=7, model_load_threads=2, gpu_metrics=False)
    found = flags(options=options, backends=Path("/cache/backends"))
    assert {found[f"--{name}-address"] for name in ("grpc", "metrics")} == {"0.0.0.0"}
    assert found["--exit-timeout-secs"] == "7"
    assert found["--model-load-thread-count"] == "2"
    assert found["--allow-gpu-metrics"] == "false"
    assert found["--backend-directory"] == "/cache/backends"


def test_no_backend_directory_leaves_the_default():
    assert "--backend-directory" not in flags()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_http_is_closed_like_grpc_where_it_is_on(host):
    found = flags(options=replace(OPTIONS, http=HttpEndpoint(host=host, port=2)))
    assert "--allow-http" not in found
    assert found["--http-address"] == (f"ipv6:{host}" if ":" in host else host)
    assert found["--http-port"] == "2"
    assert found["--http-restricted-api"] == f"{CLOSED}:zoetrope-admin=s3cret"


@pytest.mark.parametrize(
    ("host", "opened", "more"),
    [
        ("127.0.0.1", False, ""),
        ("::1", False, ""),
        ("0.0.0.0", False, ",statistics,model-config"),
        ("10.0.0.3", False, ",statistics,model-config"),
        ("::", False, ",statistics,model-config"),
        ("10.0.0.3", True, ""),
    ],
)
def test_statistics_are_closed_beyond_loopback(host, opened, more):
    options = replace(OPTIONS, host=host, http=HttpEndpoint(host="127.0.0.1", port=2), open_statistics=opened)
    found = flags(options=options)
    assert found["--grpc-restricted-protocol"] == f"{CLOSED}{more}:zoetrope-admin=s3cret"
    assert found["--http-restricted-api"] == f"{CLOSED}:zoetrope-admin=s3cret", "each by its own address"


def test_ipv6_is_written_as_each_server_takes_it():
    found = flags(options=replace(OPTIONS, host="::1"))
    assert (found["--grpc-address"], found["--metrics-address"]) == ("[::1]", "ipv6:::1")


@pytest.mark.parametrize(
    ("version", "body_limit", "client_shm"),
    [
        ((2, 51), None, None),
        ((2, 58), None, None),
        ((2, 59), "67108864", None),
        ((2, 67), "67108864", None),
        ((2, 68), "67108864", "false"),
        ((3, 0), "67108864", "false"),
    ],
)
def test_newer_flags_depend_on_the_version(version, body_limit, client_shm):
    options = replace(OPTIONS, http=HttpEndpoint(host="127.0.0.1", port=2))
    found = flags(replace(INSTALLATION, version=version), options)
    assert found.get("--http-max-input-size") == body_limit
    assert found.get("--allow-client-shm") == client_shm
    assert "--http-max-input-size" not in flags(replace(INSTALLATION, version=version))


@pytest.mark.parametrize("version", [(2, 51), (2, 57), (2, 74)])
def test_no_response_pool_can_block_the_orchestrator(version):
    assert "--grpc-max-response-pool-size" not in flags(replace(INSTALLATION, version=version))


def test_the_virtual_environment_comes_first():
    base = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/cuda", "HOME": "/home/me", "PYTHONPATH": "/mine"}
    extra = {"ZOETROPE_CONTROL_SOCKET": "/run/x"}
    assert triton_environment(INSTALLATION, Path("/venv/bin/python"), base, extra) == {
        "PATH": "/venv/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/python/lib:/wheel.libs:/cuda",
        "HOME": "/home/me",
        "PYTHONPATH": "/mine",
        "ZOETROPE_CONTROL_SOCKET": "/run/x",
    }


def test_an_empty_library_path_adds_no_current_folder():
    environment = triton_environment(INSTALLATION, Path("/venv/bin/python"), {"LD_LIBRARY_PATH": ""}, {})
    assert environment["LD_LIBRARY_PATH"] == "/python/lib:/wheel.libs"


def test_a_system_triton_needs_no_library_path():
    system = replace(INSTALLATION, library_dirs=(), embedded=False)
    assert "LD_LIBRARY_PATH" not in triton_environment(system, Path("/venv/bin/python"), {"PATH": "/bin"}, {})


def test_tls_is_grpcs_alone_and_mutual_where_clients_are_checked():
    own = GrpcTls(certificate=Path("/tls/server.pem"), key=Path("/tls/server.key"))
    plain, one_way = flags(), flags(options=replace(OPTIONS, grpc_tls=own))
    assert not [name for name in plain if "ssl" in name or "cert" in name]
    added = {name: value for name, value in one_way.items() if name not in plain}
    assert added == {
        "--grpc-use-ssl": "true",
        "--grpc-server-cert": "/tls/server.pem",
        "--grpc-server-key": "/tls/server.key",
    }
    mutual = flags(options=replace(OPTIONS, grpc_tls=replace(own, client_ca=Path("/tls/ca.pem"))))
    assert mutual.items() - one_way.items() == {
        ("--grpc-use-ssl-mutual", "true"),
        ("--grpc-root-cert", "/tls/ca.pem"),
    }


def test_pools_and_connections_are_left_to_triton_unless_given():
    names = ("pinned-memory", "cuda-memory", "connection-age")
    assert not [flag for flag in flags() for name in names if name in flag]
    given = replace(
        OPTIONS,
        pinned_pool_bytes=0,
        cuda_pool_bytes=1 << 20,
        grpc_connection_age_ms=1500,
    )
    assert (
        flags(options=given).items()
        >= {
            "--pinned-memory-pool-byte-size": "0",
            "--cuda-memory-pool-byte-size": "0:1048576",
            "--grpc-max-connection-age": "1500",
        }.items()
    )
