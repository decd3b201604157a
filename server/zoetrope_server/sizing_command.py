"""`zoetrope size`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zoetrope_core.manifest import Manifest
from zoetrope_server.doctor.stage_files import native_backend
from zoetrope_server.engines import EngineError
from zoetrope_server.launcher.errors import LaunchError
from zoetrope_server.launcher.settings import ServeSettings
from zoetrope_server.launcher.workspace import check_repository
from zoetrope_server.settings import OrchestratorSettings
from zoetrope_server.sizing import MOST_CALLS, Load, Quantity, quantities


def size(
    repository: Annotated[Path, typer.Argument(help="Model repository, as `zoetrope export` writes it.")],
    *,
    max_active: Annotated[
        int | None, typer.Option(min=1, help="Requests that run at the same time, as for `zoetrope serve`.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(min=0, help="Requests that wait, as for `zoetrope serve`.")
    ] = None,
    calls: Annotated[
        int, typer.Option(min=1, help="The most calls of the UNet for one video; heun takes two a step.")
    ] = MOST_CALLS,
    call_s: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds of one call at the largest shape, measured; gives the times."),
    ] = None,
    rest_s: Annotated[
        float, typer.Option(min=0.0, help="Seconds of the rest of that video: encoding, decoding, the file.")
    ] = 0.0,
    pre_stop_s: Annotated[
        int, typer.Option(min=0, help="Seconds that the pod's preStop hook sleeps before the signal.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as a JSON list.")] = False,
) -> None:
    """Say how much shared memory, which pools and how long a grace period a server of a repository needs.

    Limits that are not given are those of `zoetrope serve`: from the environment, or its defaults.
    """
    try:
        limits = ServeSettings.merged(max_active=max_active, max_waiting=max_waiting)
        load = Load(
            max_active=_limit(limits, "max_active"),
            max_waiting=_limit(limits, "max_waiting"),
            calls=calls,
            call_s=call_s,
            rest_s=rest_s,
            pre_stop_s=pre_stop_s,
        )
        found = _sized(repository, load)
    except (LaunchError, EngineError, OSError, ValueError) as error:
        typer.echo(f"zoetrope size: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        _show(found)


def _sized(path: Path, load: Load) -> list[Quantity]:
    """The numbers of a repository; raises LaunchError, EngineError, OSError or ValueError."""
    repository = check_repository(path)
    manifest = Manifest.load(repository)
    if not manifest.sizes or not manifest.num_frames:
        raise ValueError(f"the manifest of {path} lists no size or no frame count")
    native = [stage.name for stage in manifest.stages() if native_backend(repository, stage) is not None]
    return quantities(manifest, load, native)


def _limit(settings: ServeSettings, name: str) -> int:
    given = getattr(settings, name)
    default: int = OrchestratorSettings.model_fields[name].default
    return default if given is None else int(given)


def _show(found: list[Quantity]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(overflow="fold")
    for each in found:
        table.add_row(each.name, str(each.value), each.sum)
    Console().print(table, highlight=False)
