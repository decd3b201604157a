"""The command line and the environment of tritonserver, as plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoetrope_server.launcher.exposure import closed_categories
from zoetrope_server.launcher.installation import TritonInstallation, Version

_HTTP_BODY_BYTES = 64 << 20
_MAX_INPUT_SINCE: Version = (2, 59)
_CLIENT_SHM_SINCE: Version = (2, 68)
SECRET_HEADER = "zoetrope-admin"
"""Header of HTTP that carries the secret of the closed categories; gRPC's is `triton-grpc-protocol-…`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcTls:
    """TLS of the gRPC endpoint; the files are in PEM format.

    Attributes:
        certificate: the server's certificate and those that it rests on.
        key: its private key.
        client_ca: certificates that those of clients must rest on (mutual TLS); None asks clients for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpEndpoint:
    """Where Triton's HTTP listens: a numeric address and a real port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """How one tritonserver is to run; addresses are numeric and ports real ones here, never 0.

    Attributes:
        repository: the model repository, absolute.
        shm_prefix: what the names of the python backend's pages in /dev/shm begin with.
        secret: what callers of the closed categories must send; users of this machine can read it off the
            command line, so it holds against the network only.
        host: address that gRPC and the metrics listen on.
        grpc_port: KServe v2 over gRPC.
        http: KServe v2 over HTTP; None for none.
        metrics_port: Prometheus.
        open_statistics: whether statistics and model configurations are open beyond loopback too.
        exit_timeout_s: how long Triton waits for running requests once it is told to exit.
        model_load_threads: models that load at the same time.
        gpu_metrics: whether Triton reports GPUs; without one it logs errors that look worse than they are.
        log_verbose: Triton's verbose level; 0 is off.
        trace_url: where OpenTelemetry spans go, OTLP over HTTP; None traces nothing.
        trace_rate: one request in this many is traced.
        grpc_tls: TLS of the gRPC endpoint; None for plain text.
        pinned_pool_bytes: the pool of pinned memory; None for Triton's default.
        cuda_pool_bytes: the pool of memory of GPU 0; None for Triton's default.
        grpc_connection_age_ms: after so long a gRPC connection takes no new calls; None for no limit.
    """

    repository: Path
    shm_prefix: str
    secret: str = field(repr=False)
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http: HttpEndpoint | None = None
    metrics_port: int = 8002
    open_statistics: bool = False
    exit_timeout_s: int = 30
    model_load_threads: int = 4
    gpu_metrics: bool = True
    log_verbose: int = 0
    trace_url: str | None = None
    trace_rate: int = 1
    grpc_tls: GrpcTls | None = None
    pinned_pool_bytes: int | None = None
    cuda_pool_bytes: int | None = None
    grpc_connection_age_ms: int | None = None


def triton_command(
    installation: TritonInstallation, options: TritonOptions, backends: Path | None
) -> list[str]:
    """The argument list of tritonserver: nothing it does not need, models fixed, every mistake fatal."""
    flags: dict[str, object] = {
        "--model-repository": options.repository,
        "--model-control-mode": "none",
        "--strict-readiness": "true",
        "--exit-on-error": "true",
        "--exit-timeout-secs": options.exit_timeout_s,
        "--model-load-thread-count": options.model_load_threads,
        "--backend-config": f"python,shm-region-prefix-name={options.shm_prefix}",
        "--allow-sagemaker": "false",
        "--allow-vertex-ai": "false",
        "--allow-gpu-metrics": str(options.gpu_metrics).lower(),
        "--log-verbose": options.log_verbose,
        **_listening(options),
        **_http(installation.version, options),
        **_closed(options),
        **_encrypting(options.grpc_tls),
        **_pools(options),
    }
    if backends is not None:
        flags["--backend-directory"] = backends
    # No --grpc-max-response-pool-size: a full pool blocks whoever sends until its client reads, and the
    # orchestrator sends on its event loop.
    if installation.version >= _CLIENT_SHM_SINCE:
        flags["--allow-client-shm"] = "false"
    command = [f"{name}={value}" for name, value in flags.items()]
    return [str(installation.binary), "--disable-auto-complete-config", *command, *_tracing(options)]


def triton_environment(
    installation: TritonInstallation,
    python: Path,
    base: Mapping[str, str],
    extra: Mapping[str, str],
) -> dict[str, str]:
    """The environment of tritonserver and, through it, of the stub processes.

    Args:
        installation: adds its library folders in front of LD_LIBRARY_PATH.
        python: the interpreter whose environment the stubs take. They look for `python3` on PATH and ignore
            PYTHONPATH, so its folder goes first; a link into a virtual environment must not be resolved.
        base: usually `os.environ`.
        extra: variables for the models, such as ZOETROPE_CONTROL_SOCKET.
    """
    environment = {**base, **extra}
    environment["PATH"] = _joined([python.parent], base.get("PATH", os.defpath))
    if installation.library_dirs:
        present = base.get("LD_LIBRARY_PATH", "")
        environment["LD_LIBRARY_PATH"] = _joined(installation.library_dirs, present)
    return environment


def _tracing(options: TritonOptions) -> list[str]:
    """Triton's own tracing; the flag is given once for each of its settings."""
    if options.trace_url is None:
        return []
    settings = (
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"rate={options.trace_rate}",
        f"opentelemetry,url={options.trace_url}",
        "opentelemetry,resource=service.name=zoetrope",
    )
    return [f"--trace-config={setting}" for setting in settings]


def _pools(options: TritonOptions) -> dict[str, object]:
    pinned, cuda = options.pinned_pool_bytes, options.cuda_pool_bytes
    return ({} if pinned is None else {"--pinned-memory-pool-byte-size": pinned}) | (
        {} if cuda is None else {"--cuda-memory-pool-byte-size": f"0:{cuda}"}
    )


def _connections(options: TritonOptions) -> dict[str, object]:
    """How long gRPC connections live; the streams of an aged one are not cut."""
    age = options.grpc_connection_age_ms
    return {} if age is None else {"--grpc-max-connection-age": age}


def _listening(options: TritonOptions) -> dict[str, object]:
    grpc = f"[{options.host}]" if ":" in options.host else options.host
    return _connections(options) | {
        "--grpc-address": grpc,
        "--grpc-port": options.grpc_port,
        "--metrics-address": _libevent(options.host),
        "--metrics-port": options.metrics_port,
    }


def _http(version: Version, options: TritonOptions) -> dict[str, object]:
    """Off unless asked for; its bodies are bounded where the release can."""
    if options.http is None:
        return {"--allow-http": "false"}
    flags: dict[str, object] = {
        "--http-address": _libevent(options.http.host),
        "--http-port": options.http.port,
        "--http-restricted-api": f"{_categories(options.http.host, options)}:{_key(options)}",
    }
    return flags | ({"--http-max-input-size": _HTTP_BODY_BYTES} if version >= _MAX_INPUT_SINCE else {})


def _closed(options: TritonOptions) -> dict[str, object]:
    categories = _categories(options.host, options)
    return {"--grpc-restricted-protocol": f"{categories}:{_key(options)}"}


def _categories(host: str, options: TritonOptions) -> str:
    return ",".join(closed_categories(host, open_statistics=options.open_statistics))


def _key(options: TritonOptions) -> str:
    return f"{SECRET_HEADER}={options.secret}"


def _libevent(host: str) -> str:
    """An address as Triton's HTTP servers take it."""
    return f"ipv6:{host}" if ":" in host else host


def _encrypting(tls: GrpcTls | None) -> dict[str, object]:
    """Triton has TLS for gRPC alone, so HTTP is off beside it."""
    if tls is None:
        return {}
    own = {
        "--grpc-use-ssl": "true",
        "--grpc-server-cert": tls.certificate,
        "--grpc-server-key": tls.key,
    }
    clients = {"--grpc-use-ssl-mutual": "true", "--grpc-root-cert": tls.client_ca}
    return own if tls.client_ca is None else own | clients


def _joined(first: Sequence[Path], rest: str) -> str:
    return os.pathsep.join([*map(str, first), *([rest] if rest else [])])
