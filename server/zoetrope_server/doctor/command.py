"""`zoetrope doctor`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zoetrope_server.doctor import report
from zoetrope_server.doctor.examination import examine
from zoetrope_server.doctor.findings import errors


def doctor(
    repository: Annotated[
        Path | None, typer.Argument(help="Model repository to check too, as `zoetrope export` writes it.")
    ] = None,
    *,
    host: Annotated[
        str | None, typer.Option(help="Address or host name to listen on (default 127.0.0.1).")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(help="0 for any (default 8001).")] = None,
    triton_http: Annotated[
        bool | None,
        typer.Option("--triton-http/--no-triton-http", help="Triton's HTTP, in plain text (default off)."),
    ] = None,
    http_host: Annotated[
        str | None, typer.Option(help="Address of --triton-http (default 127.0.0.1).")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of --triton-http; 0 for any (default 8000).")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="0 for any (default 8002).")] = None,
    health_port: Annotated[int | None, typer.Option(help="0 for any (default 8003).")] = None,
    expose_vulnerable_triton: Annotated[
        bool | None,
        typer.Option(
            "--expose-vulnerable-triton",
            help="Listen beyond loopback with a Triton that a single request can end.",
        ),
    ] = None,
    max_active: Annotated[int | None, typer.Option(help="Requests that run at the same time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON list.")] = False,
    only_errors: Annotated[
        bool, typer.Option("--errors", help="Print the errors and the verdict alone, a line each.")
    ] = False,
) -> None:
    """Say what this machine can run, and what to do about what it cannot.

    The options are those of `zoetrope serve`, and the environment counts as it does there. Exit code 1 when
    something prevents serving; warnings and engines that are not there do not.
    """
    own = ("repository", "as_json", "only_errors")
    flags = {name: value for name, value in locals().items() if name not in own}
    # What the launcher would log is among the findings.
    logging.getLogger("zoetrope_server").setLevel(logging.CRITICAL)
    findings = examine(flags, repository)
    subject = "an exported repository" if repository is None else str(repository)
    if as_json:
        typer.echo(report.to_json(findings))
    elif only_errors:
        typer.echo(report.plain(findings, subject))
    else:
        report.show(findings, subject, Console())
    raise typer.Exit(1 if errors(findings) else 0)
