"""What the attack records of a real gRPC server, whatever the server does."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import grpc
import numpy as np
import pytest
from grpc_server import accepted, done, serving
from toy_queue import toy_server
from typer.testing import CliRunner
from waiting import wait_until

from zoetrope_bench.commands import bench
from zoetrope_bench.load import arrivals, records
from zoetrope_bench.load.mix import RequestClass
from zoetrope_bench.load.session import NoServer, perform
from zoetrope_bench.load.settings import Settings
from zoetrope_core.contract import Response
from zoetrope_core.errors import DeadlineExceeded, Overloaded
from zoetrope_core.events import Failed, Progress

PICTURE = RequestClass(name="all", picture=b"\xff\xd8 picture", fields={"num_inference_steps": 3})


def attacked(script, path, *, rate=20.0, seconds=0.5, **more):
    """The run of even gaps against a server that answers by a script."""
    with serving(script) as server:
        even = (arrivals.Segment(start=rate, end=rate, seconds=seconds),)
        settings = Settings(url=server.url, classes=(PICTURE,), segments=even, kind=arrivals.CONSTANT, **more)
        return perform(settings, path), server


def failed(error):
    body = error.to_event()
    kept = {key: body.pop(key) for key in ("code", "status", "message")}
    return Response(event=Failed(**kept, details=body))


def test_each_moment_of_a_stream_is_recorded(tmp_path):
    def script(servicer, image, request, context):
        yield accepted(request)
        yield Response(event=Progress(stage="denoise", step=0, steps=3))
        time.sleep(0.2)
        yield Response(event=Progress(stage="denoise", step=1, steps=3), preview=b"preview")
        yield Response(frames=np.zeros((1, 4, 4, 3), np.uint8))
        yield Response(video=b"video")
        yield done(request, b"video")

    run, server = attacked(script, tmp_path / "r")
    assert len(run.records) == 10 and not run.interrupted
    for index, record in enumerate(run.records):
        names = ("intended", "sent", "accepted", "first_progress", "first_step", "first_preview",
                 "first_frames", "first_fragment", "ended")  # fmt: skip
        moments = [getattr(record, name) for name in names]
        assert all(earlier <= later for earlier, later in pairwise(moments)), moments
        assert record.first_step - record.first_progress >= 0.1
        assert (record.code, record.outcome, record.index) == ("done", records.SERVED, index)
        assert record.bytes == 7 + 48 + 5 and record.video_bytes == 5 and record.size == (48, 32, 6)
        assert record.timings == {"denoise": 0.5, "total": 0.75}
    assert sorted(request.seed for _, request in server.requests) == list(range(10))
    assert {request.num_inference_steps for _, request in server.requests} == {3}


def refuse(servicer, image, request, context):
    yield failed(Overloaded("full", retry_after_s=3))


def too_late(servicer, image, request, context):
    yield accepted(request)
    yield failed(DeadlineExceeded("too late"))


def break_off(servicer, image, request, context):
    yield accepted(request)


def abort(servicer, image, request, context):
    yield accepted(request)
    context.abort(grpc.StatusCode.INTERNAL, "broken")


def hang(servicer, image, request, context):
    yield accepted(request)
    servicer.closing.wait(2)


@pytest.mark.parametrize(
    ("script", "outcome", "code", "status"),
    [
        (refuse, records.REFUSED, "overloaded", "UNAVAILABLE"),
        (too_late, records.FAILED, "deadline", "UNAVAILABLE"),
        (break_off, records.FAILED, "connection_lost", "UNAVAILABLE"),
        (abort, records.FAILED, "internal", "INTERNAL"),
        (hang, records.FAILED, "deadline", "DEADLINE_EXCEEDED"),
    ],
)
def test_each_way_of_ending_is_recorded(tmp_path, script, outcome, code, status):
    run, _ = attacked(script, tmp_path / "r", timeout_s=0.5, seconds=0.2)
    found = {(record.outcome, record.code, record.status) for record in run.records}
    assert len(run.records) == 4 and found == {(outcome, code, status)}
    assert all(record.message for record in run.records)
    assert [record.retry_after_s for record in run.records] == [3.0 if script is refuse else None] * 4


def test_what_is_due_beyond_the_bound_is_not_sent_and_what_hangs_is_given_up(tmp_path):
    run, server = attacked(hang, tmp_path / "r", max_in_flight=3, drain_s=0.1)
    codes = [record.code for record in run.records]
    assert codes == ["unfinished"] * 3 + ["unsent"] * 7 and len(server.requests) == 3
    assert {record.outcome for record in run.records} == {records.ABANDONED}
    assert not run.interrupted and server.cancelled.wait(5), "what is given up is cancelled on the server"


def test_users_wait_for_each_answer(tmp_path):
    def script(servicer, image, request, context):
        time.sleep(0.05)
        yield done(request, b"")

    run, _ = attacked(script, tmp_path / "r", users=2, seconds=1.0, warmup_s=0.2)
    spans = sorted((record.sent, record.ended) for record in run.records)
    overlap = max(sum(start < end <= other for start, other in spans) for _, end in spans)
    assert overlap <= 2 and 30 <= len(run.records) <= 48
    assert [record.index for record in run.records] == list(range(len(run.records)))
    assert {record.warmup for record in run.records if record.intended < 0.2} == {True}
    assert {record.warmup for record in run.records if record.intended >= 0.2} == {False}


def test_without_a_server_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("zoetrope_bench.load.session.CONNECT_S", 0.3)
    even = (arrivals.Segment(start=1.0, end=1.0, seconds=1.0),)
    older = tmp_path / "r"
    older.write_text("worth hours")
    with pytest.raises(NoServer, match="127.0.0.1:1"):
        perform(Settings(url="127.0.0.1:1", classes=(PICTURE,), segments=even), older)
    assert older.read_text() == "worth hours", "older records outlive a run that did not begin"


def test_the_drain_counts_from_the_end_of_the_schedule(tmp_path):
    def script(servicer, image, request, context):
        time.sleep(0.5)
        yield done(request, b"")

    run, _ = attacked(script, tmp_path / "r", rate=1.0, seconds=0.9, drain_s=0.2)
    assert [record.code for record in run.records] == ["done"], "due at 0 and done at 0.5, of 0.9 seconds"
    assert run.seconds >= 0.9


def test_a_search_whose_server_dies_reports_what_it_found(tmp_path, monkeypatch):
    monkeypatch.setattr("zoetrope_bench.load.session.CONNECT_S", 0.3)
    rates = []

    def script(servicer, image, request, context):
        yield done(request, b"")

    with serving(script) as server:

        def one(settings, path, console):
            rates.append(settings.segments[0].start)
            there = settings if len(rates) == 1 else replace(settings, url="127.0.0.1:1")
            return perform(there, path)

        monkeypatch.setattr("zoetrope_bench.load.command.perform", one)
        load = ("load", "--url", server.url, "--rate", 50, "--arrivals", "constant", "--duration", 1)
        search = ("--slo", "p50<5s", "--find-capacity", "--lag-bound", 1, "--json", tmp_path / "c.json")
        ran = CliRunner().invoke(bench, [*map(str, load + search)])
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "c.json").read_text())["details"]
    assert found["passed"] == 50 and [trial["sound"] for trial in found["trials"]] == [True, False]


def test_what_cannot_be_written_or_read_is_one_line(tmp_path):
    path, head = tmp_path / "r.jsonl", {"kind": "run", "version": 1, "machine": {}, "began_at": ""}
    path.write_text(json.dumps({**head, "parameters": {"warmup_s": 0}}))
    ran = CliRunner().invoke(bench, ["load", "--from", str(path)])
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit) and "duration_s" in ran.output


def command(*arguments):
    return [sys.executable, "-m", "zoetrope_bench.load", "--image", __file__, *map(str, arguments)]


def test_an_interrupted_run_reports_what_there_is(tmp_path):
    path, report = tmp_path / "r.jsonl", tmp_path / "r.json"
    with toy_server(0.5) as url:  # more is asked for than is served, so that some are in flight
        load = ("--rate", 20, "--duration", 100, "--records", path, "--json", report)
        process = subprocess.Popen(command("--url", url, *load), stderr=subprocess.PIPE, text=True)

        def recorded():
            return path.exists() and path.read_text().count('"kind": "request"') >= 3

        wait_until(lambda: recorded() or process.poll() is not None, 60)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    run = records.read(path)
    codes = [record.code for record in run.records]
    assert run.interrupted and codes.count("done") >= 2 and codes.count("unfinished") >= 5
    assert json.loads(report.read_text())["details"]["interrupted"] is True
    again = subprocess.run(command("--from", path, "--json", tmp_path / "again.json"), capture_output=True)
    assert again.returncode == 0, "the records fold again without a server"
    first, second = (json.loads(file.read_text()) for file in (report, tmp_path / "again.json"))
    assert first["details"] == second["details"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--rate", 1, "--users", 2),
        ("--ramp", "fast"),
        ("--rate", 1, "--arrivals", "random"),
        ("--rate", 1, "--slo", "p95"),
        ("--rate", 1, "--find-capacity"),
        ("--users", 1, "--find-capacity", "--slo", "p95<1s"),
        ("--rate", 0),
        ("--ramp", "0@5"),
        ("--rate", "nan"),
        ("--rate", 1, "--steps", 0),
        ("--rate", 1, "--header", "token"),
        ("--rate", 1, "--mix", __file__),
    ],
)
def test_wrong_usage_is_said(arguments):
    ran = CliRunner().invoke(bench, ["load", *map(str, arguments)])
    assert ran.exit_code == 2 and "Error" in ran.output and isinstance(ran.exception, SystemExit)


@pytest.mark.serial
def test_the_capacity_of_a_known_server_is_bracketed(tmp_path):
    """One worker of 10 ms serves 100 a second; at 110 the last of 2 seconds wait for 200 ms."""
    with toy_server(0.01) as url:
        load = ("--rate", 60, "--arrivals", "constant", "--duration", 2, "--lag-bound", 0.1)
        objective = ("--find-capacity", "--slo", "p95<200ms", "--capacity-steps", 5)
        ran = subprocess.run(
            command("--url", url, *load, *objective, "--json", tmp_path / "c.json"),
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "c.json").read_text())["details"]
    assert found["bracketed"] and 80 <= found["passed"] <= 115 and 95 <= found["failed"] <= 125, found
