"""The options of `zoetrope bench load`, each with its help; and what they mean together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from zoetrope_bench.load import arrivals, slo
from zoetrope_bench.load.arrivals import Segment
from zoetrope_bench.load.mix import BadMix, RequestClass, read_mix, single
from zoetrope_bench.load.slo import Slo

_LOAD, _WHAT, _RUN, _OUT = "When requests are sent", "What is asked for", "The run", "What comes out"

Url = Annotated[str, typer.Option(help="HOST:PORT of the server's gRPC endpoint", envvar="ZOETROPE_URL")]
Rate = Annotated[float | None, typer.Option(help="requests per second", min=0.0, rich_help_panel=_LOAD)]
Ramp = Annotated[
    str | None,
    typer.Option(
        help="rates over time in place of --rate and --duration, such as 1..5@30,5@60: from 1 to 5 per "
        "second in 30 s, then 5 for 60 s",
        rich_help_panel=_LOAD,
    ),
]
Kind = Annotated[str, typer.Option(help="gaps of the open loop: poisson or constant", rich_help_panel=_LOAD)]
Users = Annotated[
    int | None,
    typer.Option(
        help="a closed loop: so many users, each of whom waits for a video before asking for the next",
        min=1,
        rich_help_panel=_LOAD,
    ),
]
Think = Annotated[
    float, typer.Option(help="mean seconds that a user thinks; exponential", min=0.0, rich_help_panel=_LOAD)
]
Duration = Annotated[float, typer.Option(help="seconds, without the warm-up", min=0.1, rich_help_panel=_LOAD)]
Warmup = Annotated[
    float,
    typer.Option(help="seconds before, recorded but left out of figures", min=0.0, rich_help_panel=_LOAD),
]
Seed = Annotated[int, typer.Option(help="of the schedule and of the mix", rich_help_panel=_LOAD)]
Mix = Annotated[
    Path | None,
    typer.Option(help="a YAML file of request classes", exists=True, dir_okay=False, rich_help_panel=_WHAT),
]
Image = Annotated[
    Path | None,
    typer.Option(
        help="the picture; the demo photo without", exists=True, dir_okay=False, rich_help_panel=_WHAT
    ),
]
Steps = Annotated[int | None, typer.Option(help="denoising steps, without --mix", rich_help_panel=_WHAT)]
Header = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE, sent with every request", rich_help_panel=_WHAT)
]
Timeout = Annotated[
    float | None,
    typer.Option(help="gRPC deadline of a request without a deadline_s", min=0.001, rich_help_panel=_RUN),
]
Drain = Annotated[
    float,
    typer.Option(
        help="seconds after the schedule until what runs is given up", min=0.0, rich_help_panel=_RUN
    ),
]
MaxInFlight = Annotated[
    int,
    typer.Option(help="what is due beyond so many is not sent, and flagged", min=1, rich_help_panel=_RUN),
]
LagBound = Annotated[
    float,
    typer.Option(
        help="seconds; a p99 of the generator's lag above is flagged", min=0.0, rich_help_panel=_RUN
    ),
]
MetricsUrl = Annotated[
    str | None,
    typer.Option("--metrics", help="HOST:PORT of the server's metrics, to sample them", rich_help_panel=_RUN),
]
MetricsEvery = Annotated[float, typer.Option(help="seconds between samples", min=0.1, rich_help_panel=_RUN)]
Objective = Annotated[
    str | None, typer.Option("--slo", help="an objective, such as p95<2s", rich_help_panel=_OUT)
]
FindCapacity = Annotated[
    bool,
    typer.Option(
        "--find-capacity",
        help="search the highest rate at which --slo holds, from --rate on",
        rich_help_panel=_OUT,
    ),
]
CapacitySteps = Annotated[int, typer.Option(help="rates to try at most", min=2, rich_help_panel=_OUT)]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="fold these records again; nothing is sent",
        exists=True,
        dir_okay=False,
        rich_help_panel=_OUT,
    ),
]
Records = Annotated[
    Path | None, typer.Option(help="where the raw records go (JSON lines)", rich_help_panel=_OUT)
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="where the report goes", rich_help_panel=_OUT)]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="where the page with plots goes", rich_help_panel=_OUT)
]


def segments(rate: float | None, ramp: str | None, duration: float, users: int | None) -> tuple[Segment, ...]:
    """The schedule that the options describe; raises typer.BadParameter."""
    if (rate is not None) + (ramp is not None) + (users is not None) != 1:
        raise typer.BadParameter("exactly one of --rate, --ramp and --users says how requests come")
    try:
        even = (Segment(start=rate or 0.0, end=rate or 0.0, seconds=duration),)
        found = even if ramp is None else arrivals.parse(ramp)
        if users is None and not sum(segment.requests for segment in found):
            raise ValueError("at a rate of 0 nothing is sent")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate" if ramp is None else "--ramp") from error
    return found


def kind(text: str) -> str:
    """The kind of the gaps; raises typer.BadParameter."""
    if text not in arrivals.KINDS:
        raise typer.BadParameter(
            f"got {text}, allowed are {', '.join(arrivals.KINDS)}", param_hint="--arrivals"
        )
    return text


def classes(mix: Path | None, image: Path | None, steps: int | None) -> tuple[RequestClass, ...]:
    """The mix that the options describe; raises typer.BadParameter."""
    if mix is not None and steps is not None:
        raise typer.BadParameter("with --mix the steps are in the file", param_hint="--steps")
    try:
        if mix is not None:
            return read_mix(mix, image)
        return single(image, {} if steps is None else {"num_inference_steps": steps})
    except (BadMix, OSError) as error:
        hint = "--mix" if mix else "--image" if isinstance(error, OSError) else "--steps"
        raise typer.BadParameter(str(error), param_hint=hint) from error


def objective(text: str | None, *, wanted: bool) -> Slo | None:
    """The objective; raises typer.BadParameter, also for none where one is needed."""
    if text is None:
        if wanted:
            raise typer.BadParameter("--find-capacity needs an objective, such as p95<2s", param_hint="--slo")
        return None
    try:
        return slo.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--slo") from error


def headers(given: Sequence[str] | None) -> dict[str, Any]:
    """The headers by name; raises typer.BadParameter."""
    pairs = [entry.partition("=") for entry in given or ()]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter("expected NAME=VALUE", param_hint="--header")
    return {name.lower(): value for name, _, value in pairs}
