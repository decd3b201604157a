"""What is asked of CUDA and of an execution context, without a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest

from zoetrope_core.specs import STAGES
from zoetrope_server.engines import EngineError, tensorrt
from zoetrope_server.engines.cuda_graphs import CudaGraph
from zoetrope_server.engines.executions import MAX_CONTEXTS, Execution, Executions
from zoetrope_server.engines.runtime_cache import RuntimeCache
from zoetrope_server.engines.tensorrt import DeviceMemory, TensorRtEngine

RECORDED = [
    ("launch",),
    ("StreamBeginCapture", 7, 2),
    ("launch",),
    ("StreamEndCapture", 7),
    ("GraphInstantiate", 1, 0),
    ("GraphDestroy", 1),
]


class Cuda:
    """The calls of cuda-python that are used, which are noted down."""

    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=2)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorInsufficientDriver=35)
    IErrorRecorder = object
    cudaHostAllocDefault = 0

    def __init__(self):
        self.calls, self.made, self.failing, self.host = [], 0, set(), []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name.removeprefix("cuda"), *arguments))
            if name == "cudaGetErrorString":
                return 0, b"out of memory"
            if name in self.failing:
                return (2,)
            if name == "cudaStreamCreate":
                return 0, 7
            if name == "cudaHostAlloc":
                self.host.append(np.empty(arguments[0], np.uint8))
                return 0, self.host[-1].ctypes.data
            if name == "cudaMalloc":
                return 0, 4096 * len(self.calls)
            if name in ("cudaStreamEndCapture", "cudaGraphInstantiate"):
                self.made += 1
                return 0, self.made
            return (0,)

        return call


class Quiet:
    """An error recorder that was told nothing."""

    def taken(self):
        return []


class Context:
    """An execution context whose output has the shape of its first input."""

    def __init__(self, cuda):
        self.cuda, self.shapes, self.addresses, self.works = cuda, {}, {}, True

    def __getattr__(self, name):
        return lambda *arguments: self.cuda.calls.append((name, *arguments)) is None

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return min(shape) > 0

    def get_tensor_shape(self, name):
        return next(iter(self.shapes.values()))

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        self.cuda.calls.append(("launch",))
        return self.works


@pytest.fixture
def cuda(monkeypatch):
    module = Cuda()
    monkeypatch.setattr(tensorrt, "load", lambda name: module)
    return module


@pytest.fixture
def memory(cuda):
    return DeviceMemory()


@pytest.fixture
def execution(cuda, memory):
    cuda.calls.clear()
    return Execution(Context(cuda), 7, CudaGraph(cuda, memory.call, 7), Quiet())


def run(execution, cuda, addresses):
    """The calls that one run makes; a launch is one of them."""
    cuda.calls.clear()
    execution.run(addresses)
    return list(cuda.calls)


def test_the_second_run_is_launched_and_recorded_and_the_third_replayed(execution, cuda):
    """Launched first: no graph may hold what brings a context up to date after a change."""
    assert run(execution, cuda, {"x": 1}) == [("launch",)]
    assert run(execution, cuda, {"x": 1}) == RECORDED
    assert run(execution, cuda, {"x": 1}) == [("GraphLaunch", 2, 7)]


def test_what_was_recorded_is_dropped_when_a_buffer_moves(execution, cuda):
    run(execution, cuda, {"x": 1}), run(execution, cuda, {"x": 1})
    assert run(execution, cuda, {"x": 2}) == [("GraphExecDestroy", 2), ("launch",)]
    assert execution._context.addresses == {"x": 2}


@pytest.mark.parametrize(
    "failing", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_what_cannot_be_recorded_is_launched(execution, cuda, caplog, failing):
    run(execution, cuda, {"x": 1})
    cuda.failing.add(failing)
    assert run(execution, cuda, {"x": 1})[0] == ("launch",)
    assert "no CUDA graph" in caplog.text
    assert run(execution, cuda, {"x": 1}) == [("launch",)], "and is not tried again"


def test_an_engine_that_fails_is_an_error(execution, cuda):
    execution._context.works = False
    with pytest.raises(EngineError, match="the engine failed"):
        execution.run({"x": 1})
    with pytest.raises(EngineError, match="refuses the shape"):
        execution.output_shape("y", {"x": (0, 2)})


def test_few_contexts_are_kept_and_their_graphs_go_with_them(cuda, memory):
    kept = Executions(lambda profile: Execution(Context(cuda), 7, CudaGraph(cuda, memory.call, 7), Quiet()))
    first = kept.get(0, "first")
    run(first, cuda, {"x": 1}), run(first, cuda, {"x": 1})
    for number in range(MAX_CONTEXTS - 1):
        kept.get(0, number)
    assert kept.get(0, "first") is first, "it was used last"
    cuda.calls.clear()
    for number in range(MAX_CONTEXTS):
        kept.get(0, ("new", number))
    assert cuda.calls == [("GraphExecDestroy", 2)]
    assert kept.get(0, "first") is not first


def test_a_buffer_that_could_not_grow_is_not_used_again(cuda, memory):
    """Its old memory was given back."""
    memory.reserve("x", 10)
    cuda.failing.add("cudaMalloc")
    with pytest.raises(EngineError, match="out of memory"):
        memory.reserve("x", 20)
    cuda.failing.clear()
    cuda.calls.clear()
    memory.reserve("x", 5)
    assert [call[0] for call in cuda.calls] == ["Malloc"]


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def engine(request, cuda, monkeypatch, tmp_path):
    """An engine whose library is noted down; the encoder of images, for up to four of them."""
    made = []
    kernels = SimpleNamespace(serialize=lambda: b"kernels")

    def create(strategy):
        made.append((Context(cuda), strategy))
        return made[-1][0]

    def loaded(data):
        return SimpleNamespace(
            create_execution_context=create,
            create_runtime_config=lambda: SimpleNamespace(
                create_runtime_cache=lambda: kernels, set_runtime_cache=lambda cache: True
            ),
            device_memory_size_v2=64,
            num_optimization_profiles=1,
            get_tensor_profile_shape=lambda name, index: [(1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 64, 64)],
        )

    cuda.Logger = type("Logger", (), {"WARNING": 0, "__init__": lambda self, level: None})
    cuda.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=loaded)
    cuda.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    cuda.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="managed")
    cuda.__version__ = "1"
    file = tmp_path / "engine.plan"
    file.write_bytes(b"")
    profiles = ({"B": (1, 1, 4), "H": (8, 8, 64), "W": (8, 8, 64)},)
    sidecar = SimpleNamespace(key=SimpleNamespace(profiles=profiles))
    monkeypatch.setattr(tensorrt, "checked_engine", lambda *_, **__: (file, sidecar))
    stage = STAGES["vae_encoder"]
    opened = TensorRtEngine(tmp_path, stage, engine=request.param, precision="fp32")
    return SimpleNamespace(kind=request.param, opened=opened, made=made)


def test_shapes_that_take_turns_do_not_share_what_was_recorded(engine, cuda):
    """TensorRT: a context for each shape, in one memory. TensorRT-RTX records by itself, in one context."""
    counts = []
    for size in (8, 16, 8, 16, 8, 16):
        cuda.calls.clear()
        outputs = engine.opened.run({"pixels": np.zeros((1, 3, size, size), np.float32)})
        assert outputs["latents"].shape == (1, 3, size, size)
        counts.append(
            [sum(name == wanted for name, *_ in cuda.calls) for wanted in ("launch", "GraphLaunch")]
        )
    given = [strategy for _, strategy in engine.made]
    if engine.kind == "tensorrt":
        assert given == ["managed"] * 3
        # Memory for the largest shapes is there from the start: no buffer moves and ends what was recorded.
        assert counts == [[1, 0], [1, 0], [2, 0], [2, 0], [0, 1], [0, 1]]
        assert [context.shapes["pixels"][-1] for context, _ in engine.made] == [64, 8, 16]
    else:
        assert [config.cuda_graph_strategy for config in given] == ["whole"]
        assert counts == [[1, 0]] * 6


def test_all_copies_are_between_the_gpu_and_page_locked_memory(engine, cuda):
    """Also those to the answers of earlier calls, which stay as they are while somebody holds them."""
    kept = []
    for _ in range(3):
        cuda.calls.clear()
        outputs = engine.opened.run({"pixels": np.zeros((1, 3, 8, 8), np.float32)})
        kept.append(outputs["latents"].ctypes.data)
        held = outputs  # noqa: F841
        copies = [(call[2] if call[4] == 1 else call[1]) for call in cuda.calls if call[0] == "MemcpyAsync"]
        assert len(copies) == 2
        assert all(any(block.ctypes.data == address for block in cuda.host) for address in copies)
    assert kept[1] != kept[0] and len(cuda.host) == 3, "one staged input, two answers in turn"


def test_kernels_that_were_compiled_are_there_for_the_next_process(tmp_path):
    """TensorRT-RTX compiles them in each process anew, tens of seconds for a large UNet."""
    file, given = tmp_path / "unet.plan", []

    def config(refused=False):
        compiled = []
        kernels = SimpleNamespace(
            serialize=lambda: b"old and new",
            deserialize=lambda data: compiled.append(data) is None and not refused,
        )
        given.append(compiled)
        return SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=given.append)

    first = RuntimeCache(file)
    first.give(config())
    first.save({"x": (1, 2)})
    saved = tmp_path / "unet.plan.kernels"
    assert saved.read_bytes() == b"old and new"
    saved.write_bytes(b"kept")
    first.save({"x": (1, 2)})
    assert saved.read_bytes() == b"kept", "once for each set of shapes"
    second = RuntimeCache(file)
    second.give(config())
    assert given[2] == [b"kept"]
    RuntimeCache(file).give(config(refused=True))


def test_a_folder_that_cannot_be_written_keeps_no_kernels(tmp_path):
    cache = RuntimeCache(tmp_path / "missing" / "unet.plan")
    kernels = SimpleNamespace(serialize=lambda: b"")
    cache.give(SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=lambda cache: True))
    cache.save({"x": (1,)})
