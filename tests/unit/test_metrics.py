"""What is counted of a request, whatever becomes of it."""

import asyncio

import pytest
from fakes import FakeChannel, FakeDecoder, FakeStages
from waiting import wait_until_async

from zoetrope_core.errors import StageFailed
from zoetrope_server import service as service_module
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
    assert metrics.counters == {
        ("zoetrope_requests_total", "stage_failed"): 1,
        ("zoetrope_steps_total", ""): 2,
    }
    assert ("zoetrope_request_seconds", "") not in metrics.seen
    assert ("zoetrope_stage_seconds", "denoise") in metrics.seen, "what it cost shows nevertheless"


async def test_requests_that_wait_and_work_that_is_known(metrics):
    release = asyncio.Event()
    of = service(metrics, FakeStages(gate=release.wait), max_waiting=1)
    first = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=2)))
    await wait_until_async(lambda: of.status()["active"] == 1)
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


async def test_what_waits_is_apart_from_what_runs_and_both_are_told_while_they_do(metrics, monkeypatch):
    monkeypatch.setattr(service_module, "REFRESH_SECONDS", 0.05)
    release = asyncio.Event()
    release.set()
    of = service(metrics, FakeStages(gate=release.wait), max_waiting=2)
    await of.serve(FakeChannel(num_inference_steps=2))
    release.clear()
    first = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=2)))
    await wait_until_async(lambda: metrics.gauges["zoetrope_work_seconds"][-1] > 0)
    assert metrics.gauges["zoetrope_queued_seconds"][-1] == 0, "nobody else could do what runs"
    second = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=200)))
    await wait_until_async(lambda: metrics.gauges["zoetrope_queued_seconds"][-1] > 0)
    work, queued = (metrics.gauges[f"zoetrope_{name}_seconds"][-1] for name in ("work", "queued"))
    assert 0 < queued < work
    of.drain()
    told = len(metrics.gauges["zoetrope_queued_seconds"])
    await wait_until_async(lambda: len(metrics.gauges["zoetrope_queued_seconds"]) > told)
    assert metrics.gauges["zoetrope_queued_seconds"][-1] == 0
    release.set()
    await asyncio.gather(first, second)
    assert metrics.counters["zoetrope_steps_total", ""] == 204
    assert metrics.gauges["zoetrope_work_seconds"][-1] == 0


async def test_steps_count_while_they_are_done(metrics, monkeypatch):
    monkeypatch.setattr(service_module, "REFRESH_SECONDS", 0.02)
    steps = iter(range(100))
    stuck = asyncio.Event()

    async def gate():
        if next(steps) == 3:
            await stuck.wait()

    of = service(metrics, FakeStages(gate=gate))
    running = asyncio.create_task(of.serve(FakeChannel(num_inference_steps=5)))
    await wait_until_async(lambda: metrics.counters.get(("zoetrope_steps_total", "")) == 3)
    stuck.set()
    await running
    assert metrics.counters["zoetrope_steps_total", ""] == 5
