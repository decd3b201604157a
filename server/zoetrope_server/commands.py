"""The server's subcommands of `zoetrope`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from zoetrope_server.launcher import Endpoints, ExitCode, LaunchError, ServeSettings, Supervisor

_LEVELS = ("debug", "info", "warning", "error")


def serve(
    repository: Annotated[Path, typer.Argument(help="Model repository, as `zoetrope export` writes it.")],
    *,
    host: Annotated[
        str | None, typer.Option(help="Address or host name to listen on (default 127.0.0.1).")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 picks a free one (default 8001).")] = None,
    triton_http: Annotated[
        bool | None,
        typer.Option("--triton-http/--no-triton-http", help="Triton's HTTP, in plain text (default off)."),
    ] = None,
    http_host: Annotated[
        str | None, typer.Option(help="Address of --triton-http (default 127.0.0.1).")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of --triton-http; 0 picks a free one (default 8000).")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 picks a free one (default 8002).")] = None,
    health_port: Annotated[
        int | None, typer.Option(help="For /livez and /readyz; 0 picks a free one (default 8003).")
    ] = None,
    open_statistics: Annotated[
        bool | None,
        typer.Option(
            "--open-statistics", help="Statistics and model configuration for clients elsewhere too."
        ),
    ] = None,
    expose_vulnerable_triton: Annotated[
        bool | None,
        typer.Option(
            "--expose-vulnerable-triton",
            help="Listen beyond loopback with a Triton that a single request can end.",
        ),
    ] = None,
    grace_period_s: Annotated[
        float | None, typer.Option(help="Seconds that running requests get after a signal (default 60).")
    ] = None,
    start_timeout_s: Annotated[
        float | None, typer.Option(help="Seconds that the models may take to load (default 600).")
    ] = None,
    stall_timeout_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds without a turn of the orchestrator's loop until /livez fails (default 30)."
        ),
    ] = None,
    restart: Annotated[
        bool | None,
        typer.Option(
            "--restart/--no-restart",
            help="Start Triton again after a crash (default: the embedded one).",
        ),
    ] = None,
    max_active: Annotated[int | None, typer.Option(help="Requests that run at the same time.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Requests that wait; more are refused.")] = None,
    model_load_threads: Annotated[
        int | None, typer.Option(help="Models that load at the same time (default 4).")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="File for Triton's log (default stderr).")] = None,
    log_verbose: Annotated[int | None, typer.Option(help="Triton's verbose level (default 0).")] = None,
    trace_url: Annotated[
        str | None,
        typer.Option(help="OpenTelemetry collector for spans, such as http://HOST:4318/v1/traces."),
    ] = None,
    trace_rate: Annotated[
        int | None, typer.Option(help="Trace one request in this many (default 1).")
    ] = None,
    grpc_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM): gRPC takes TLS alone.")
    ] = None,
    grpc_key: Annotated[Path | None, typer.Option(help="Private key (PEM) of --grpc-cert.")] = None,
    grpc_client_ca: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) that those of gRPC clients must rest on.")
    ] = None,
    pinned_pool_bytes: Annotated[
        int | None, typer.Option(help="Triton's pool of pinned memory; see `zoetrope size`.")
    ] = None,
    cuda_pool_bytes: Annotated[
        int | None, typer.Option(help="Triton's pool of GPU memory; see `zoetrope size`.")
    ] = None,
    grpc_connection_age_s: Annotated[
        float | None,
        typer.Option(help="Seconds until a gRPC connection takes no new calls."),
    ] = None,
    log_level: Annotated[
        str, typer.Option(envvar="ZOETROPE_LOG_LEVEL", help=f"Level of our own log: {', '.join(_LEVELS)}.")
    ] = "info",
) -> None:
    """Serve a model repository with Triton until a signal.

    Once ready, the first line of standard output is JSON with the addresses; everything else goes to standard
    error. Each option can also come from the environment (ZOETROPE_GRPC_PORT and so on; an empty one is not
    given). The first SIGTERM or SIGINT drains, the second ends at once. SIGHUP (the terminal closes) drains.
    """
    flags = {name: value for name, value in locals().items() if name not in ("repository", "log_level")}
    if log_level not in _LEVELS:
        raise typer.BadParameter(f"one of {', '.join(_LEVELS)}", param_hint="--log-level")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise typer.Exit(_serve(repository, flags))


def _serve(repository: Path, flags: dict[str, object]) -> int:
    try:
        supervisor = Supervisor(ServeSettings.merged(**flags), repository, _announce)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.request_stop())
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, lambda *_: supervisor.request_drain())
        return supervisor.run()
    except LaunchError as error:
        typer.echo(f"zoetrope serve: {error}", err=True)
        return ExitCode.LAUNCH_FAILED


def _announce(endpoints: Endpoints) -> None:
    typer.echo(endpoints.to_json())
