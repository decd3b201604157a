"""The runtime's half: plans, contexts and enqueues over the stand-in for the GPU."""

import logging
import pickle
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import onnxruntime
import stand_in_device as gpu
from stand_in_device import Fault

MAGIC = b"stand-in plan 1\n"
ALIGNMENT = 256
"""ICudaEngine documentation, setTensorAddress: "at least 256-byte alignment"."""
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_logger = logging.getLogger("tensorrt")


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, severity=2):
        self.severity = severity

    def log(self, severity, message):
        if severity <= self.severity:
            _logger.error("%s", message)


class IErrorRecorder:
    """Its methods are those of an implementation."""


class Refused(Exception):
    """What the library says no to: it logs, tells the recorder and returns False or None."""


class Reporting:
    error_recorder = None
    logger = None

    def say(self, message):
        if self.error_recorder is not None:
            self.error_recorder.report_error(SimpleNamespace(name="UNSPECIFIED_ERROR"), str(message))
        else:
            self.logger.log(Logger.ERROR, str(message))


class Runtime(Reporting):
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, data):
        try:
            return ICudaEngine(self, bytes(data))
        except (Refused, Fault) as error:
            self.say(error)
            return None


class ICudaEngine:
    def __init__(self, runtime, data):
        if not data.startswith(MAGIC):
            raise Refused(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
                "header.magicTag == kEXPECTED_MAGIC_TAG failed.)"
            )
        plan = pickle.loads(data[len(MAGIC) :])
        here = gpu.device
        if plan["gpu"][1:] != (here.major, here.minor):
            raise Refused(
                "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is "
                f"generated on an incompatible device, expecting compute {here.major}.{here.minor} got "
                f"compute {plan['gpu'][1]}.{plan['gpu'][2]}, please rebuild.)"
            )
        self.runtime, self.profiles, self.tf32 = runtime, plan["profiles"], plan["tf32"]
        self._weights = gpu.device.allocate(len(data))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            plan["graph"], options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.outputs = {each.name: each for each in self.session.get_outputs()}
        self.shapes = {}

    def __del__(self):
        if address := getattr(self, "_weights", None):
            gpu.device.blocks.pop(address, None)

    @property
    def num_optimization_profiles(self):
        return len(self.profiles)

    @property
    def device_memory_size_v2(self):
        return max(map(self.get_device_memory_size_for_profile_v2, range(len(self.profiles))))

    def get_device_memory_size_for_profile_v2(self, index):
        """Four times the inputs at their largest: a figure, no more."""
        return 16 * sum(int(np.prod(shapes[2])) for shapes in self.profiles[index].values())

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index][name]

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        try:
            return IExecutionContext(self, strategy)
        except Fault as error:
            self.runtime.say(f"Error Code 2: OutOfMemory ({error})")
            return None

    def output_shape(self, name, shapes):
        """From the names of the dims, or where those do not tell by running the graph on zeros."""
        key = tuple(sorted(shapes.items()))
        if key not in self.shapes:
            self.shapes[key] = self._by_name(shapes) or self._by_running(shapes)
        return self.shapes[key][name]

    def _by_name(self, shapes):
        dims = {
            dim: size
            for each, shape in shapes.items()
            for dim, size in zip(self.inputs[each].shape, shape, strict=True)
            if isinstance(dim, str)
        }
        try:
            return {
                name: tuple(
                    dim if isinstance(dim, int) else int(eval(dim, {"__builtins__": {}}, dims))
                    for dim in output.shape
                )
                for name, output in self.outputs.items()
            }
        except (NameError, SyntaxError, TypeError):
            return None

    def _by_running(self, shapes):
        values = self.compute({name: np.zeros(shape, self.dtype(name)) for name, shape in shapes.items()})
        return {name: value.shape for name, value in values.items()}

    def dtype(self, name):
        return _TYPES[(self.inputs.get(name) or self.outputs[name]).type]

    def compute(self, inputs):
        return dict(zip(self.outputs, self.session.run(list(self.outputs), inputs), strict=True))


class IExecutionContext:
    def __init__(self, engine, strategy):
        self.engine, self.strategy = engine, strategy
        self.profile, self.shapes, self.addresses, self.memory = 0, {}, {}, (0, 0)
        self.generation, self.ready, self.stream = 0, -1, None
        self._own = None
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            self._own = gpu.device.allocate(engine.device_memory_size_v2)
            self.memory = (self._own, engine.device_memory_size_v2)
        gpu.contexts.add(self)

    def __del__(self):
        if getattr(self, "_own", None):
            gpu.device.blocks.pop(self._own, None)

    def set_optimization_profile_async(self, index, stream):
        """The bindings raise for what is no profile; all shapes are to be set again."""
        if not 0 <= index < self.engine.num_optimization_profiles:
            raise RuntimeError("Error in set optimization profile.")
        gpu.device.enqueue(stream, lambda: None)
        self.profile, self.shapes = index, {}
        self.generation += 1
        return True

    def set_device_memory(self, address, size):
        if size < self.engine.device_memory_size_v2:
            self.engine.runtime.say(
                "IExecutionContext::setDeviceMemoryV2: Error Code 3: API Usage Error (size is too small)"
            )
            return
        self.memory = (int(address), int(size))
        self.generation += 1

    def set_input_shape(self, name, shape):
        try:
            self._check_shape(name, tuple(shape))
        except Refused as error:
            self.engine.runtime.say(error)
            return False
        if self.shapes.get(name) != tuple(shape):
            self.shapes[name] = tuple(shape)
            self.generation += 1
        return True

    def _check_shape(self, name, shape):
        if name not in self.engine.inputs:
            raise Refused(f"IExecutionContext::setInputShape: {name} is no input")
        least, _, most = self.engine.profiles[self.profile][name]
        if len(shape) != len(least) or not all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        ):
            raise Refused(
                "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, "
                "condition: satisfyProfile. Runtime dimension does not satisfy any optimization profile. "
                f"{name}: {shape} is not in {least}..{most} of profile {self.profile})"
            )

    def get_tensor_shape(self, name):
        """With -1 where it depends on shapes that are not set."""
        if name in self.shapes:
            return self.shapes[name]
        if set(self.shapes) != set(self.engine.inputs):
            known = self.engine.inputs.get(name) or self.engine.outputs[name]
            return tuple(dim if isinstance(dim, int) else -1 for dim in known.shape)
        return self.engine.output_shape(name, self.shapes)

    def set_tensor_address(self, name, address):
        if name not in self.engine.inputs and name not in self.engine.outputs:
            return False
        if address % ALIGNMENT:
            self.engine.runtime.say(f"setTensorAddress: {name} is not aligned to {ALIGNMENT} bytes")
            return False
        if self.addresses.get(name) != int(address):
            self.addresses[name] = int(address)
            self.generation += 1
        return True

    def execute_async_v3(self, stream_handle):
        stream = int(stream_handle)
        gpu.device.enqueues += 1
        try:
            self._check(stream)
            gpu.device.enqueue(stream, self._work())
            if gpu.device.stream(stream).captured is None:
                self.ready, self.stream = self.generation, stream
        except (Refused, Fault) as error:
            self.engine.runtime.say(f"IExecutionContext::enqueueV3: {error}")
            return False
        return True

    def _check(self, stream):
        device = gpu.device
        if device.sticky:
            raise Fault(device.sticky, "Error Code 1: Cuda Runtime (a sticky error)")
        if device.faulty("enqueue"):
            raise Refused("Error Code 1: Myelin (no kernel image is available)")
        if device.faulty("capture"):
            device.stream(stream).broken = True
            raise Fault(gpu.CAPTURE_UNSUPPORTED, "Error Code 1: Cuda Runtime (an allocation)")
        for name in (*self.engine.inputs, *self.engine.outputs):
            if name in self.engine.inputs and name not in self.shapes:
                raise Refused(f"Error Code 7: Internal Error (shape of {name} is not set)")
            if not self.addresses.get(name):
                raise Refused(
                    "Error Code 3: API Usage Error (Neither address or allocator is set for output tensor "
                    f"{name}. Call setTensorAddress before enqueue/execute.)"
                )
        if self.memory[1] < self.engine.device_memory_size_v2:
            raise Refused("Error Code 3: API Usage Error (user-managed device memory is not set)")
        if self.stream not in (None, stream) and device.busy(self.stream):
            raise Refused("undefined: the context is at work on another stream")
        if device.stream(stream).captured is not None and self.ready != self.generation:
            # "call enqueueV3() once before the capture": what is deferred to it no graph may hold.
            device.stream(stream).broken = True
            raise Fault(gpu.CAPTURE_UNSUPPORTED, "the first enqueue after a change cannot be captured")

    def _work(self):
        """One execution, with the shapes and the addresses of now."""
        shapes, addresses, memory = dict(self.shapes), dict(self.addresses), self.memory
        generation, engine, device = self.generation, self.engine, gpu.device
        broken = device.faulty("launch")
        if device.faulty("record"):
            self.engine.runtime.say("Error Code 1: Myelin (a kernel could not be compiled)")

        def work():
            if broken or generation != self.generation:
                # A graph of a context that was changed since: undefined, in the worst case silently wrong.
                raise Fault(gpu.ILLEGAL_ADDRESS, "the context is not what it was")
            device.view(*memory)[:] = 0xEE  # whatever else lies there is lost
            tensors = {}
            for name, shape in shapes.items():
                dtype = np.dtype(engine.dtype(name))
                view = device.view(addresses[name], int(np.prod(shape)) * dtype.itemsize)
                tensors[name] = view.copy().view(dtype).reshape(shape)
            for name, value in engine.compute(tensors).items():
                data = np.ascontiguousarray(value).view(np.uint8).ravel()
                device.view(addresses[name], data.nbytes)[:] = data

        return work
