"""The command `zoetrope bench load`: options to settings, a run or a search to a report."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from zoetrope_bench.load import capacity as search
from zoetrope_bench.load import options as given
from zoetrope_bench.load import summary
from zoetrope_bench.load.arrivals import Segment
from zoetrope_bench.load.records import BadRecords, Run, read
from zoetrope_bench.load.session import NoServer, perform
from zoetrope_bench.load.settings import Settings
from zoetrope_bench.load.slo import Slo
from zoetrope_bench.report import Figure, Report

FAILED, INTERRUPTED = 1, 130


def load(
    url: given.Url = "127.0.0.1:8001",
    rate: given.Rate = None,
    ramp: given.Ramp = None,
    arrivals: given.Kind = "poisson",
    users: given.Users = None,
    think: given.Think = 0.0,
    duration: given.Duration = 60.0,
    warmup: given.Warmup = 0.0,
    seed: given.Seed = 0,
    mix: given.Mix = None,
    image: given.Image = None,
    steps: given.Steps = None,
    header: given.Header = None,
    timeout: given.Timeout = None,
    drain: given.Drain = 60.0,
    max_in_flight: given.MaxInFlight = 256,
    lag_bound: given.LagBound = 0.01,
    metrics: given.MetricsUrl = None,
    metrics_every: given.MetricsEvery = 1.0,
    slo: given.Objective = None,
    find_capacity: given.FindCapacity = False,
    capacity_steps: given.CapacitySteps = 8,
    from_file: given.From = None,
    records: given.Records = None,
    json_file: given.JsonFile = None,
    html: given.HtmlFile = None,
) -> None:
    """Puts a server under load and says what it did.

    Requests come by a seeded schedule that waits for no answer (--rate, --ramp) or from users who wait
    (--users). Latencies count from the time at which a request was due. See docs/load-testing.md.

    Exit codes: 0 measured, whatever the figures; 1 not measured (no server, unreadable records);
    2 wrong usage; 130 interrupted, after reporting what there is.
    """
    objective = given.objective(slo, wanted=find_capacity)
    if from_file is not None:
        _publish(_read(from_file), objective, json_file, html)
        return
    settings = Settings(
        url=url,
        classes=given.classes(mix, image, steps),
        segments=given.segments(rate, ramp, duration, users),
        kind=given.kind(arrivals),
        users=users,
        think_s=think,
        warmup_s=warmup,
        seed=seed,
        timeout_s=timeout,
        drain_s=drain,
        max_in_flight=max_in_flight,
        lag_bound_s=lag_bound,
        metrics=metrics,
        metrics_every_s=metrics_every,
        headers=given.headers(header),
    )
    if find_capacity and objective is not None:
        if rate is None:
            raise typer.BadParameter("--find-capacity starts from --rate", param_hint="--rate")
        _search(settings, rate, objective, capacity_steps, records, json_file)
        return
    try:
        run = _run(settings, records)
    except (NoServer, OSError) as error:
        _fail(str(error))
    _publish(run, objective, json_file, html)
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(settings: Settings, records: Path | None) -> Run:
    console = Console(stderr=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return perform(settings, records or Path(folder) / "records.jsonl", console)
    except KeyboardInterrupt:  # before the first request, or for a second time
        raise typer.Exit(INTERRUPTED) from None


def _read(path: Path) -> Run:
    try:
        return read(path)
    except (BadRecords, OSError) as error:
        _fail(str(error))


def _publish(run: Run, slo: Slo | None, json_file: Path | None, html: Path | None) -> None:
    try:
        report = summary.report(run, slo)
    except (KeyError, TypeError, ValueError) as error:
        _fail(f"the records lack something ({error!r})")
    summary.show(report, Console(stderr=True))
    try:
        if json_file is not None:
            report.save(json_file)
        if html is not None:
            from zoetrope_bench.load.page import page  # matplotlib, which only the page needs

            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(page(run, report))
    except OSError as error:
        _fail(str(error))


def _search(
    settings: Settings, first: float, slo: Slo, steps: int, records: Path | None, json_file: Path | None
) -> None:
    """Searches the capacity; each step's records have the rate in their name."""
    console, interrupted = Console(stderr=True), False

    def attempt(rate: float) -> search.Trial:
        nonlocal interrupted
        seconds = search.step_seconds(rate, settings.duration_s, slo)
        step = replace(settings, segments=(Segment(start=rate, end=rate, seconds=seconds),))
        path = records and records.with_name(f"{records.stem}-{rate:.4g}{records.suffix}")
        try:
            run = _run(step, path)
        except (NoServer, OSError) as error:  # what was found at other rates is kept
            console.print(f"{rate:.4g}/s: {error}", markup=False)
            return search.lost(rate)
        interrupted = run.interrupted
        trial = search.trial(run, rate, slo)
        verdict = "held" if trial.met else "did not hold"
        console.print(f"{rate:.4g}/s for {seconds:.0f} s: {slo} {verdict}, quantile {trial.value:.3f} s")
        return trial

    found = search.find(attempt, first, steps)
    _capacity_report(found, settings, slo).show(console)
    if found.note:
        console.print(f"note: {found.note}")
    try:
        if json_file is not None:
            _capacity_report(found, settings, slo).save(json_file)
    except OSError as error:
        _fail(str(error))
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(trial.requests for trial in found.trials):
        _fail("nothing was measured")


def _capacity_report(found: search.Capacity, settings: Settings, slo: Slo) -> Report:
    sides = (("holds at", found.passed), ("does not hold at", found.failed))
    figures = [
        Figure(name=f"{slo} {side}", measured=rate, unit="/s") for side, rate in sides if rate is not None
    ]
    parameters = {**settings.to_dict(), "objective": str(slo)}
    return Report(benchmark="capacity", figures=figures, parameters=parameters, details=found.to_dict())


def _fail(message: str) -> NoReturn:
    typer.echo(f"zoetrope bench load: {message}", err=True)
    raise typer.Exit(FAILED)
