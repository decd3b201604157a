"""The load generator against a server of known service times: it measures what queueing theory says."""

import json
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest
from toy_queue import toy_server
from waiting import wait_until

from zoetrope_bench.load import records
from zoetrope_bench.load.folds import fold
from zoetrope_bench.load.statistics import batch_means

ARRIVALS = 2000
UTILISATIONS = (0.3, 0.5, 0.7)
SEED = 125
ATTEMPTS = 3
"""A machine that is busy with something else disturbs a measurement of tenths of a millisecond; a generator
that is wrong is wrong each time."""


def generator(url, path, *options):
    """`zoetrope bench load` in a process of its own."""
    command = [sys.executable, "-m", "zoetrope_bench.load", "--url", url, "--records", str(path), *options]
    return subprocess.Popen([*command, "--image", __file__], stderr=subprocess.PIPE, text=True)


def finished(process):
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said
    return said


def waiting(run):
    """The mean time that requests waited as the generator measured it, half its 95 % interval, their number.

    It is what the latencies are above those of the requests that did not have to wait, as the server says;
    the way there and back and the service are the same for all.
    """
    counted = [record for record in run.records if not record.warmup]
    latencies = [record.latency for record in counted]
    alone = [record.latency for record in counted if record.timings["queue"] == 0.0]
    mean, half = batch_means(latencies)
    return mean - statistics.mean(alone), half, len(latencies)


def measured(folder, service, utilisations):
    """Each utilisation against a server of its own, at the same time."""
    with ExitStack() as stack:
        running = {}
        for rho in utilisations:
            url, path = stack.enter_context(toy_server(service)), folder / f"{rho}.jsonl"
            rate = rho / service
            load = ("--rate", f"{rate}", "--duration", f"{1.005 * ARRIVALS / rate}", "--seed", f"{SEED}")
            running[rho] = path, generator(url, path, *load, "--warmup", "3")
        for _, process in running.values():
            finished(process)
    return {rho: waiting(records.read(path)) for rho, (path, _) in running.items()}


def agrees(rho, service, outcome):
    mean, half, count = outcome
    theory = rho * service / (2 * (1 - rho))
    assert count >= ARRIVALS
    return abs(mean - theory) <= half and half < 0.6 * theory


def judged(folder, service, record_property):
    """Every utilisation, with those that disagree measured again."""
    left, figures = list(UTILISATIONS), []
    for attempt in range(ATTEMPTS):
        folder.joinpath(str(attempt)).mkdir()
        outcomes = measured(folder / str(attempt), service, left)
        for rho, (mean, half, count) in outcomes.items():
            theory = rho * service / (2 * (1 - rho))
            figures.append([rho, count, *(round(1000 * value, 3) for value in (theory, mean, half))])
        left = [rho for rho in left if not agrees(rho, service, outcomes[rho])]
        if not left:
            break
    record_property("utilisation, arrivals, theory, measured, half interval (ms)", json.dumps(figures))
    assert not left, figures


@pytest.mark.full
@pytest.mark.timeout(250)
def test_the_mean_waiting_time_is_that_of_m_d_1(tmp_path, record_property):
    judged(tmp_path, 0.005, record_property)


@pytest.mark.parametrize("rho", UTILISATIONS)
def test_the_figures_of_a_queue_without_a_server_are_those_of_m_d_1(rho):
    """The statistics alone, on waits by Lindley's recursion: what the long test above measures for real."""
    service, rng = 0.005, np.random.default_rng(SEED)
    gaps = rng.exponential(service / rho, 200_000)
    wait, waits = 0.0, []
    for gap in gaps:
        wait = max(0.0, wait + service - gap)
        waits.append(wait)
    mean, half = batch_means(waits)
    theory = rho * service / (2 * (1 - rho))
    assert abs(mean - theory) <= half < 0.1 * theory


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_the_mean_waiting_time_is_that_of_m_d_1_with_long_service(tmp_path, record_property):
    judged(tmp_path, 0.03, record_property)


STALL_S, RATE, SECONDS = 1.0, 50, 5
STALLED = ("--rate", str(RATE), "--arrivals", "constant", "--duration", str(SECONDS))


@pytest.mark.serial
def test_a_stalled_server_shows_in_the_latencies_of_all_who_came_meanwhile(tmp_path, record_property):
    # One user at the same pace, who waits for each answer and counts from sending: that hides the stall.
    alone = ("--users", "1", "--think", str(1 / RATE - 0.004), "--duration", str(SECONDS))
    stall = {"stall_at": 1.5, "stall_for": STALL_S}
    with toy_server(0.004, **stall) as one, toy_server(0.004, **stall) as other:
        processes = generator(one, tmp_path / "open", *STALLED), generator(other, tmp_path / "closed", *alone)
        assert [finished(process) for process in processes]
    seen, hidden = records.read(tmp_path / "open"), records.read(tmp_path / "closed")
    slow = [record for record in seen.records if record.latency > 0.1]
    naive = [record for record in hidden.records if record.ended - record.sent > 0.1]
    figures = fold(seen)["classes"]["all"]["latency"], fold(hidden)["classes"]["all"]["latency"]
    record_property("slow", [len(slow), len(naive)])
    # Who came in the stall waits for its end, and for the queue of 50 that has come up by then.
    assert 0.85 * RATE * STALL_S <= len(slow) <= 1.6 * RATE * STALL_S
    assert figures[0]["p99"]["value"] > 0.9 * STALL_S and figures[0]["max"] > 0.95 * STALL_S
    # A busy machine may hold up one or two more; the stall itself is one request to who counts from sending.
    assert 1 <= len(naive) <= len(slow) / 10


@pytest.mark.serial
def test_a_generator_that_stalls_counts_from_the_intended_time_and_says_so(tmp_path):
    """Stopped for a second, it sends a second's requests late; their latency is what users would have had."""
    with toy_server(0.004) as url:
        path = tmp_path / "records.jsonl"
        process = generator(url, path, *STALLED)
        wait_until(lambda: process.poll() is not None or path.exists() and len(lines(path)) >= 100, 60)
        assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        time.sleep(STALL_S)
        process.send_signal(signal.SIGCONT)
        said = finished(process)
    seen = records.read(path)
    late = [record for record in seen.records if record.lag > 0.1]
    assert 0.8 * RATE * STALL_S <= len(late) <= 1.2 * RATE * STALL_S
    assert all(record.latency >= record.lag for record in late)
    assert fold(seen)["classes"]["all"]["latency"]["p99"]["value"] > 0.85 * STALL_S
    assert "the generator was late" in said
    assert statistics.median(record.ended - record.sent for record in late) < 0.5, (
        "from sending on it is hidden"
    )


def lines(path):
    return path.read_text().splitlines()
