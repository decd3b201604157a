"""A `tritonserver` for tests of the supervisor: starts in a moment, and each model does as a word says.

A model's `model.py` is that word: `echo` and `work` behave as the models of `supervised.py`, `slow` never
ends loading, `broken` cannot be loaded, `stuck` never unloads. The rest is as in the real one: a process for
each model, pages in /dev/shm, the control socket, the order in which ports open, the lines of the log.
"""

import contextlib
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WORDS = ("echo", "work", "slow", "broken", "stuck")
SERVING = b"\x08\x01"
_INFERENCE = "/inference.GRPCInferenceService/"


def install(directory):
    """Makes a Triton of the directory; its `tritonserver`, which `zoetrope serve` finds on PATH."""
    binary = directory / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    # Not as its interpreter: a path there may have no blank.
    binary.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-P", __file__])} "$@"\n')
    binary.chmod(0o755)
    (directory / "TRITON_VERSION").write_text("2.69.0\n")
    return binary


class Work:
    """The requests of the model `work`: each takes as many seconds as it says, unless all are failed."""

    def __init__(self):
        self.active, self.draining = 0, False
        self._lock, self._failed, self._reason = threading.Lock(), threading.Event(), ""

    def operations(self):
        return {"status": self._status, "drain": self._drain, "fail": self._fail}

    def run(self, seconds):
        """Why the request failed; nothing when it did not."""
        with self._counted():
            return self._reason if self._failed.wait(seconds) else ""

    def fail(self, reason):
        self._reason = reason
        self._failed.set()

    @contextlib.contextmanager
    def _counted(self):
        with self._lock:
            self.active += 1
        try:
            yield
        finally:
            with self._lock:
                self.active -= 1

    def _status(self, body):
        return {"active": self.active, "waiting": 0, "draining": self.draining}

    def _drain(self, body):
        self.draining = True
        return {}

    def _fail(self, body):
        self.fail(body["reason"])
        return {}


class Handler:
    """What Triton answers over gRPC; made with bytes where the libraries would take longer than all else."""

    def __init__(self, work):
        self._work = work

    def service(self, details):
        import grpc

        if details.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(lambda message, context: SERVING)
        from tritonclient.grpc import service_pb2

        parse = service_pb2.ModelInferRequest.FromString
        if details.method == _INFERENCE + "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._infer, parse)
        if details.method == _INFERENCE + "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream, parse)
        return None

    def _infer(self, message, context):
        return _echoed(message).SerializeToString()

    def _stream(self, messages, context):
        from tritonclient.grpc import service_pb2

        for message in messages:
            (seconds,) = struct.unpack("<f", message.raw_input_contents[0])
            answer = service_pb2.ModelStreamInferResponse(error_message=self._work.run(seconds))
            if not answer.error_message:
                answer.infer_response.CopyFrom(_echoed(message))
            yield answer.SerializeToString()


def _echoed(message):
    from tritonclient.grpc import service_pb2

    answer = service_pb2.ModelInferResponse(model_name=message.model_name, id=message.id)
    answer.outputs.add(name="y", datatype="FP32", shape=message.inputs[0].shape)
    answer.raw_output_contents.extend(message.raw_input_contents)
    return answer


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def log(level, source, text):
    """A line of Triton's log."""
    say(f'{level}1127 10:00:00.000000 {os.getpid()} {source}] "{text}"')


def load(models):
    """The processes of the models; ends or hangs as their words say."""
    for name in models:
        log("I", "model_lifecycle.cc:472", f"loading: {name}:1")
    stubs = []
    for name, path in models.items():
        word = path.read_text()
        assert word in WORDS, f"no word of a script: {word}"
        if word == "slow":
            signal.pause()
        if word == "broken":
            log("E", "model_lifecycle.cc:642", f"failed to load '{name}' version 1: Internal: it is broken")
            say("error: creating server: Internal - failed to load all models")
            sys.exit(1)
        stubs.append(subprocess.Popen(["tail", "-f", path], stdout=subprocess.DEVNULL))
        log("I", "model_lifecycle.cc:839", f"successfully loaded '{name}'")
    return stubs


def serve(flags, work):
    """Opens the ports, that of the metrics last; the gRPC server."""
    import grpc

    class Services(grpc.GenericRpcHandler):
        service = Handler(work).service

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([Services()])
    server.add_insecure_port(f"{flags['grpc-address']}:{flags['grpc-port']}")
    server.start()
    return server, socket.create_server((flags["metrics-address"], int(flags["metrics-port"])))


def main(arguments):
    """One life of it; it leaves its page in /dev/shm to the supervisor, as a killed Triton does."""
    from zoetrope_server.control import ControlServer

    Path("/proc/self/comm").write_text("tritonserver")
    flags = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    repository = Path(flags["model-repository"])
    models = {path.parent.parent.name: path for path in sorted(repository.glob("*/1/model.py"))}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    Path("/dev/shm", flags["backend-config"].rpartition("=")[2] + f"page-{os.getpid()}").touch()
    stubs, work = load(models), Work()
    words = {path.read_text() for path in models.values()}
    if "work" in words:
        control = ControlServer(Path(os.environ["ZOETROPE_CONTROL_SOCKET"]), work.operations())
    server, metrics = serve(flags, work)
    signal.sigwait([signal.SIGTERM])
    log("I", "server.cc:338", "Waiting for in-flight requests to complete.")
    work.fail("the server is exiting")  # as the BLS calls of a video do then
    server.stop(int(flags["exit-timeout-secs"])).wait()
    if "stuck" in words:
        signal.pause()
    metrics.close()
    if "work" in words:
        control.close()
    for stub in stubs:
        stub.kill()
        stub.wait()
    os._exit(0)  # threads of cancelled requests may still wait


if __name__ == "__main__":
    main(sys.argv[1:])
