"""The client's subcommands of `zoetrope`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from zoetrope_client.client import Client
from zoetrope_client.progress import watch
from zoetrope_client.video import Video, collect, write_whole
from zoetrope_core.contract import Response
from zoetrope_core.errors import ZoetropeError
from zoetrope_core.formats import format_of
from zoetrope_core.request import GenerateRequest, Rule, field_rules

FAILED, UNAVAILABLE, INVALID, INTERRUPTED = 1, 3, 4, 130
_EXIT_CODES = {"UNAVAILABLE": UNAVAILABLE, "INVALID_ARGUMENT": INVALID}
_DEFAULTS = {entry.name: entry.default for entry in dataclass_fields(GenerateRequest)}


def _with_request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives the command an option for each field of GenerateRequest, in place of its `**fields`."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    # Flags only ask for more in the stream (decoded frames), and a file holds the video alone.
    wanted = {name: rule for name, rule in field_rules().items() if rule.type is not bool}
    del wanted["deadline_s"]  # that is --deadline
    options = [_option(name, rule) for name, rule in wanted.items()]
    signature = inspect.Signature([*own, *options])
    vars(command)["__signature__"] = signature
    command.__annotations__ = {name: entry.annotation for name, entry in signature.parameters.items()}
    return command


def _option(name: str, rule: Rule) -> inspect.Parameter:
    default = _DEFAULTS[name]
    text = f"{rule.doc}: {rule.allowed}" + ("" if default is None else f"; default {default}")
    array = rule.type is tuple
    option = typer.Option(
        "--" + name.replace("_", "-"),
        help=text,
        show_default=False,
        rich_help_panel="Request",
        parser=_numbers if array else None,
        metavar="X,Y,..." if array else None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[(_Numbers if array else rule.type) | None, option],
    )


class _Numbers(tuple[float, ...]):
    """An array on the command line."""


def _numbers(text: str) -> _Numbers:
    """`700,54.5` as numbers; ValueError is a usage error to typer."""
    return _Numbers(float(part) for part in text.split(","))


@_with_request_options
def generate(
    *,
    image: Annotated[
        Path,
        typer.Argument(help="the picture (JPEG, PNG or WebP)", exists=True, dir_okay=False, readable=True),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="the video to write", dir_okay=False)],
    url: Annotated[
        str, typer.Option(help="HOST:PORT of the server's gRPC endpoint", envvar="ZOETROPE_URL")
    ] = "127.0.0.1:8001",
    preview: Annotated[
        Path | None,
        typer.Option(
            help="keep the newest preview (animated WebP) here; one a step without --preview-every",
            dir_okay=False,
        ),
    ] = None,
    deadline: Annotated[float | None, typer.Option(help="give up after so many seconds", min=0.0)] = None,
    json_line: Annotated[
        bool,
        typer.Option(
            "--json", help="print one JSON line: output, seed, sizes, timings, parameters, warnings"
        ),
    ] = False,
    **fields: Any,
) -> None:
    """Generates a video from a picture.

    Ctrl-C cancels the request on the server. The file appears whole or not at all. Its name decides the
    format unless --format does: .mp4, .webm, .webp, .gif, .zip (PNG), .jpeg.zip, .raw.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused or no server there,
    4 invalid request or image, 130 interrupted.
    """
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    given = {name: value for name, value in fields.items() if value is not None}
    given = {**_named_format(output), **given}
    if preview is not None:
        given = {"preview_every": 1, **given}
    try:
        video = _generate(image, url, deadline, given, preview)
        video.save(output)
    except KeyboardInterrupt:
        _fail("interrupted, the request is cancelled", INTERRUPTED)
    except ZoetropeError as error:
        _fail(_one_line(error), _EXIT_CODES.get(error.status, FAILED))
    except OSError as error:
        _fail(str(error), FAILED)
    for warning in video.warnings:
        typer.echo(f"zoetrope generate: warning: {_flat(warning.message)}", err=True)
    typer.echo(json.dumps(_summary(video, output)) if json_line else f"{output}: seed {video.seed}")


def _named_format(output: Path) -> dict[str, str]:
    """The format that the file's name asks for; none where it says nothing."""
    found = format_of(output)
    return {} if found is None else {"format": found}


def _generate(
    image: Path, url: str, deadline: float | None, fields: dict[str, Any], preview: Path | None
) -> Video:
    with Client(url) as client:
        responses = client.stream(image, deadline_s=deadline, **fields)
        with closing(watch(responses, Console(stderr=True))) as watched:
            return collect(_keeping(preview, watched))


def _keeping(preview: Path | None, responses: Iterable[Response]) -> Iterator[Response]:
    """Passes the responses on and writes each preview to the file."""
    for response in responses:
        if preview is not None and response.preview is not None:
            write_whole(response.preview, preview)
        yield response


def _summary(video: Video, output: Path) -> dict[str, Any]:
    sizes = {name: video.parameters.get(name) for name in ("width", "height", "num_frames", "fps")}
    return {
        "output": str(output),
        "id": video.id,
        "seed": video.seed,
        **sizes,
        "video_bytes": len(video.data),
        "timings": dict(video.timings),
        "parameters": dict(video.parameters),
        "warnings": [warning.message for warning in video.warnings],
    }


def _one_line(error: ZoetropeError) -> str:
    retry = error.details.get("retry_after_s")
    hint = "" if retry is None else f" (try again in {retry} s)"
    return _flat(error.message) + hint


def _flat(text: str) -> str:
    return " ".join(text.split())


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"zoetrope generate: {message}", err=True)
    raise typer.Exit(code)
