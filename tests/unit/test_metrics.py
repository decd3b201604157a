"""What is counted of a request, whatever becomes of it."""

import asyncio

import pytest
from fakes import FakeChannel, FakeDecoder, FakeStages

from zoetrope_core.errors import StageFailed
from zoetrope_server.admission import Admission
from zoetrope_server.metrics import METRICS
from zoetrope_server.service import Service


class Recorded:
    """Metrics as they would be read."""

    def __init__(self):
        self.counters, self.gauges, self.seen = {}, {}, {}

    def add(self, name, value=1.0, label=""):
        assert METRICS[name].kind == "counter" and bool(label) == bool(METRICS[name].label)
        self.counters[name, label] = self.counters.get((name, label), 0) + value

    def set(self, name, value):
        assert METRICS[name].kind == "gauge"
        self.gauges.setdefault(name, []).append(value)

    def observe(self, name, value, label=""):
        assert METRICS[name].kind == "histogram" and bool(label) == bool(METRICS[name].label)
        self.seen.setdefault((name, label), []).append(value)


@pytest.fixture
def metrics():
    return Recorded()


def service(metrics, stages=None, **limits):
    return Service(
        manifest=FakeStages().manifest,
        stages=stages or FakeStages(),
        decoder=FakeDecoder(),
        admission=Admission(**({"max_active": 1, "max_waiting": 0} | limits)),
        metrics=metrics,
    )


async def test_a_served_request(metrics):
    of = service(metrics)
    await of.serve(FakeChannel(num_inference_steps=3, num_frames=6))
    assert metrics.counters == {
        ("zoetrope_requests_total", "done"): 1,
        ("zoetrope_steps_total", ""): 3,
        ("zoetrope_frames_total", ""): 6,
    }
    stages = {label for name, label in metrics.seen if name == "zoetrope_stage_seconds"}
    assert {"decode_image", "encode_image", "encode_latents", "denoise", "decode", "encode_video"} <= stages
    assert "total" not in stages
    assert len(metrics.seen["zoetrope_request_seconds", ""]) == 1
    assert len(metrics.seen["zoetrope_queue_seconds", ""]) == 1
    assert metrics.gauges["zoetrope_active_requests"] == [1, 0]
    assert metrics.gauges["zoetrope_waiting_requests"] == [0, 0]


async def test_a_failure_counts_by_its_code_and_not_as_served(metrics):
    of = service(metrics, FakeStages(fail="decode", error=StageFailed("no")))
    await of.serve(FakeChannel(num_inference_steps=2))
    assert metrics.counters == {("zoetrope_requests_total", "stage_failed"): 1}
    assert ("zoetrope_request_seconds", "") not in metrics.seen
    assert ("zoetrope_stage_seconds", "denoise") in metrics.seen, "what it cost shows nevertheless"


async def test_requests_that_wait_and_work_that_is_known(metrics):
    release = asyncio.Event()
    of = service(metrics, FakeStages(gate=release.wait), max_waiting=1)
    first = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=2)))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=2)))
    await asyncio.sleep(0.05)
    assert metrics.gauges["zoetrope_waiting_requests"][-1] == 1
    await of.serve(FakeChannel(num_inference_steps=2))
    assert metrics.counters["zoetrope_requests_total", "overloaded"] == 1
    release.set()
    await asyncio.gather(first, second)
    assert metrics.counters["zoetrope_requests_total", "done"] == 2
    assert max(metrics.seen["zoetrope_queue_seconds", ""]) > 0.05
    await of.serve(FakeChannel(num_inference_steps=2))
    assert max(metrics.gauges["zoetrope_work_seconds"]) > 0, "known once one was served"
    assert metrics.gauges["zoetrope_work_seconds"][-1] == 0
