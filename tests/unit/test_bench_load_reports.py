"""What is made of runs: objectives, the search for the capacity, comparisons and the page."""

import itertools
import json
import math
import random

import numpy as np
import pytest
from load_runs import METRICS_PAGE, PARAMETERS, served, written
from typer.testing import CliRunner

from zoetrope_bench.commands import bench
from zoetrope_bench.load import capacity, compare, metrics, resampling, slo, summary
from zoetrope_bench.load import statistics as statistic
from zoetrope_bench.load.folds import fold
from zoetrope_bench.load.page import page
from zoetrope_bench.load.records import Record, Sample


@pytest.mark.parametrize(
    "text", ["p95", "p95<2", "p95>2s", "p0<1s", "p100<1s", "p95<0s", "95<2s", "p95<-1s", ""]
)
def test_an_objective_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="p95<2s"):
        slo.parse(text)


def test_objectives():
    assert slo.parse("p99.9 < 500ms") == slo.Slo(level=pytest.approx(0.999), limit=0.5)
    assert str(slo.parse("p95<2s")) == "p95<2s" and slo.parse(str(slo.parse("p95<0.25s"))).limit == 0.25


def search(limit, first, steps, sound=True):
    def attempt(rate):
        value = 1.0 if rate <= limit else math.inf
        return capacity.Trial(rate=rate, requests=100, value=value, low=value, high=value, met=rate <= limit,
                              clear=True, sound=sound)  # fmt: skip

    return capacity.find(attempt, first, steps)


@pytest.mark.parametrize("first", [0.1, 1.0, 7.0, 60.0])
def test_the_search_brackets_the_capacity(first):
    found = search(7.3, first, 20)
    assert found.bracketed and not found.note and found.passed <= 7.3 < found.failed <= 1.1 * found.passed


def test_a_search_that_does_not_bracket_says_so():
    assert "not bracketed" in search(1e9, 1.0, 4).note and search(1e9, 1.0, 4).failed is None
    assert "not bracketed" in search(0.0, 1.0, 4).note and search(0.0, 1.0, 4).passed is None
    assert len(search(7.3, 1.0, 5).trials) == 5
    unsound = search(7.3, 1.0, 5, sound=False)
    assert len(unsound.trials) == 1 and "generator" in unsound.note
    assert json.dumps(search(0.0, 1.0, 2).to_dict())


def test_a_trial_counts_what_was_not_served_as_late(tmp_path):
    lost = [
        Record(
            index=n, request_class="all", intended=n, sent=n, ended=n, code="overloaded", status="UNAVAILABLE"
        )
        for n in range(10)
    ]
    run = written(tmp_path / "r", [*lost, *(served(n, n, 1.0) for n in range(10, 100))])
    assert capacity.trial(run, 1.0, slo.parse("p90<2s")).met is True
    assert capacity.trial(run, 1.0, slo.parse("p95<2s")).value == math.inf
    assert capacity.step_seconds(2.0, 10.0, slo.parse("p95<2s")) == 54.0


def reports(tmp_path, latencies, name, refused=0):
    entries = [served(n, n * 0.1, value) for n, value in enumerate(latencies)]
    lost = [
        Record(
            index=900 + n,
            request_class="all",
            code="overloaded",
            status="UNAVAILABLE",
            **dict.fromkeys(("intended", "sent", "ended"), 0.05 + 0.6 * n),
        )
        for n in range(refused)
    ]
    run = written(tmp_path / f"{name}.jsonl", [*entries, *lost])
    summary.report(run, slo.parse("p95<2s")).save(tmp_path / f"{name}.json")
    return tmp_path / f"{name}.json"


def test_the_worst_overload_misses_its_target(tmp_path):
    body = json.loads(reports(tmp_path, [0.5] * 60, "r", refused=40).read_text())
    (figure,) = [figure for figure in body["figures"] if figure["name"] == "share within 2s"]
    assert (figure["measured"], figure["target"], figure["passed"]) == (0.6, 0.95, False)
    assert body["details"]["slo"]["quantile"]["value"] is None


def test_a_comparison_that_cannot_be_written_is_one_line(tmp_path):
    report = reports(tmp_path, waits(1)[:50], "r")
    ran = compared(report, report, "--json", report / "c.json")
    assert ran.exit_code == compare.NOT_COMPARED and isinstance(ran.exception, SystemExit)


def waits(seed, scale=1.0, count=400):
    """Latencies of a queue: each depends on the one before."""
    draw, found, wait = random.Random(seed), [], 0.0
    for _ in range(count):
        wait = max(0.0, wait + 0.6 - draw.expovariate(1.0))
        found.append(scale * (0.3 + 0.1 * wait))
    return found


def compared(*arguments):
    return CliRunner().invoke(bench, ["compare", *map(str, arguments)])


def test_equal_servers_are_not_said_to_differ(tmp_path):
    differ = 0
    for seed in range(10):
        before, after = (reports(tmp_path, waits(f"{seed} {side}"), side) for side in ("before", "after"))
        found = compare.changes(*(compare.read_report(path) for path in (before, after)), 0.95)
        differ += any(change.verdict != compare.SAME for change in found)
    assert differ <= 2


def test_a_slower_server_is_found_and_the_exit_code_says_so(tmp_path):
    before, after = (
        reports(tmp_path, waits(1), "before"),
        reports(tmp_path, waits(2, 1.6), "after", refused=60),
    )
    outcome = compared(before, after, "--json", tmp_path / "c.json")
    assert outcome.exit_code == compare.WORSE_FOUND, outcome.output
    found = {change["name"]: change for change in json.loads((tmp_path / "c.json").read_text())["changes"]}
    assert (
        found["latency, to done, p50"]["verdict"] == compare.WORSE
        and found["latency, to done, p50"]["low"] > 0
    )
    assert found["share that was refused"]["verdict"] == compare.WORSE
    assert found["to the first event, p50"]["verdict"] == compare.SAME
    assert compared(after, before).exit_code == 0, "the way back is better"


def finite_queue(seed, service, arrivals=400, room=10):
    """What became of arrivals at 0.9 a second at one worker: latencies, None where it was full."""
    draw, now, ends, found = random.Random(seed), 0.0, [], []
    for _ in range(arrivals):
        now += draw.expovariate(0.9)
        ends = [end for end in ends if end > now]
        if len(ends) == room:
            found.append((now, None))
        else:
            ends.append(max([now, *ends]) + service)
            found.append((now, ends[-1] - now))
    return found


def overloaded(path, seed, service):
    """The report of a queue that is full now and then."""
    lost = {"request_class": "all", "code": "overloaded", "status": "UNAVAILABLE"}
    entries = [
        Record(index=n, intended=due, sent=due, ended=due, **lost)
        if latency is None
        else served(n, due, latency)
        for n, (due, latency) in enumerate(finite_queue(seed, service))
    ]
    run = written(path, entries, parameters={**PARAMETERS, "duration_s": 450.0})
    return json.loads(json.dumps({"details": summary.report(run, slo.parse("p95<5s")).details}))


def shares(before, after, confidence):
    """The verdicts of what comes in bursts alone, each at the whole confidence."""
    draw = np.random.default_rng(0)
    found = compare._shares(before["details"], after["details"])
    return [
        compare.shared(title, old, new, confidence, draw, better=better).verdict
        for title, old, new, better in found
    ]


def test_refusals_and_misses_that_come_in_bursts_do_not_make_equal_servers_differ(tmp_path):
    equal = [
        shares(*(overloaded(tmp_path / "r", f"{seed} {side}", 1.0) for side in "ab"), 0.95)
        for seed in range(60)
    ]
    assert all(len(found) == 2 for found in equal)
    differ = sum(verdict != compare.SAME for found in equal for verdict in found)
    assert differ <= 12, "of 120 at 5 %; a test that took the requests as independent finds 52"
    slower = [
        shares(
            overloaded(tmp_path / "r", f"{seed} a", 1.0), overloaded(tmp_path / "r", f"{seed} b", 1.5), 0.95
        )
        for seed in range(10)
    ]
    worse = sum(verdict == compare.WORSE for found in slower for verdict in found)
    assert worse >= 16, "a worker that is half as slow again"


def test_the_resampling_resolves_the_tail_that_is_left_of_the_confidence():
    for comparisons in (1, 20, 80):
        tail = 0.05 / comparisons / 2
        assert resampling.rounds(tail) * tail >= 20
    drawn = resampling.resampled(np.arange(100.0), resampling.mean, 12_345, np.random.default_rng(0))
    assert drawn.shape == (12_345,) and drawn.mean() == pytest.approx(49.5, abs=1.0)


LACKING = json.dumps(
    {
        "benchmark": "load",
        "parameters": {},
        "details": {"classes": {}, "offered": {}, "achieved": {}, "outcomes": {}},
    }
)


def test_what_is_no_report_is_not_compared(tmp_path):
    good = reports(tmp_path, waits(1), "good")
    for text in ("", "[]", '{"benchmark": "latency"}', '{"benchmark": "load", "details": {}}', LACKING):
        (tmp_path / "bad.json").write_text(text)
        assert compared(good, tmp_path / "bad.json").exit_code == compare.NOT_COMPARED
    assert compared(good, tmp_path / "absent.json").exit_code == 2


def test_too_few_samples_are_not_compared(tmp_path):
    before, after = reports(tmp_path, waits(1)[:50], "a"), reports(tmp_path, waits(2)[:50], "b")
    names = [change.name for change in compare.changes(*map(compare.read_report, (before, after)), 0.95)]
    assert "latency, to done, p50" in names and "latency, to done, p95" not in names


def test_what_depends_on_its_neighbours_says_less():
    series = np.random.default_rng(0).normal(size=4000)
    assert statistic.correlation_time(series) == pytest.approx(1.0, abs=0.3)
    slow = np.convolve(series, np.ones(10), "valid")
    assert statistic.correlation_time(slow) == pytest.approx(10.0, rel=0.25)
    assert statistic.correlation_time([1.0] * 9) == statistic.correlation_time([1.0]) == 1.0


def test_the_page_holds_everything_and_fetches_nothing(tmp_path):
    odd = "<script>alert(1)</script>"
    more = {"request_class": odd, "timings": {"denoise": 1.0, "total": 1.1}}
    entries = [served(n, n, 1.0 + n % 3, first_frames=n + 0.5, **more) for n in range(40)]
    failed = Record(
        index=99, request_class="b", intended=50.0, sent=50.0, ended=51.0, code="internal", message=odd
    )
    pages = [METRICS_PAGE % (at * 4, at * 2, at % 5) for at in range(9)]
    samples = [Sample(at=at, values=metrics.read_metrics(text)) for at, text in enumerate(pages)]
    run = written(tmp_path / "r", [*entries, failed], samples)
    text = page(run, summary.report(run, slo.parse("p95<2s")))
    assert odd not in text and "&lt;script&gt;" in text
    assert text.count("<svg") == 6 and "currentColor" in text and "#010203" not in text
    fetched = [
        part.split('"')[0] for part in itertools.chain(text.split('href="')[1:], text.split('src="')[1:])
    ]
    assert all(target.startswith(("#", "data:")) for target in fetched)
    identifiers = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert len(identifiers) == len(set(identifiers)), "two plots do not share an identifier"


def test_the_page_of_a_run_without_requests_is_a_page(tmp_path):
    run = written(tmp_path / "r", [])
    assert page(run, summary.report(run)).endswith("</html>\n")
    assert fold(run)["ends"] == [] and fold(run)["offered"]["count"] == 0
