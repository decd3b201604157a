"""The `zoetrope` command: finds its subcommands by entry point and imports only the one that is called."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

GROUP = "zoetrope.commands"
HELP = {
    "generate": "Generate a video from each picture.",
    "info": "Say what a server can do, and whether it is ready.",
    "serve": "Serve a model repository with Triton.",
    "export": "Export a checkpoint to engines and a model repository.",
    "checkpoint": "Make or inspect a checkpoint.",
    "bench": "Measure the server beside diffusers, and its overhead.",
    "size": "Say what memory and time a server of a repository needs.",
    "doctor": "Say what this machine can run.",
}
"""The one-line helps, here so that `zoetrope --help` imports nothing heavy."""
_EXTRAS = {"zoetrope_server": "server", "zoetrope_export": "export", "zoetrope_bench": "bench"}


class LazyGroup(TyperGroup):
    """A command group whose members are the entry points of `GROUP`."""

    def __init__(self, **attrs: Any) -> None:
        """Fills the group with what stands for each subcommand in the help; nothing is imported."""
        names = sorted(entry_points(group=GROUP).names, key=lambda name: (_rank(name), name))
        attrs["commands"] = {name: TyperCommand(name, help=HELP.get(name, "")) for name in names}
        super().__init__(**attrs)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Imports the subcommand that is called."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        if name is None or placeholder is None:
            return name, placeholder, rest
        (entry,) = entry_points(group=GROUP, name=name)
        ctx.obj = entry
        try:
            return name, _load(entry), rest
        except ModuleNotFoundError:
            if not ctx.resilient_parsing:
                raise
            return name, placeholder, rest  # a shell asks what may follow: nothing that is known here

    def invoke(self, ctx: Any) -> Any:
        """Runs the subcommand; a package that is not installed becomes one line instead of a traceback."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            entry = ctx.obj
            if entry is None or (error.name or "").startswith("zoetrope_"):
                raise
            typer.echo(_missing(entry, error), err=True)
            raise typer.Exit(1) from None


def _rank(name: str) -> int:
    return list(HELP).index(name) if name in HELP else len(HELP)


def _load(entry: EntryPoint) -> Any:
    """The command behind an entry point: a typer app, or a function with typer's annotations."""
    target: typer.Typer | Callable[..., Any] = entry.load()
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False)
        target.command(entry.name)(function)
    return typer.main.get_command(target)


def _missing(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    extra = _EXTRAS.get(entry.module.partition(".")[0])
    if extra is None:
        return f"zoetrope {entry.name} needs the package {error.name}"
    return f"zoetrope {entry.name} needs the {extra} extra: pip install 'zoetrope[{extra}]'"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zoetrope {version('zoetrope')}")
        raise typer.Exit


app = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _zoetrope(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Turns one picture into a moving one: an image-to-video inference server and its tools."""


def main() -> None:
    """The entry point of the `zoetrope` command."""
    app(prog_name="zoetrope")
