"""A stand-in for `triton_python_backend_utils`, with the behaviour that was seen in the real one."""

import sys
import types

import numpy as np
import pytest


class Tensor:
    """A tensor; one "on the GPU" is as unreadable as in pb_tensor.cc of the python backend."""

    def __init__(self, name, array, on_gpu=False):
        assert isinstance(array, np.ndarray)
        self._name, self._array, self._on_gpu = name, array, on_gpu

    def name(self):
        return self._name

    def as_numpy(self):
        if self._on_gpu:
            raise RuntimeError("Tensor is stored in GPU and cannot be converted to NumPy.")
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None):
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Sender:
    """Keeps responses; sending after the final flag is an error, as in Triton."""

    def __init__(self):
        self.responses, self.final, self.cancelled = [], False, False
        self.last_ends = False

    def send(self, response=None, flags=0):
        assert not self.final, "sent after the final flag"
        if response is not None:
            self.responses.append(response)
        self.final = flags == 1
        self.last_ends = self.final and response is not None

    def is_cancelled(self):
        return self.cancelled


class Request:
    """A request as a model receives it."""

    def __init__(self, tensors, id=""):
        self._tensors, self._id, self.sender = tensors, id, Sender()

    def inputs(self):
        return [Tensor(name, array) for name, array in self._tensors.items()]

    def request_id(self):
        return self._id

    def get_response_sender(self):
        return self.sender

    def trace(self):
        return types.SimpleNamespace(get_context=lambda: None)


class PreferredMemory:
    def __init__(self, kind, device_id):
        self.kind, self.device_id = kind, device_id


class MetricFamily:
    """A family of metrics; `updates` is what was done to each, by its label's value."""

    COUNTER, GAUGE, HISTOGRAM = range(3)
    families: dict = {}

    def __init__(self, name, description, kind):
        self.kind, self.updates = kind, []
        MetricFamily.families[name] = self

    def Metric(self, labels, buckets=None):  # noqa: N802
        assert (buckets is not None) == (self.kind == MetricFamily.HISTOGRAM)
        label = next(iter(labels.values()), "")
        note = {name: lambda value, name=name: self.updates.append((name, label, value)) for name in VERBS}
        return types.SimpleNamespace(**note)


VERBS = ("increment", "set", "observe")


@pytest.fixture
def backend(monkeypatch):
    """The module; `backend.models[name]` is what a BLS call of that model does.

    The models of `backend.on_gpu` are hosted by Triton's own backends: they answer on the GPU unless the
    request prefers the CPU, as `ResponseAlloc` of request_executor.cc does.
    """
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    module.Request = Request
    module.MetricFamily = MetricFamily
    MetricFamily.families = {}
    module.models, module.on_gpu = {}, set()
    module.TRITONSERVER_MEMORY_CPU, module.TRITONSERVER_MEMORY_GPU = "cpu", "gpu"
    module.PreferredMemory = PreferredMemory

    class InferenceRequest:
        def __init__(self, model_name, requested_output_names, inputs, preferred_memory=None):
            self.model, self.outputs, self.inputs = model_name, requested_output_names, inputs
            asked = None if preferred_memory is None else preferred_memory.kind
            self.on_gpu = model_name in module.on_gpu and asked != module.TRITONSERVER_MEMORY_CPU

        async def async_exec(self):
            try:
                outputs = module.models[self.model]({t.name(): t.as_numpy() for t in self.inputs})
            except RuntimeError as error:
                return InferenceResponse(error=TritonError(str(error)))
            assert set(outputs) == set(self.outputs)
            return InferenceResponse([Tensor(name, array, self.on_gpu) for name, array in outputs.items()])

    module.InferenceRequest = InferenceRequest
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    for name in [name for name in sys.modules if name.startswith("zoetrope_server.triton")]:
        monkeypatch.delitem(sys.modules, name)
    yield module
    for name in [name for name in sys.modules if name.startswith("zoetrope_server.triton")]:
        sys.modules.pop(name)
