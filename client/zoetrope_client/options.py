"""Command-line options: one for each field of a request, and those that say how to reach the server."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from zoetrope_client.transport import Tls
from zoetrope_core.request import GenerateRequest, Rule, field_rules

_DEFAULTS = {entry.name: entry.default for entry in dataclass_fields(GenerateRequest)}
_CONNECTION = "Connection"
_FILE = {"exists": True, "dir_okay": False, "readable": True, "rich_help_panel": _CONNECTION}

Url: TypeAlias = Annotated[
    str,
    typer.Option(
        help="HOST:PORT of the server's gRPC endpoint", envvar="ZOETROPE_URL", rich_help_panel=_CONNECTION
    ),
]
WithTls: TypeAlias = Annotated[
    bool, typer.Option("--tls", help="encrypt; the options below do so too", rich_help_panel=_CONNECTION)
]
RootFile: TypeAlias = Annotated[
    Path | None, typer.Option("--ca", help="certificates to trust (PEM); the system's without", **_FILE)
]
CertificateFile: TypeAlias = Annotated[
    Path | None, typer.Option("--cert", help="own certificate chain (PEM), for mutual TLS", **_FILE)
]
KeyFile: TypeAlias = Annotated[
    Path | None, typer.Option("--key", help="private key (PEM) of --cert", **_FILE)
]
HeaderLines: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        "-H",
        help="'name: value' sent with each call; may be repeated",
        rich_help_panel=_CONNECTION,
    ),
]


def tls_of(tls: bool, ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    """The TLS that the options ask for; raises BadParameter for half a pair."""
    if (cert is None) != (key is None):
        raise typer.BadParameter("--cert and --key go together", param_hint="--cert")
    wanted = tls or ca is not None or cert is not None
    return Tls(root_certificates=ca, certificate_chain=cert, private_key=key) if wanted else None


def headers_of(lines: list[str] | None) -> dict[str, str]:
    """The headers of `name: value` lines; raises BadParameter for other lines."""
    found = {}
    for line in lines or ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"{name.strip()!r} is not 'name: value'", param_hint="--header")
        found[name.strip()] = value.strip()
    return found


def with_request_options(command: Callable[..., None]) -> Callable[..., None]:
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
        autocompletion=_choosing(rule.choices) if rule.choices else None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[(_Numbers if array else rule.type) | None, option],
    )


def _choosing(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Completes a word to those of the choices that begin so."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


class _Numbers(tuple[float, ...]):
    """An array on the command line."""


def _numbers(text: str) -> _Numbers:
    """`700,54.5` as numbers; ValueError is a usage error to typer."""
    return _Numbers(float(part) for part in text.split(","))
