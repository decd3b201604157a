"""`zoetrope serve` over the real embedded Triton: its signals, its probes, what it leaves behind."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from supervised import infer, model, processes_of, starting, streaming, write_models
from waiting import wait_until

pytestmark = pytest.mark.e2e

BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the engine file is damaged")
"""


@pytest.fixture
def repository(tmp_path):
    return write_models(tmp_path / "models")


@pytest.fixture
def start(tmp_path, repository):
    with starting(tmp_path, repository) as start:
        yield start


@pytest.fixture
def stream():
    with streaming() as stream:
        yield stream


def test_serves_until_sigterm(start):
    server = start().wait_ready()
    assert set(server.endpoints) == {"grpc", "http", "metrics", "health", "pid", "triton_pid"}
    assert server.endpoints["pid"] == server.process.pid
    assert server.probe("/livez") == (200, {"status": "ready"})
    assert server.probe("/readyz") == (200, {"status": "ready"})
    assert infer(server, [1.0, 2.0]) == [1.0, 2.0]
    assert server.endpoints["http"] is None
    host, port = server.endpoints["metrics"].split(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
    assert list(Path("/dev/shm").glob(server.prefix + "*"))
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0


@pytest.mark.parametrize("victim", ["echo", "work"])
def test_a_dead_stage_process_ends_the_server(start, stream, victim):
    server = start("--no-restart").wait_ready()
    running = stream(server, 60.0)
    pid = server.stub(victim)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.probe("/readyz")[0] == 503, seconds=1)
    assert server.probe("/readyz")[1]["reason"] == f"stage process {victim} (pid {pid}) died"
    _, error = running.next(2)
    assert time.monotonic() - began < 2
    if victim == "echo":  # the model that holds the stream lives and can say why
        assert f"stage process echo (pid {pid}) died" in error.message()
    assert server.end() == 3
    assert f"stage process {victim} (pid {pid}) died" in server.stderr()


def test_a_dead_tritonserver_ends_the_server(start, stream):
    server = start("--no-restart").wait_ready()
    running = stream(server, 60.0)
    os.kill(server.endpoints["triton_pid"], signal.SIGKILL)
    assert running.next(2)[1] is not None
    assert server.end() == 3
    assert "tritonserver (pid" in server.stderr()


def test_restart_comes_back_on_the_same_ports(start, stream):
    server = start().wait_ready()
    running = stream(server, 60.0)
    triton = server.endpoints["triton_pid"]
    os.kill(server.stub("echo"), signal.SIGKILL)
    wait_until(lambda: server.probe("/readyz")[0] == 503, seconds=1)
    assert server.probe("/livez")[0] == 200
    assert running.next(2)[1] is not None
    wait_until(lambda: server.probe("/readyz")[0] == 200)
    assert not psutil.pid_exists(triton)
    assert infer(server, [3.0]) == [3.0]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0


def test_a_broken_model_ends_the_start_with_its_reason(start, repository):
    model(repository, "broken", BROKEN)
    server = start()
    assert server.end() == 1
    last = server.stderr().strip().splitlines()[-1]
    assert last.startswith("zoetrope serve: tritonserver ended with code 1 before it was ready")
    assert "broken" in last
    assert "the engine file is damaged" in server.stderr()


def test_a_killed_supervisor_leaves_nothing(start, stream):
    server = start().wait_ready()
    running = stream(server, 60.0)
    server.process.kill()
    server.process.communicate(timeout=5)
    assert running.next(2)[1] is not None
    wait_until(lambda: not processes_of(server.run_dir), seconds=5)
    wait_until(lambda: not list(server.run_dir.iterdir()), seconds=5)
    server.assert_nothing_left()
