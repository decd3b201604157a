"""The client's subcommands of `zoetrope`."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from zoetrope_client.blocks import can_show
from zoetrope_client.client import Client
from zoetrope_client.info import table
from zoetrope_client.jobs import TERMINAL, UsageError, plan
from zoetrope_client.options import (
    CertificateFile,
    HeaderLines,
    KeyFile,
    RootFile,
    Url,
    WithTls,
    headers_of,
    tls_of,
    with_request_options,
)
from zoetrope_client.progress import Board
from zoetrope_client.retry import USUAL, Retry
from zoetrope_client.runs import (
    FAILED,
    INTERRUPTED,
    OK,
    UNAVAILABLE,
    Outcome,
    combined,
    exit_code_of,
    run_all,
)
from zoetrope_core.errors import ZoetropeError


@with_request_options
def generate(
    *,
    images: Annotated[
        list[str],
        typer.Argument(help="pictures (JPEG, PNG or WebP): files, 'patterns/*.jpg', - for standard input"),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="the video; for several pictures a folder or 'NAME-{name}-{index}.mp4'"
        ),
    ],
    url: Url = "127.0.0.1:8001",
    tls: WithTls = False,
    ca: RootFile = None,
    cert: CertificateFile = None,
    key: KeyFile = None,
    header: HeaderLines = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="pictures at the same time", min=1, max=256)] = 4,
    preview: Annotated[
        str | None,
        typer.Option(
            help="keep the newest preview (animated WebP) here, named as for --output, or - to show it in "
            "the terminal; one a step without --preview-every",
        ),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="give each picture up after so many seconds", min=0.0)
    ] = None,
    patience: Annotated[
        float, typer.Option(help="wait for so many seconds where the server is too busy", min=0.0)
    ] = 0.0,
    attempts: Annotated[
        int, typer.Option(help="how often to try where no server answers", min=1, max=1000)
    ] = USUAL.attempts,
    json_line: Annotated[
        bool,
        typer.Option(
            "--json",
            help="print one JSON line a picture: image, output, seed, sizes, timings, parameters, warnings, "
            "or the error",
        ),
    ] = False,
    **fields: Any,
) -> None:
    """Generates a video from each picture.

    Ctrl-C cancels the requests on the server. A file appears whole or not at all. Its name decides the
    format unless --format does: .mp4, .webm, .webp, .gif, .zip (PNG), .jpeg.zip, .raw. One picture that
    fails does not end the others.

    Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 refused or no server there,
    4 invalid request or image, 130 interrupted. Several pictures that fail for different reasons: 1.
    """
    connection = {
        "url": url,
        "credentials": tls_of(tls, ca, cert, key),
        "headers": headers_of(header),
        "retry": Retry(attempts=attempts),
    }
    call = {name: value for name, value in fields.items() if value is not None}
    console = Console(stderr=True)
    shown = preview == TERMINAL and _may_show(console)
    kept = None if preview == TERMINAL else preview
    if shown or kept is not None:
        call = {"preview_every": 1, **call}
    try:
        planned = plan(images, output, kept, call.get("format"))
        report = _report_json if json_line else _report
        call |= {"deadline_s": deadline, "patience_s": patience}
        with Board(console, previews=shown) as board:
            codes = asyncio.run(
                run_all(
                    planned, connection=connection, call=call, side_by_side=jobs, board=board, report=report
                )
            )
    except UsageError as error:
        raise typer.BadParameter(str(error), param_hint=error.option) from None
    except KeyboardInterrupt:
        _fail("interrupted, what was asked for is cancelled", INTERRUPTED)
    except OSError as error:
        _fail(str(error), FAILED)
    if code := combined(codes):
        raise typer.Exit(code)


def info(
    *,
    url: Url = "127.0.0.1:8001",
    tls: WithTls = False,
    ca: RootFile = None,
    cert: CertificateFile = None,
    key: KeyFile = None,
    header: HeaderLines = None,
    json_line: Annotated[
        bool, typer.Option("--json", help="print one JSON line: url, ready, metadata")
    ] = False,
) -> None:
    """Says what a server can do, and whether it is ready.

    Exit codes: 0 ready, 1 failed, 2 wrong usage, 3 not ready or no server there.
    """
    try:
        with Client(url, credentials=tls_of(tls, ca, cert, key), headers=headers_of(header)) as client:
            metadata, ready = client.metadata(), client.health()
    except ZoetropeError as error:
        _fail(_flat(error.message), exit_code_of(error), command="info")
    except OSError as error:
        _fail(str(error), FAILED, command="info")
    if json_line:
        typer.echo(json.dumps({"url": url, "ready": ready, "metadata": metadata.to_dict()}))
    else:
        Console().print(table(url, ready, metadata))
    raise typer.Exit(OK if ready else UNAVAILABLE)


def _may_show(console: Console) -> bool:
    if can_show(console):
        return True
    _say("no previews: they need a terminal with colours")
    return False


def _report(outcome: Outcome) -> None:
    _report_problems(outcome)
    if outcome.video is not None:
        typer.echo(_printable(f"{outcome.job.output}: seed {outcome.video.seed}"))


def _report_json(outcome: Outcome) -> None:
    _report_problems(outcome)
    typer.echo(outcome.to_json())


def _report_problems(outcome: Outcome) -> None:
    for warning in outcome.video.warnings if outcome.video else ():
        _say(f"{outcome.job.name}: warning: {_flat(warning.message)}")
    if outcome.error is not None:
        _say(f"{outcome.job.name}: {_one_line(outcome.error)}")


def _one_line(error: ZoetropeError | OSError) -> str:
    if isinstance(error, OSError):
        return str(error)
    retry = error.details.get("retry_after_s")
    return _flat(error.message) + ("" if retry is None else f" (try again in {_flat(str(retry))} s)")


def _flat(text: str) -> str:
    """A server's words on one line, without what would move a terminal's cursor."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _printable(text: str) -> str:
    """The text with the bytes of file names that are no UTF-8 written out: no stream could encode them."""
    return os.fsencode(text).decode(errors="backslashreplace")


def _say(message: str, command: str = "generate") -> None:
    typer.echo(_printable(f"zoetrope {command}: {message}"), err=True)


def _fail(message: str, code: int, command: str = "generate") -> NoReturn:
    _say(message, command)
    raise typer.Exit(code)
