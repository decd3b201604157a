"""What is asked of CUDA, without a GPU: recorded on the second call of a shape, replayed from then on."""

from types import SimpleNamespace

import pytest

from zoetrope_server.engines.cuda_graphs import MAX_GRAPHS, CudaGraphs


class Cuda:
    """The calls of cuda-python that are used, which are noted down."""

    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=2)

    def __init__(self):
        self.calls, self.made = [], 0

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name.removeprefix("cuda"), *arguments))
            if name in ("cudaStreamEndCapture", "cudaGraphInstantiate"):
                self.made += 1
                return self.made
            return None

        return call


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def graphs(cuda):
    return CudaGraphs(cuda, lambda result: result, stream=7)


def run(graphs, cuda, key):
    """The calls that one run makes; a launch is one of them."""
    cuda.calls.clear()
    graphs.run(key, lambda: cuda.calls.append(("launch",)))
    return list(cuda.calls)


def test_a_shape_runs_then_is_recorded_then_is_replayed(graphs, cuda):
    assert run(graphs, cuda, "a") == [("launch",)]
    assert run(graphs, cuda, "a") == [
        ("StreamBeginCapture", 7, 2),
        ("launch",),
        ("StreamEndCapture", 7),
        ("GraphInstantiate", 1, 0),
        ("GraphDestroy", 1),
        ("GraphLaunch", 2, 7),
    ]
    assert run(graphs, cuda, "a") == [("GraphLaunch", 2, 7)]
    assert run(graphs, cuda, "b") == [("launch",)]


def test_what_was_recorded_is_forgotten_when_a_buffer_moves(graphs, cuda):
    run(graphs, cuda, "a"), run(graphs, cuda, "a"), run(graphs, cuda, "b")
    cuda.calls.clear()
    graphs.clear()
    assert cuda.calls == [("GraphExecDestroy", 2)]
    assert run(graphs, cuda, "a") == [("launch",)]


def test_few_are_kept(graphs, cuda):
    run(graphs, cuda, "first"), run(graphs, cuda, "first")
    for number in range(MAX_GRAPHS - 1):
        run(graphs, cuda, number)
    assert run(graphs, cuda, "first") == [("GraphLaunch", 2, 7)], "it was used last"
    for number in range(MAX_GRAPHS):
        calls = run(graphs, cuda, ("new", number))
    assert ("GraphExecDestroy", 2) in calls
    assert run(graphs, cuda, "first") == [("launch",)]


def test_a_recording_that_fails_is_ended(graphs, cuda):
    run(graphs, cuda, "a")

    def refuse():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        graphs.run("a", refuse)
    assert cuda.calls[-1] == ("StreamEndCapture", 7)
    assert run(graphs, cuda, "a")[-1][0] == "GraphLaunch", "and the next one records"
