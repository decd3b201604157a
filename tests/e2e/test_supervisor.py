"""`zoetrope serve` over the real embedded Triton: its signals, its probes, what it leaves behind."""

import contextlib
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc

pytestmark = pytest.mark.e2e

ZOETROPE = Path(sys.executable).parent / "zoetrope"
PORTS = [f"--{name}-port=0" for name in ("grpc", "metrics", "health")]

ECHO_CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", array)]) for array in arrays]
"""
# Sleeps `x[0]` seconds for each request, in the background, and listens on the control socket.
WORK_CONFIG = ECHO_CONFIG + "model_transaction_policy { decoupled: true }\n"
WORK = """
import os, pathlib, threading
import triton_python_backend_utils as pb_utils
from zoetrope_server.control import ControlServer

class TritonPythonModel:
    def initialize(self, args):
        self.failed, self.reason, self.active, self.draining = threading.Event(), "", 0, False
        operations = {"status": self.status, "drain": self.drain, "fail": self.fail}
        self.control = ControlServer(pathlib.Path(os.environ["ZOETROPE_CONTROL_SOCKET"]), operations)

    def status(self, body):
        return {"active": self.active, "waiting": 0, "draining": self.draining}

    def drain(self, body):
        self.draining = True
        return {}

    def fail(self, body):
        self.reason = body["reason"]
        self.failed.set()
        return {}

    def execute(self, requests):
        for request in requests:
            self.active += 1
            seconds = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            sender = request.get_response_sender()
            threading.Thread(target=self.work, args=(seconds, sender), daemon=True).start()

    def work(self, seconds, sender):
        if self.failed.wait(float(seconds[0])):
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(self.reason))
        else:
            response = pb_utils.InferenceResponse([pb_utils.Tensor("y", seconds)])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.active -= 1

    def finalize(self):
        self.control.close()
"""
BROKEN = """
class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the engine file is damaged")
"""
SLOW_START = """
import time

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(60)
"""


class Server:
    """A running `zoetrope serve`, with everything it could leave behind in folders of its own."""

    def __init__(self, folder, repository, *flags):
        self.run_dir = Path(tempfile.mkdtemp(prefix="zt"))
        self.stderr_path = folder / "stderr.txt"
        self._stderr = self.stderr_path.open("wb")
        self.process = subprocess.Popen(
            [ZOETROPE, "serve", repository, *PORTS, *flags],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.run_dir)},
        )
        self.endpoints = {}
        self.prefix = None

    def wait_ready(self):
        line = self.process.stdout.readline()
        assert line, f"ended before it was ready:\n{self.stderr()}"
        self.endpoints = json.loads(line)
        self.prefix = shm_prefix(self.endpoints["triton_pid"])
        return self

    def stderr(self):
        return self.stderr_path.read_text(errors="replace")

    def probe(self, path):
        connection = http.client.HTTPConnection(self.endpoints["health"], timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def ready(self):
        with contextlib.suppress(OSError):  # it may end any time
            return self.probe("/readyz")[0] == 200
        return False

    def stub(self, model):
        children = psutil.Process(self.endpoints["triton_pid"]).children()
        return next(child.pid for child in children if f"/{model}/1/model.py" in " ".join(child.cmdline()))

    def end(self, timeout=30):
        """The exit code; fails when it does not end, leaves anything or has said more on standard output."""
        rest, _ = self.process.communicate(timeout=timeout)
        assert rest == ""
        self.assert_nothing_left()
        return self.process.returncode

    def assert_nothing_left(self):
        assert list(self.run_dir.iterdir()) == []
        assert processes_of(self.run_dir) == []
        if self.prefix:
            assert list(Path("/dev/shm").glob(self.prefix + "*")) == []

    def close(self):
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: not processes_of(self.run_dir))
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self._stderr.close()


class Stream:
    """One gRPC stream with one request of so many seconds on the model `work`."""

    def __init__(self, server, seconds):
        self.results = queue.Queue()
        self._client = grpc.InferenceServerClient(server.endpoints["grpc"])
        self._client.start_stream(lambda result, error: self.results.put((result, error)))
        self._client.async_stream_infer("work", [tensor([seconds])])

    def next(self, timeout):
        result, error = self.results.get(timeout=timeout)
        return (None if result is None else result.as_numpy("y").tolist()), error

    def close(self):
        with contextlib.suppress(Exception):
            self._client.stop_stream(cancel_requests=True)
        self._client.close()


def tensor(values):
    array = np.array(values, np.float32)
    value = grpc.InferInput("x", list(array.shape), "FP32")
    value.set_data_from_numpy(array)
    return value


def shm_prefix(triton):
    (flag,) = [
        argument for argument in psutil.Process(triton).cmdline() if "shm-region-prefix-name" in argument
    ]
    return flag.rpartition("=")[2]


def processes_of(run_dir):
    """All processes that know the runtime folder: tritonserver, stubs, what they started, the undertaker."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            text = " ".join([*process.cmdline(), *process.environ().values()])
            if str(run_dir) in text and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def tritons(server):
    """The tritonservers of the supervisor that run."""
    try:
        children = psutil.Process(server.process.pid).children()
        return [child for child in children if "tritonserver" in child.name() and child.status() != "zombie"]
    except psutil.NoSuchProcess:
        return []


def wait_until(condition, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def infer(server, values):
    with grpc.InferenceServerClient(server.endpoints["grpc"]) as client:
        return client.infer("echo", [tensor(values)]).as_numpy("y").tolist()


def model(repository, name, code, config=ECHO_CONFIG):
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1" / "model.py").write_text(code)


@pytest.fixture
def repository(tmp_path):
    model(tmp_path / "models", "echo", ECHO)
    model(tmp_path / "models", "work", WORK, WORK_CONFIG)
    return tmp_path / "models"


@pytest.fixture
def start(tmp_path, repository):
    """Starts servers; all are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*flags):
            server = Server(tmp_path, repository, *flags)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def stream():
    with contextlib.ExitStack() as stack:

        def stream(server, seconds):
            opened = Stream(server, seconds)
            stack.callback(opened.close)
            wait_until(lambda: "work" in server.stderr())
            time.sleep(0.3)  # until the request has reached the model
            return opened

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


def test_a_signal_drains_first(start, stream):
    server = start().wait_ready()
    running = stream(server, 2.0)
    server.process.send_signal(signal.SIGINT)
    wait_until(lambda: server.probe("/readyz")[0] == 503, timeout=1)
    assert server.probe("/readyz")[1] == {"status": "draining", "reason": "the server is shutting down"}
    assert server.probe("/livez")[0] == 200
    assert running.next(10) == ([2.0], None)
    assert server.end() == 0


def test_the_grace_period_ends(start, stream):
    server = start("--grace-period-s=0.5").wait_ready()
    running = stream(server, 60.0)
    server.process.send_signal(signal.SIGTERM)
    _, error = running.next(10)
    assert "shut down before" in error.message()
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


@pytest.mark.parametrize("victim", ["echo", "work"])
def test_a_dead_stage_process_ends_the_server(start, stream, victim):
    server = start("--no-restart").wait_ready()
    running = stream(server, 60.0)
    pid = server.stub(victim)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.probe("/readyz")[0] == 503, timeout=1)
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


@pytest.mark.parametrize("victim", ["echo", "tritonserver"])
def test_restart_comes_back_on_the_same_ports(start, stream, victim):
    server = start().wait_ready()
    running = stream(server, 60.0)
    triton = server.endpoints["triton_pid"]
    os.kill(triton if victim == "tritonserver" else server.stub(victim), signal.SIGKILL)
    wait_until(lambda: server.probe("/readyz")[0] == 503, timeout=1)
    assert server.probe("/livez")[0] == 200
    assert running.next(2)[1] is not None
    wait_until(lambda: server.probe("/readyz")[0] == 200)
    assert not psutil.pid_exists(triton)
    assert infer(server, [3.0]) == [3.0]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0


def test_a_crash_loop_ends(start):
    server = start().wait_ready()
    for _ in range(6):
        (triton,) = tritons(server)
        triton.kill()
        psutil.wait_procs([triton], timeout=5)
        wait_until(lambda: server.process.poll() is not None or (tritons(server) and server.ready()))
    assert server.end() == 3
    assert "too many restarts" in server.stderr()


def test_a_broken_model_ends_the_start_with_its_reason(start, repository):
    model(repository, "broken", BROKEN)
    server = start()
    assert server.end() == 1
    last = server.stderr().strip().splitlines()[-1]
    assert last.startswith("zoetrope serve: tritonserver ended with code 1 before it was ready")
    assert "broken" in last
    assert "the engine file is damaged" in server.stderr()


def test_a_taken_port_is_said(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(f"--grpc-port={port}")
        assert server.end() == 1
    assert f"cannot listen on 127.0.0.1:{port} for grpc" in server.stderr()
    assert "Traceback" not in server.stderr()


def test_a_signal_while_the_models_load(start, repository):
    model(repository, "slow", SLOW_START)
    server = start()
    wait_until(lambda: "loading: slow" in server.stderr())
    server.process.send_signal(signal.SIGTERM)
    assert server.end(10) == 0


def test_a_killed_supervisor_leaves_nothing(start, stream):
    server = start().wait_ready()
    running = stream(server, 60.0)
    server.process.kill()
    server.process.communicate(timeout=5)
    assert running.next(2)[1] is not None
    wait_until(lambda: not processes_of(server.run_dir), timeout=5)
    wait_until(lambda: not list(server.run_dir.iterdir()), timeout=5)
    server.assert_nothing_left()


def test_a_repository_without_an_orchestrator(start, repository):
    shutil.rmtree(repository / "work")
    server = start("--log-file", repository.parent / "triton.log").wait_ready()
    assert infer(server, [5.0]) == [5.0]
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == 0
    assert "successfully loaded 'echo'" in (repository.parent / "triton.log").read_text()
    assert "successfully loaded" not in server.stderr()
