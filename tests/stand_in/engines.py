"""A network that doubles its input, as a plan and as it runs."""

import ctypes
import importlib
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper


def doubling(path):
    """The graph `y = x + x` over any number of FP32."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y"))
    return save(path, helper.make_node("Add", ["x", "x"], ["y"]), [x], [y])


def attention(path, dim, kind):
    """One attention of two heads of `dim`."""
    dims = ["B", 2, "S", dim]
    *inputs, output = (helper.make_tensor_value_info(name, kind, dims) for name in "qkvy")
    return save(path, helper.make_node("Attention", list("qkv"), ["y"]), inputs, [output])


def save(path, node, inputs, outputs):
    """Writes a graph of one node."""
    graph = helper.make_graph([node], "graph", inputs, outputs)
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=11), path)
    return path


def build(most=8):
    """A plan of the doubling network for up to `most` numbers."""
    library = importlib.import_module("tensorrt")
    builder = library.Builder(_logger(library))
    network = builder.create_network(0)
    parser = library.OnnxParser(network, _logger(library))
    with tempfile.TemporaryDirectory() as scratch:
        assert parser.parse_from_file(str(doubling(f"{scratch}/model.onnx")))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1,), (3,), (most,))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def _logger(library):
    from zoetrope_export.tensorrt_build import _library_logger

    return _library_logger(library)


class Run:
    """An engine of a plan with all that it needs to run."""

    def __init__(self, plan, scratch):
        self.cuda = importlib.import_module("cuda.bindings.runtime")
        library = importlib.import_module("tensorrt")
        recorder = importlib.import_module("zoetrope_server.engines.recorder")
        self.errors = recorder.error_recorder(library)
        self.runtime = library.Runtime(library.Logger(library.Logger.ERROR))
        self.runtime.error_recorder = self.errors
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            return
        self.stream = self.cuda.cudaStreamCreate()[1]
        managed = library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.context = self.engine.create_execution_context(managed)
        if scratch:
            size = self.engine.device_memory_size_v2
            self.context.set_device_memory(self.cuda.cudaMalloc(size)[1], size)
        self.context.set_optimization_profile_async(0, self.stream)
        self.context.set_input_shape("x", (3,))
        self.host = np.array([1.0, 2.0, 3.0], np.float32)
        self.x, self.y = (self.cuda.cudaMalloc(64)[1] for _ in range(2))
        for name, address in (("x", self.x), ("y", self.y)):
            self.context.set_tensor_address(name, address)
        self.upload(self.host.ctypes.data)

    def upload(self, source):
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert self.cuda.cudaMemcpyAsync(self.x, source, 12, kind, self.stream) == (0,)

    def write(self, values):
        self.host = np.array(values, np.float32)
        self.upload(self.host.ctypes.data)

    @staticmethod
    def write_at(address, values):
        (ctypes.c_float * len(values)).from_address(address)[:] = values

    def enqueue(self):
        assert self.context.execute_async_v3(self.stream)

    def capture(self):
        """The instantiated graph of one enqueue; None when it could not be captured."""
        assert self.cuda.cudaStreamBeginCapture(self.stream, 1) == (0,)
        self.context.execute_async_v3(self.stream)
        status, graph = self.cuda.cudaStreamEndCapture(self.stream)
        return None if status else self.cuda.cudaGraphInstantiate(graph, 0)[1]

    def output(self):
        self.enqueue()
        return copied(self)

    def said(self):
        return "; ".join(self.errors.taken())


def started(plan, *, scratch=True, check=True):
    run = Run(plan, scratch)
    assert run.engine is not None or not check, run.said()
    return run


def copied(run, wait=True):
    """The output on the host, whether it has arrived or not."""
    result = np.zeros(3, np.float32)
    kind = run.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    assert run.cuda.cudaMemcpyAsync(result.ctypes.data, run.y, 12, kind, run.stream) == (0,)
    early = result.tolist()
    assert run.cuda.cudaStreamSynchronize(run.stream) == (0,)
    return result.tolist() if wait else early
