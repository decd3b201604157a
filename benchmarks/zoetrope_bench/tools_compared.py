"""This load lab beside perf_analyzer and locust: the same load on the same server, in turns.

    python -m zoetrope_bench.tools_compared --image FILE --tools .venv-tools [--json FILE]

The real server, with engines that only sleep: what a request takes hardly depends on what else the machine
does. With a REPOSITORY, that is served instead.
Why they differ, and how to install the others, is in docs/load-testing.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from zoetrope_bench.load import arrivals
from zoetrope_bench.load.arrivals import Segment
from zoetrope_bench.load.folds import fold, seconds
from zoetrope_bench.load.foreign import Outcome, ToolFailed, input_data, locust, perf_analyzer
from zoetrope_bench.load.mix import ALL, single
from zoetrope_bench.load.records import SERVED
from zoetrope_bench.load.session import perform
from zoetrope_bench.load.settings import Settings
from zoetrope_bench.load.statistics import quantile
from zoetrope_bench.noop_repository import write_noop_repository
from zoetrope_bench.overhead import SVD_XT
from zoetrope_bench.report import Figure, Report
from zoetrope_bench.server import serving
from zoetrope_core.specs import UNET

STEP_S = 0.1
Results = dict[str, list[Outcome]]
"""The outcomes of each round, by loop and tool."""


def ours(settings: Settings, folder: Path) -> Outcome:
    """The same figures from this load lab."""
    run = perform(settings, folder / "records.jsonl")
    body = fold(run)
    group = body["classes"][ALL]
    served = [record for record in run.records if record.outcome == SERVED]
    return Outcome(
        requests=group["count"],
        per_s=body["achieved"]["per_s"],
        mean=group["latency"]["mean"],
        p50=group["latency"]["p50"]["value"],
        p95=group["latency"]["p95"]["value"],
        first=quantile(seconds(served, "first_event"), 0.5).value,
        last=group["latency"]["p50"]["value"],
    )


def contenders(
    url: str, folder: Path, tools: Path, image: Path, *, steps: int, users: int, rate: float, requests: int
) -> dict[str, Callable[[], Outcome]]:
    """What runs in each round, by loop and tool; all of the open loops send `requests` at even gaps."""
    fields, duration = {"num_inference_steps": steps, "seed": 1}, requests / rate
    data = folder / "input.json"
    data.write_text(json.dumps(input_data(image.read_bytes(), fields)))
    even = (Segment(start=rate, end=rate, seconds=duration),)
    settings = Settings(url=url, classes=single(image, fields), segments=even, kind=arrivals.CONSTANT)
    closed = Settings(url=url, classes=settings.classes, segments=even, users=users)
    at_once = ("--concurrency-range", str(users), "--request-count", str(requests))
    by_rate = ("--request-rate-range", f"{rate:g}", "--request-count", str(requests))
    environment = {"ZOETROPE_IMAGE": str(image.resolve()), "ZOETROPE_STEPS": str(steps)}
    return {
        "closed, zoetrope bench load": lambda: ours(closed, folder),
        "closed, locust": lambda: locust(tools, url, users=users, seconds=duration, environment=environment),
        "closed, perf_analyzer streaming": lambda: perf_analyzer(tools, url, data, *at_once, streaming=True),
        "closed, perf_analyzer unary": lambda: perf_analyzer(tools, url, data, *at_once, streaming=False),
        "open, zoetrope bench load": lambda: ours(settings, folder),
        "open, perf_analyzer streaming": lambda: perf_analyzer(tools, url, data, *by_rate, streaming=True),
        "open, perf_analyzer unary": lambda: perf_analyzer(tools, url, data, *by_rate, streaming=False),
    }


def tools_compared(
    image: Annotated[Path, typer.Option(help="the picture to animate", exists=True, dir_okay=False)],
    repository: Annotated[
        Path | None, typer.Argument(help="a model repository, in place of engines that sleep")
    ] = None,
    tools: Annotated[Path, typer.Option(help="the virtual environment of the other tools")] = Path(
        ".venv-tools"
    ),
    steps: Annotated[int, typer.Option(help="denoising steps")] = 4,
    users: Annotated[int, typer.Option(help="users of the closed loops", min=1)] = 2,
    rate: Annotated[float, typer.Option(help="requests per second of the open loops", min=0.01)] = 1.0,
    requests: Annotated[
        int, typer.Option(help="requests of each run; the closed loops may differ", min=6)
    ] = 20,
    rounds: Annotated[int, typer.Option(help="rounds", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="where the report goes")] = None,
) -> None:
    """Puts this load lab beside perf_analyzer and locust."""
    results: Results = {}
    with (
        tempfile.TemporaryDirectory() as name,
        serving(repository or _sleeping(Path(name) / "repository"), Path(name) / "log") as server,
    ):
        load = {"steps": steps, "users": users, "rate": rate, "requests": requests}
        running = contenders(
            server.url, Path(name), tools, image, steps=steps, users=users, rate=rate, requests=requests
        )
        running["open, zoetrope bench load"]()  # warms the server and this process
        try:
            for _ in range(rounds):
                for title, run in running.items():
                    results.setdefault(title, []).append(run())
        except ToolFailed as error:
            typer.echo(f"tools_compared: {error}", err=True)
            raise typer.Exit(1) from None
    outcome = report(
        results,
        {
            **load,
            "rounds": rounds,
            "served": repository.name if repository else f"engines whose step sleeps {STEP_S} s",
        },
    )
    outcome.show(Console(stderr=True))
    if json_file:
        outcome.save(json_file)


def _sleeping(path: Path) -> Path:
    """A repository at small shapes whose step takes `STEP_S`."""
    shapes = replace(SVD_XT, sizes=((64, 96),), num_frames=(6,), decode_chunk_size=6, embedding_dim=8)
    return write_noop_repository(path, shapes, {UNET.name: STEP_S})


def report(results: Mapping[str, list[Outcome]], parameters: Mapping[str, Any]) -> Report:
    """The medians over the rounds of what each tool says."""
    figures = []
    for title, outcomes in results.items():
        for name, unit in (
            ("per_s", "/s"),
            ("mean", "s"),
            ("p50", "s"),
            ("p95", "s"),
            ("first", "s"),
            ("last", "s"),
        ):
            values = [value for one in outcomes if (value := getattr(one, name)) is not None]
            if values:
                figures.append(Figure(name=f"{title}: {name}", measured=statistics.median(values), unit=unit))
    rounds = {title: [asdict(outcome) for outcome in outcomes] for title, outcomes in results.items()}
    return Report(
        benchmark="tools_compared", figures=figures, parameters=parameters, details={"by round": rounds}
    )


if __name__ == "__main__":
    typer.run(tools_compared)
