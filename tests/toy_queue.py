"""A gRPC server of known service times: one worker, first come first served, that computes each departure.

    python tests/toy_queue.py --service 0.003 [--stall-at 2 --stall-for 1]

It prints its port. A request that arrives at `a` leaves at max(a, end of the one before) + service: absolute
times, so that what a sleep overshoots is not carried on. Its stream is `done`, when it leaves, with the
seconds that it waited.
"""

import argparse
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from zoetrope_core import contract
from zoetrope_core.contract import Response
from zoetrope_core.events import Done


class Worker:
    """One worker; `stall` is an interval, in seconds after the first arrival, in which it does nothing."""

    def __init__(self, service, stall):
        self._service, self._stall = service, stall
        self._lock, self._free, self._first = threading.Lock(), 0.0, None

    def serve(self, arrival):
        """When a request that has arrived leaves, and how long it waits before it is served."""
        with self._lock:
            self._first = arrival if self._first is None else self._first
            start = max(arrival, self._free)
            begin, end = (self._first + moment for moment in self._stall)
            if start < end and start + self._service > begin:
                start = end
            self._free = start + self._service
            return self._free, start - arrival


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, worker):
        self._worker = worker

    def ModelStreamInfer(self, messages, context):
        for _ in messages:
            leaves, waited = self._worker.serve(time.perf_counter())
            if (rest := leaves - time.perf_counter()) > 0:
                time.sleep(rest)
            done = Done(id="toy", seed=0, parameters={}, timings={"queue": waited}, video_bytes=0)
            yield answer(Response(event=done))


def answer(response):
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.model_name = contract.MODEL
    for name, tensor in contract.pack_response(response).items():
        assert tensor.dtype == np.object_
        message.infer_response.outputs.add(name=name, datatype="BYTES", shape=tensor.shape)
        message.infer_response.raw_output_contents.append(serialize_byte_tensor(tensor).item())
    return message


@contextmanager
def toy_server(service, *, stall_at=0.0, stall_for=0.0):
    """Its address; it runs in a process of its own, so that it shares no interpreter with the generator."""
    times = ("--service", service, "--stall-at", stall_at, "--stall-for", stall_for)
    command = [sys.executable, __file__, *map(str, times)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def main():
    parser = argparse.ArgumentParser()
    for name in ("service", "stall-at", "stall-for"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    given = parser.parse_args()
    worker = Worker(given.service, (given.stall_at, given.stall_at + given.stall_for))
    server = grpc.server(ThreadPoolExecutor(400), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(worker), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
