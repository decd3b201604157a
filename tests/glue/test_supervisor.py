"""`zoetrope serve` over a scripted tritonserver: signals, grace periods, crash loops.

What depends on how Triton itself behaves is in tests/e2e/test_supervisor.py.
"""

import os
import shutil
import signal
import socket
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import scripted_triton
from supervised import infer, model, starting, streaming, tritons
from waiting import wait_until

from zoetrope_server.launcher.settings import ServeSettings


@pytest.fixture
def repository(tmp_path):
    for name in ("echo", "work"):
        model(tmp_path / "models", name, name)
    return tmp_path / "models"


@pytest.fixture
def start(tmp_path, repository, monkeypatch):
    binary = scripted_triton.install(tmp_path / "triton")
    monkeypatch.setenv("PATH", str(binary.parent), prepend=os.pathsep)
    with starting(tmp_path, repository) as start:
        yield partial(start, "--restart")


@pytest.fixture
def stream():
    with streaming() as stream:
        yield stream


def test_a_signal_drains_first(start, stream):
    server = start().wait_ready()
    running = stream(server, 2.0)
    server.process.send_signal(signal.SIGINT)
    wait_until(lambda: server.probe("/readyz")[0] == 503, seconds=1)
    assert server.probe("/readyz")[1] == {"status": "draining", "reason": "the server is shutting down"}
    assert server.probe("/livez")[0] == 200
    wait_until(lambda: server.status().draining, seconds=1)
    assert running.next(10) == ([2.0], None)
    running.close()  # an idle stream keeps Triton from unloading
    assert server.end() == 0


def test_the_grace_period_ends(start, stream):
    server = start("--grace-period-s=0.5").wait_ready()
    running = stream(server, 60.0)
    server.process.send_signal(signal.SIGTERM)
    _, error = running.next(10)
    assert "shut down before" in error.message()
    running.close()
    assert server.end() == 4


def test_a_second_signal_ends_at_once(start, stream):
    server = start().wait_ready()
    stream(server, 60.0)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.probe("/readyz")[0] == 503)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 5
    assert time.monotonic() - began < 3


def test_a_killed_tritonserver_comes_back_on_the_same_ports(start, stream):
    server = start().wait_ready()
    running = stream(server, 60.0)
    triton = server.endpoints["triton_pid"]
    os.kill(triton, signal.SIGKILL)
    wait_until(lambda: server.probe("/readyz")[0] == 503, seconds=1)
    assert server.probe("/livez")[0] == 200
    assert running.next(2)[1] is not None
    wait_until(lambda: server.probe("/readyz")[0] == 200)
    assert not psutil.pid_exists(triton)
    (page,) = Path("/dev/shm").glob(server.prefix + "page-*")
    assert not page.name.endswith(f"-{triton}"), "the pages of the dead one are gone"
    assert infer(server, [3.0]) == [3.0]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0


def test_a_tritonserver_that_cannot_come_back_ends_the_server(start, repository):
    server = start().wait_ready()
    model(repository, "broken", "broken")
    os.kill(server.endpoints["triton_pid"], signal.SIGKILL)
    assert server.end() == 3
    reason = "restart failed: tritonserver ended with code 1 before it was ready: failed to load 'broken'"
    assert server.stderr().count(reason) == 5
    assert "too many restarts" in server.stderr()


def test_models_that_load_for_too_long_end_the_start(start, repository):
    model(repository, "slow", "slow")
    server = start("--start-timeout-s=1")
    assert server.end() == 1
    assert "Triton was not ready after 1 s" in server.stderr()


def test_a_tritonserver_that_does_not_exit_is_killed(start, repository):
    model(repository, "stuck", "stuck")
    server = start().wait_ready()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Waiting for in-flight requests" in server.stderr())
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 5
    assert "Triton did not exit in time; killing it" in server.stderr()


def test_a_crash_loop_ends(start):
    server = start().wait_ready()
    for _ in range(6):
        (triton,) = tritons(server)
        triton.kill()
        psutil.wait_procs([triton], timeout=5)
        wait_until(lambda: server.process.poll() is not None or (tritons(server) and server.ready()), 20)
    assert server.end() == 3
    assert "too many restarts" in server.stderr()


def test_a_taken_port_is_said(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(f"--grpc-port={port}")
        assert server.end() == 1
    assert f"cannot listen on 127.0.0.1:{port} for grpc" in server.stderr()
    assert "Traceback" not in server.stderr()


def test_a_signal_while_the_models_load(start, repository):
    model(repository, "slow", "slow")
    server = start()
    wait_until(lambda: "loading: slow" in server.stderr())
    server.process.send_signal(signal.SIGTERM)
    assert server.end(10) == 0


def test_a_repository_without_an_orchestrator(start, repository):
    shutil.rmtree(repository / "work")
    server = start("--log-file", repository.parent / "triton.log").wait_ready()
    assert infer(server, [5.0]) == [5.0]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert "successfully loaded 'echo'" in (repository.parent / "triton.log").read_text()
    assert "successfully loaded" not in server.stderr()


def test_an_empty_variable_is_none(start):
    names = [f"ZOETROPE_{name.upper()}" for name in ServeSettings.model_fields]
    ports = {name for name in names if name.endswith("_PORT")}
    server = start(environment=dict.fromkeys([*names, "ZOETROPE_LOG_LEVEL"], "")).wait_ready()
    assert ports and server.endpoints["grpc"].startswith("127.0.0.1:") and server.endpoints["http"] is None


def test_a_terminal_that_closes_drains(start):
    server = start().wait_ready()
    with streaming() as stream:
        running = stream(server, 1.5)
        for _ in range(2):  # of the kernel and of the shell
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.probe("/readyz")[1]["status"] == "draining", 2)
        assert running.next(10) == ([1.5], None)
    assert server.end() == 0
    assert "did not exit in time" not in server.stderr()


def test_hangups_that_were_ignored_stay_so(start):
    server = start(prefix=("nohup",)).wait_ready()
    server.process.send_signal(signal.SIGHUP)
    assert infer(server, [1.0]) == [1.0]
    assert server.probe("/readyz") == (200, {"status": "ready"})
