"""The settings of `zoetrope serve`: flags before environment variables (`ZOETROPE_…`) before defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FilePath, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.flags import GrpcTls
from zoetrope_server.launcher.ports import resolve

Port = Annotated[int, Field(ge=0, le=65535)]


class ServeSettings(BaseSettings):
    """How the supervisor runs Triton.

    Attributes:
        host: address all servers but HTTP listen on, or its name; loopback unless something in front protects
            them.
        grpc_port: KServe v2 over gRPC; 0 picks a free port, as for the other ports.
        triton_http: whether Triton's HTTP endpoint is on: KServe v2 over HTTP, in plain text.
        http_host: its address.
        http_port: its port, 8000 without one; given alone it turns the endpoint on for one more release.
        metrics_port: Prometheus.
        health_port: `/livez` and `/readyz`.
        open_statistics: leave statistics and model configurations open beyond loopback too.
        expose_vulnerable_triton: let a Triton that one request can end listen beyond loopback.
        grace_period_s: how long running requests may take to end after a signal.
        start_timeout_s: how long the models may take to load.
        stall_timeout_s: `/livez` fails once the orchestrator's event loop has not run for so long.
        restart: start Triton again after a process died, instead of ending; by default the embedded one alone
            is, since a container is restarted by who runs it.
        max_active: requests that run at the same time; the orchestrator's default without one.
        max_waiting: requests that wait; the orchestrator's default without one.
        model_load_threads: models that load at the same time.
        log_file: file for Triton's log; standard error without one.
        log_verbose: Triton's verbose level.
        trace_url: where OpenTelemetry spans go (OTLP over HTTP); no tracing without one.
        trace_rate: one request in this many is traced.
        grpc_cert: certificate chain (PEM) of the gRPC endpoint, which then takes TLS alone; HTTP stays plain.
        grpc_key: private key (PEM) of `grpc_cert`.
        grpc_client_ca: certificates (PEM) that those of gRPC clients must rest on: mutual TLS.
        pinned_pool_bytes: Triton's pool of pinned memory; Triton's own default without one, as for the next.
        cuda_pool_bytes: Triton's pool of memory of the first GPU.
        grpc_connection_age_s: after so long a connection takes no new calls, and its streams go on: clients
            that balance over several servers connect again and find those that are new. No limit without one.
    """

    model_config = SettingsConfigDict(
        env_prefix="ZOETROPE_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = "127.0.0.1"
    grpc_port: Port = 8001
    triton_http: bool | None = None
    http_host: str | None = None
    http_port: Port | None = None
    metrics_port: Port = 8002
    health_port: Port = 8003
    open_statistics: bool = False
    expose_vulnerable_triton: bool = False
    grace_period_s: float = Field(default=60.0, ge=0, le=86_400)
    start_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    stall_timeout_s: float = Field(default=30.0, gt=0, le=86_400)
    restart: bool | None = None
    max_active: int | None = Field(default=None, ge=1)
    max_waiting: int | None = Field(default=None, ge=0)
    model_load_threads: int = Field(default=4, ge=1, le=64)
    log_file: Path | None = None
    log_verbose: int = Field(default=0, ge=0)
    trace_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    trace_rate: int = Field(default=1, ge=1)
    grpc_cert: FilePath | None = None
    grpc_key: FilePath | None = None
    grpc_client_ca: FilePath | None = None
    pinned_pool_bytes: int | None = Field(default=None, ge=0)
    cuda_pool_bytes: int | None = Field(default=None, ge=0)
    grpc_connection_age_s: float | None = Field(default=None, ge=1, le=86_400)

    @classmethod
    def merged(cls, **flags: Any) -> ServeSettings:
        """The settings with these flags; a flag that is None was not given.

        Raises:
            LaunchError: a value is wrong; the message names each.
        """
        try:
            merged = cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            wrong = "; ".join(
                _describe(entry["loc"], entry["input"], entry["msg"]) for entry in error.errors()
            )
            raise LaunchError(f"wrong settings: {wrong}") from error
        merged.check_together()
        return merged

    def check_together(self) -> None:
        """Refuses settings that exclude each other.

        Raises:
            LaunchError: only a part of TLS is given, or HTTP would serve in plain text what TLS protects.
        """
        if self.grpc_tls() is not None and self.triton_http:
            raise LaunchError(
                "--triton-http would serve in plain text what --grpc-cert protects: leave one of them out, "
                "or put a proxy with TLS in front"
            )
        if self.http_host is not None and not self.serves_http:
            raise LaunchError("--http-host (ZOETROPE_HTTP_HOST) is for --triton-http: give both")

    @property
    def serves_http(self) -> bool:
        """Whether Triton's HTTP endpoint is on."""
        if self.triton_http is None:
            return self.http_port is not None and self.grpc_tls() is None
        return self.triton_http

    def deprecations(self) -> list[str]:
        """What is given in a way that the next release does not know any more."""
        if self.triton_http is not None or self.http_port is None:
            return []
        if self.serves_http:
            return ["--http-port alone turns HTTP on for this release only: add --triton-http"]
        return ["--http-port is ignored: beside TLS nothing is served in plain text"]

    def grpc_tls(self) -> GrpcTls | None:
        """The TLS of the gRPC endpoint; None for plain text.

        Raises:
            LaunchError: only a part of it is given.
        """
        if self.grpc_cert is None and self.grpc_key is None and self.grpc_client_ca is None:
            return None
        if self.grpc_cert is None or self.grpc_key is None:
            raise LaunchError("wrong settings: --grpc-cert and --grpc-key go together")
        # Links are kept: a renewed secret of Kubernetes is a new folder behind the same link.
        clients = None if self.grpc_client_ca is None else self.grpc_client_ca.absolute()
        return GrpcTls(certificate=self.grpc_cert.absolute(), key=self.grpc_key.absolute(), client_ca=clients)

    def ports(self) -> dict[str, int]:
        """The wanted ports by name."""
        http = {"http": 8000 if self.http_port is None else self.http_port} if self.serves_http else {}
        return {"grpc": self.grpc_port, **http, "metrics": self.metrics_port, "health": self.health_port}

    def hosts(self) -> dict[str, str]:
        """The numeric addresses by name of the port.

        Raises:
            LaunchError: one of them is none.
        """
        host = resolve(self.host, "--host (ZOETROPE_HOST)")
        http = resolve("127.0.0.1" if self.http_host is None else self.http_host, "--http-host")
        return {name: http if name == "http" else host for name in self.ports()}

    def orchestrator_environment(self) -> dict[str, str]:
        """The variables that hand the orchestrator's limits to it."""
        limits = {
            "ZOETROPE_MAX_ACTIVE": self.max_active,
            "ZOETROPE_MAX_WAITING": self.max_waiting,
            "ZOETROPE_START_TIMEOUT_S": self.start_timeout_s,
        }
        return {name: str(value) for name, value in limits.items() if value is not None}


def _describe(location: tuple[int | str, ...], value: Any, message: str) -> str:
    name = "_".join(map(str, location))
    text = f"--{name.replace('_', '-')} (ZOETROPE_{name.upper()}) = {value!r}: {message}"
    if str(value).startswith("tcp://"):
        # A Service called `zoetrope-grpc` makes Kubernetes set ZOETROPE_GRPC_PORT in every pod.
        text += " (a Kubernetes service link: set enableServiceLinks: false in the pod)"
    return text
