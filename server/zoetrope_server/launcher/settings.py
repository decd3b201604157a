"""The settings of `zoetrope serve`: flags before environment variables (`ZOETROPE_…`) before defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FilePath, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.flags import GrpcTls

Port = Annotated[int, Field(ge=0, le=65535)]


class ServeSettings(BaseSettings):
    """How the supervisor runs Triton.

    Attributes:
        host: address all servers listen on; loopback unless something in front protects them.
        grpc_port: KServe v2 over gRPC; 0 picks a free port, as for the other ports.
        http_port: KServe v2 over HTTP.
        metrics_port: Prometheus.
        health_port: `/livez` and `/readyz`.
        grace_period_s: how long running requests may take to end after a signal.
        start_timeout_s: how long the models may take to load.
        restart: start Triton again after a process died, instead of ending.
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

    model_config = SettingsConfigDict(env_prefix="ZOETROPE_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    grpc_port: Port = 8001
    http_port: Port = 8000
    metrics_port: Port = 8002
    health_port: Port = 8003
    grace_period_s: float = Field(default=60.0, ge=0, le=86_400)
    start_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    restart: bool = False
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
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            wrong = "; ".join(
                _describe(entry["loc"], entry["input"], entry["msg"]) for entry in error.errors()
            )
            raise LaunchError(f"wrong settings: {wrong}") from error

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
        return {
            "grpc": self.grpc_port,
            "http": self.http_port,
            "metrics": self.metrics_port,
            "health": self.health_port,
        }

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
