"""`zoetrope serve` under test: two models that are all Triton needs, a server, a stream."""

import contextlib
import http.client
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
from grpc import RpcError, insecure_channel
from tritonclient import grpc
from tritonclient.grpc import service_pb2_grpc
from waiting import wait_until

from zoetrope_server.launcher.control import ControlClient

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


class Server:
    """A running `zoetrope serve`, with everything it could leave behind in folders of its own."""

    def __init__(self, folder, repository, *flags, prefix=(), environment=None):
        self.run_dir = Path(tempfile.mkdtemp(prefix="zt"))
        self.stderr_path = folder / "stderr.txt"
        self._stderr = self.stderr_path.open("wb")
        self.process = subprocess.Popen(
            [*prefix, ZOETROPE, "serve", repository, *PORTS, *flags],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.run_dir), **(environment or {})},
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

    def status(self):
        """What the model `work` does, as the supervisor is told."""
        (folder,) = self.run_dir.iterdir()
        return ControlClient(path=folder / "control.sock").status()

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


def infer(server, values):
    with grpc.InferenceServerClient(server.endpoints["grpc"]) as client:
        return client.infer("echo", [tensor(values)]).as_numpy("y").tolist()


def model(repository, name, code, config=ECHO_CONFIG):
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1" / "model.py").write_text(code)


def ask(address, method, path, headers=None, body=b"{}"):
    """The HTTP status and the text of the answer."""
    request = urllib.request.Request(f"http://{address}{path}", method=method, headers=headers or {})
    request.data = body if method == "POST" else None
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(address, method, message, metadata=()):
    """The gRPC status, as text, and what was said."""
    with insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, method)(message, timeout=10, metadata=metadata)
            return "OK", ""
        except RpcError as error:
            return error.code().name, error.details()


def write_models(repository):
    """The models `echo` and `work`."""
    model(repository, "echo", ECHO)
    model(repository, "work", WORK, WORK_CONFIG)
    return repository


@contextlib.contextmanager
def starting(folder, repository):
    """A function that starts servers of a repository; all are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*flags, **options):
            server = Server(folder, repository, *flags, **options)
            stack.callback(server.close)
            return server

        yield start


@contextlib.contextmanager
def streaming():
    """A function that opens streams which have reached the model; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def stream(server, seconds):
            before = server.status().active
            opened = Stream(server, seconds)
            stack.callback(opened.close)
            wait_until(lambda: server.status().active > before)
            return opened

        yield stream
