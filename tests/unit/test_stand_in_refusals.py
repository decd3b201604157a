"""What the stand-in refuses, each as the library does or as its documentation leaves undefined."""

import pytest
from stand_in import fixtures
from stand_in.engines import build, copied, started

pytest.importorskip("tensorrt_rtx")

stand_in = fixtures.stand_in


def test_it_computes_the_graph_that_was_parsed(stand_in):
    run = started(build())
    assert run.output() == [2.0, 4.0, 6.0]


def test_nothing_is_there_before_somebody_waits(stand_in):
    run = started(build())
    run.enqueue()
    result = copied(run, wait=False)
    assert result != [2.0, 4.0, 6.0]


def test_a_shape_outside_of_the_profile(stand_in):
    run = started(build(most=4))
    assert not run.context.set_input_shape("x", (5,))
    assert "does not satisfy any optimization profile" in run.said()


def test_a_tensor_that_is_not_bound(stand_in):
    run = started(build())
    run.context.addresses.pop("y")
    assert not run.context.execute_async_v3(run.stream)
    assert "Neither address or allocator is set for output tensor y" in run.said()


def test_an_address_that_is_not_aligned(stand_in):
    run = started(build())
    assert not run.context.set_tensor_address("x", run.x + 4)


def test_scratch_memory_that_was_not_given(stand_in):
    run = started(build(), scratch=False)
    assert not run.context.execute_async_v3(run.stream)
    assert "device memory is not set" in run.said()


def test_a_profile_that_there_is_not(stand_in):
    with pytest.raises(RuntimeError, match="optimization profile"):
        started(build()).context.set_optimization_profile_async(1, 0)


@pytest.mark.parametrize("spoil", ["host pointer", "freed", "too small"])
def test_an_address_that_is_no_memory_of_the_device_is_a_sticky_error(stand_in, spoil):
    run = started(build())
    if spoil == "freed":
        run.cuda.cudaFree(run.x)
    elif spoil == "host pointer":
        run.context.set_tensor_address("x", run.host.ctypes.data // 256 * 256)
    else:
        run.context.set_input_shape("x", (4,))
        run.context.set_tensor_address("y", run.cuda.cudaMalloc(4)[1])
    assert run.context.execute_async_v3(run.stream), "enqueueing does not look"
    illegal = run.cuda.cudaError_t.cudaErrorIllegalAddress
    assert run.cuda.cudaStreamSynchronize(run.stream) == (illegal,)
    assert run.cuda.cudaMalloc(16)[0] == illegal, "from here on each call fails"
    assert run.cuda.cudaGetLastError() == run.cuda.cudaGetLastError() == (illegal,)


def test_copies_know_which_side_is_which(stand_in):
    run = started(build())
    to_device = run.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    invalid = (run.cuda.cudaError_t.cudaErrorInvalidValue,)
    assert run.cuda.cudaMemcpyAsync(run.host.ctypes.data, run.x, 12, to_device, run.stream) == invalid
    assert run.cuda.cudaGetLastError() == invalid
    assert run.cuda.cudaGetLastError() == (0,), "read once, it is forgotten"


def test_a_context_is_on_one_stream_at_a_time(stand_in):
    run = started(build())
    other = run.cuda.cudaStreamCreate()[1]
    run.enqueue()
    assert not run.context.execute_async_v3(other)
    run.cuda.cudaStreamSynchronize(run.stream)
    assert run.context.execute_async_v3(other)


def test_memory_is_bounded(stand_in):
    run = started(build())
    status, address = run.cuda.cudaMalloc(stand_in.capacity)
    assert status == run.cuda.cudaError_t.cudaErrorMemoryAllocation and address is None
    stand_in.capacity = stand_in.used
    assert run.engine.create_execution_context() is None
    assert "OutOfMemory" in run.said()


def test_a_graph_is_replayed(stand_in):
    run = started(build())
    run.enqueue()
    graph = run.capture()
    run.write([5.0, 6.0, 7.0])
    assert run.cuda.cudaGraphLaunch(graph, run.stream) == (0,)
    assert copied(run) == [10.0, 12.0, 14.0]


def test_the_first_enqueue_after_a_change_cannot_be_captured(stand_in):
    run = started(build())
    assert run.capture() is None
    assert run.cuda.cudaStreamEndCapture(run.stream)[0] == run.cuda.cudaError_t.cudaErrorIllegalState


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaFree", "cudaStreamSynchronize"])
def test_what_a_capture_does_not_permit_ends_it(stand_in, call):
    run = started(build())
    run.enqueue()
    run.cuda.cudaStreamSynchronize(run.stream)
    run.cuda.cudaStreamBeginCapture(run.stream, 1)
    argument = {"cudaMalloc": 16, "cudaFree": run.x, "cudaStreamSynchronize": run.stream}[call]
    errors = run.cuda.cudaError_t
    assert getattr(run.cuda, call)(argument)[0] == errors.cudaErrorStreamCaptureUnsupported
    assert run.cuda.cudaStreamEndCapture(run.stream)[0] == errors.cudaErrorStreamCaptureInvalidated


def test_a_stream_is_captured_once_at_a_time(stand_in):
    run = started(build())
    assert run.cuda.cudaStreamBeginCapture(run.stream, 1) == (0,)
    assert run.cuda.cudaStreamBeginCapture(run.stream, 1) == (run.cuda.cudaError_t.cudaErrorIllegalState,)


@pytest.mark.parametrize("change", ["shape", "address", "memory"])
def test_a_graph_of_what_has_changed_since_is_a_fault(stand_in, change):
    run = started(build())
    run.enqueue()
    graph = run.capture()
    if change == "shape":
        run.context.set_input_shape("x", (2,))
    elif change == "address":
        run.context.set_tensor_address("x", run.cuda.cudaMalloc(64)[1])
    else:
        run.cuda.cudaFree(run.x)
    run.cuda.cudaGraphLaunch(graph, run.stream)
    assert run.cuda.cudaStreamSynchronize(run.stream) == (run.cuda.cudaError_t.cudaErrorIllegalAddress,)


def test_a_graph_that_was_destroyed(stand_in):
    run = started(build())
    run.enqueue()
    graph = run.capture()
    assert run.cuda.cudaGraphExecDestroy(graph) == (0,)
    invalid = run.cuda.cudaError_t.cudaErrorInvalidResourceHandle
    assert run.cuda.cudaGraphLaunch(graph, run.stream) == (invalid,)


def test_a_plan_of_another_gpu(stand_in):
    plan = build()
    stand_in.major, stand_in.minor = 8, 9
    run = started(plan, check=False)
    assert run.engine is None
    assert "expecting compute 8.9 got compute 9.0, please rebuild" in run.said()


def test_pinned_memory_is_read_when_the_copy_is_done(stand_in):
    """So a staging buffer must not be written again before somebody has waited."""
    run = started(build())
    buffer = run.cuda.cudaHostAlloc(12, 0)[1]
    run.write_at(buffer, [1.0, 1.0, 1.0])
    run.upload(buffer)
    run.write_at(buffer, [9.0, 9.0, 9.0])
    run.enqueue()
    assert copied(run) == [18.0, 18.0, 18.0]
