"""The service: every stream ends once, the queue is bounded, failures and cancellations arrive."""

import asyncio
import base64
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fakes import MANIFEST, FakeChannel, FakeDecoder, FakeStages, png
from waiting import wait_until_async

from zoetrope_core.contract import Response, bytes_tensor, pack_request
from zoetrope_core.errors import (
    Cancelled,
    DeadlineExceeded,
    Draining,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    StageLost,
)
from zoetrope_core.events import Accepted, Done, Heartbeat, Warned
from zoetrope_core.request import GenerateRequest
from zoetrope_server import admission
from zoetrope_server.admission import Admission
from zoetrope_server.service import Service
from zoetrope_server.ticket import Ticket


def service(stages=None, max_active=2, max_waiting=2, manifest=MANIFEST):
    return Service(
        manifest=manifest,
        stages=stages or FakeStages(),
        decoder=FakeDecoder(),
        admission=Admission(max_active=max_active, max_waiting=max_waiting),
    )


class Gate:
    """Denoising steps wait here until it opens."""

    def __init__(self):
        self.open, self.reached = asyncio.Event(), 0

    async def __call__(self):
        self.reached += 1
        await self.open.wait()


async def test_a_request_is_accepted_first_and_done_last(caplog):
    channel = FakeChannel(num_inference_steps=2, id="abc", seed=5)
    with caplog.at_level(logging.INFO):
        await service().serve(channel)
    assert channel.finished == [None]
    assert channel.events[0] == Accepted(id="abc", seed=5, steps=2)
    assert isinstance(channel.events[-1], Done)
    line = json.loads(caplog.messages[-1])
    assert line["request"] == "abc" and line["outcome"] == "done" and line["stages"]["denoise"] >= 0


@pytest.mark.parametrize("stage", ["encode_image", "encode_latents", "prepare", "denoise", "decode"])
async def test_an_unexpected_exception_ends_the_stream_without_its_text(stage):
    channel = FakeChannel()
    await service(FakeStages(fail=stage, error=RuntimeError("secret path"))).serve(channel)
    (error,) = channel.finished
    assert error.code == "internal" and error.status == "INTERNAL" and "secret" not in error.message


async def test_bad_input_is_refused_before_anything_else_happens():
    stages = FakeStages()
    for tensors, kind in [
        ({}, InvalidImage),
        ({"image": bytes_tensor(b"")}, InvalidImage),
        ({"image": bytes_tensor(png()), "request": bytes_tensor(b"{nope")}, InvalidRequest),
        ({"image": bytes_tensor(png()), "request": bytes_tensor(b'{"fps": 0}')}, InvalidRequest),
        ({"image": bytes_tensor(png()), "mask": bytes_tensor(png())}, InvalidRequest),
    ]:
        channel = FakeChannel(tensors)
        await service(stages).serve(channel)
        assert isinstance(channel.finished[0], kind) and channel.sent == []
    assert stages.calls == []


async def test_exactly_the_configured_number_runs_and_waits_and_the_rest_is_refused():
    gate = Gate()
    served = service(FakeStages(gate=gate))
    channels = [FakeChannel(num_inference_steps=1) for _ in range(7)]
    tasks = [asyncio.create_task(served.serve(channel)) for channel in channels]
    await wait_until_async(lambda: gate.reached == 2 and sum(bool(c.finished) for c in channels) == 3)
    assert served.status() == {"active": 2, "waiting": 2, "draining": False, "loop_lag_s": 0.0}
    refused = [channel.finished[0] for channel in channels if channel.finished]
    assert all(isinstance(error, Overloaded) for error in refused)
    assert json.loads(refused[0].status_message())["retry_after_s"] >= 1
    gate.open.set()
    await asyncio.gather(*tasks)
    assert [channel.finished for channel in channels].count([None]) == 4
    assert (served.status()["active"], served.status()["waiting"]) == (0, 0)


async def test_a_waiting_request_hears_heartbeats_and_may_leave(monkeypatch):
    monkeypatch.setattr(admission, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(admission, "POLL_SECONDS", 0.01)
    gate = Gate()
    served = service(FakeStages(gate=gate), max_active=1)
    first, second = FakeChannel(num_inference_steps=1), FakeChannel(num_inference_steps=1)
    tasks = [asyncio.create_task(served.serve(channel)) for channel in (first, second)]
    await wait_until_async(lambda: any(isinstance(event, Heartbeat) for event in second.events))
    second.hung_up = True
    await wait_until_async(lambda: second.finished)
    assert isinstance(second.finished[0], Cancelled) and served.status()["waiting"] == 0
    gate.open.set()
    await asyncio.gather(*tasks)
    assert first.finished == [None]


async def test_draining_refuses_new_work_and_finishes_the_old():
    gate = Gate()
    served = service(FakeStages(gate=gate))
    running, late = FakeChannel(num_inference_steps=1), FakeChannel()
    task = asyncio.create_task(served.serve(running))
    await wait_until_async(lambda: gate.reached)
    served.drain()
    await served.serve(late)
    assert isinstance(late.finished[0], Draining)
    gate.open.set()
    await task
    assert running.finished == [None]


async def test_fail_and_cancel_end_requests_whose_stage_hangs():
    gate = Gate()
    served = service(FakeStages(gate=gate), max_active=3)
    channels = [FakeChannel(id="one"), FakeChannel(id="two")]
    tasks = [asyncio.create_task(served.serve(channel)) for channel in channels]
    await wait_until_async(lambda: gate.reached == 2)
    assert await asyncio.to_thread(served.cancel, "one")
    assert not await asyncio.to_thread(served.cancel, "nobody")
    await wait_until_async(lambda: channels[0].finished)
    assert isinstance(channels[0].finished[0], Cancelled) and not channels[1].finished
    await asyncio.to_thread(served.fail, "stage process unet died")
    await asyncio.wait_for(asyncio.gather(*tasks), 2)
    assert isinstance(channels[1].finished[0], StageLost)
    assert served.status()["active"] == 0


async def test_a_client_that_goes_away_frees_its_slot():
    gate = Gate()
    served = service(FakeStages(gate=gate), max_active=1)
    channel = FakeChannel()
    task = asyncio.create_task(served.serve(channel))
    await wait_until_async(lambda: gate.reached)
    channel.hung_up = True
    gate.open.set()
    await asyncio.wait_for(task, 2)
    assert isinstance(channel.finished[0], Cancelled) and gate.reached == 1
    assert served.status()["active"] == 0


async def test_the_stream_ends_only_after_a_send_that_was_under_way():
    inside, go = threading.Event(), threading.Event()

    class SlowChannel(FakeChannel):
        def send(self, response):
            if response.video is not None:
                inside.set()
                assert go.wait(5)
            super().send(response)

    served, channel = service(), SlowChannel(id="slow", num_inference_steps=1)
    task = asyncio.create_task(served.serve(channel))
    await asyncio.to_thread(inside.wait, 5)
    served.cancel("slow")
    await asyncio.sleep(0.05)
    assert not channel.finished, "a copy is still under way"
    go.set()
    await asyncio.wait_for(task, 2)
    assert isinstance(channel.finished[0], Cancelled)


async def test_only_requests_that_end_well_say_how_long_others_take():
    served = service()
    await served.serve(FakeChannel({}))
    assert served.admission.retry_after_s() == 1.0
    served.admission._mean_seconds = 30.0
    channel = FakeChannel(num_inference_steps=1)
    channel.hung_up = True
    await served.serve(channel)
    assert served.admission._mean_seconds == 30.0


async def test_a_step_is_told_while_the_next_one_is_computed():
    told = []
    channel = FakeChannel(num_inference_steps=3)

    async def gate():
        await asyncio.sleep(0)  # a stage call lets the event loop go on
        told.append(sum(getattr(event, "stage", "") == "denoise" for event in channel.events))

    await service(FakeStages(gate=gate)).serve(channel)
    assert channel.finished == [None]
    assert told == [1, 2, 3], "steps 0, 1 and 2 were told during calls 1, 2 and 3"


@pytest.mark.parametrize("number", [0, 3])
async def test_a_response_that_cannot_be_sent_ends_the_request(number):
    class Broken(FakeChannel):
        def send(self, response):
            if len(self.sent) == number:
                raise RuntimeError("no shared memory")
            super().send(response)

    channel = Broken(num_inference_steps=20)
    stages = FakeStages()
    await service(stages).serve(channel)
    (error,) = channel.finished
    assert error.code == "internal" and len(channel.sent) == number
    assert "decode" not in [stage for stage, _ in stages.calls]


async def test_responses_of_one_request_are_sent_one_at_a_time():
    """Frames, a part of the video and events may be due at once; the transport sees one after the other."""
    inside = threading.Lock()

    class OneAtATime(FakeChannel):
        overlaps = 0

        def send(self, response):
            if not inside.acquire(blocking=False):
                self.overlaps += 1
                return
            time.sleep(0.02)
            super().send(response)
            inside.release()

    fields = {"num_inference_steps": 1, "decode_chunk_size": 1, "stream_frames": True, "stream_video": True}
    channel = OneAtATime(**fields)
    await service().serve(channel)
    assert channel.finished == [None] and channel.overlaps == 0
    decoded = [event.step for event in channel.events if getattr(event, "stage", "") == "decode"]
    assert decoded == [0, 1, 2, 3, 4, 5, 6] and isinstance(channel.events[-1], Done)
    assert channel.events[-1].video_bytes == sum(len(sent.video) for sent in channel.sent if sent.video)


async def test_a_client_that_sent_base64_gets_pieces_whose_base64_can_be_joined():
    image = base64.b64encode(png())
    tensors = {
        "image": bytes_tensor(image),
        "request": bytes_tensor(b'{"stream_video": true, "num_inference_steps": 1, "decode_chunk_size": 1}'),
    }
    channel = FakeChannel(tensors)
    await service().serve(channel)
    pieces = [response.video for response in channel.sent if response.video is not None]
    assert len(pieces) > 3 and not any(len(piece) % 3 for piece in pieces[:-1])


async def test_an_event_waits_for_the_copy_under_way_and_follows_it_at_once():
    inside, go = threading.Event(), threading.Event()

    class SlowChannel(FakeChannel):
        def send(self, response):
            if response.video is not None:
                inside.set()
                assert go.wait(5)
            super().send(response)

    channel = SlowChannel()
    with ThreadPoolExecutor(1) as media:
        ticket = Ticket(id="r", channel=channel, media=media)
        copying = asyncio.create_task(ticket.send(Response(video=b"piece")))
        await asyncio.to_thread(inside.wait, 5)
        await ticket.send(Response(event=Heartbeat(waiting=0)))
        await asyncio.sleep(0.02)
        assert channel.sent == [], "one response at a time"
        go.set()
        await wait_until_async(lambda: len(channel.sent) == 2)
        await copying
    assert channel.sent[1].event == Heartbeat(waiting=0)


async def test_a_deadline_that_passes_ends_the_request_at_its_next_step():
    async def slow():
        await asyncio.sleep(0.02)

    channel, stages = FakeChannel(num_inference_steps=100, deadline_s=0.2), FakeStages(gate=slow)
    served = service(stages)
    await served.serve(channel)
    (error,) = channel.finished
    assert isinstance(error, DeadlineExceeded) and error.status == "UNAVAILABLE"
    steps = [stage for stage, _ in stages.calls].count("denoise")
    assert 1 <= steps <= 11
    assert served.status()["active"] == 0


async def test_a_deadline_passes_in_the_queue_too(monkeypatch):
    monkeypatch.setattr(admission, "POLL_SECONDS", 0.01)
    gate = Gate()
    served = service(FakeStages(gate=gate), max_active=1)
    first, second = FakeChannel(num_inference_steps=1), FakeChannel(deadline_s=0.1)
    tasks = [asyncio.create_task(served.serve(channel)) for channel in (first, second)]
    await wait_until_async(lambda: second.finished)
    assert isinstance(second.finished[0], DeadlineExceeded)
    gate.open.set()
    await asyncio.gather(*tasks)


async def test_a_deadline_that_measured_times_rule_out_is_refused_at_once():
    async def slow():
        await asyncio.sleep(0.02)

    stages = FakeStages(gate=slow)
    served = service(stages)
    await served.serve(FakeChannel(num_inference_steps=5))
    stages.calls.clear()
    channel = FakeChannel(num_inference_steps=100, deadline_s=1.0)
    await served.serve(channel)
    (error,) = channel.finished
    assert error.code == "deadline" and error.details["earliest_finish_s"] > 1.9
    assert stages.calls == [] and channel.events == []


async def test_an_interactive_request_runs_before_a_batch_request_that_came_first():
    gate = Gate()
    served = service(FakeStages(gate=gate), max_active=1)
    order = []

    class Noted(FakeChannel):
        def finish(self, error):
            order.append(self.id)
            super().finish(error)

    ids = {"first": "interactive", "batch": "batch", "interactive": "interactive"}
    channels = [Noted(num_inference_steps=1, id=id, priority=priority) for id, priority in ids.items()]
    tasks = []
    for channel in channels:
        tasks.append(asyncio.create_task(served.serve(channel)))
        await wait_until_async(lambda: gate.reached + served.status()["waiting"] == len(tasks))
    gate.open.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "interactive", "batch"]


def of_picture(height, width, **fields):
    """A request for the video of a picture of that size."""
    request = GenerateRequest(num_inference_steps=1, seed=3, **fields)
    return FakeChannel(pack_request(png(height, width), request))


async def test_auto_gives_a_picture_the_size_that_suits_it():
    served = service()
    for (height, width), size in (((300, 200), (48, 32)), ((200, 300), (32, 48))):
        channel = of_picture(height, width, fit="auto", stream_frames=True)
        await served.serve(channel)
        assert channel.finished == [None]
        frames = [response.frames for response in channel.sent if response.frames is not None]
        assert {each.shape[1:3] for each in frames} == {size}
        used = channel.events[-1].parameters
        assert (used["height"], used["width"], used["fit"]) == (*size, "crop")
        again = FakeChannel(pack_request(png(height, width), GenerateRequest.from_dict(used)))
        await served.serve(again)
        assert [each.video for each in again.sent] == [each.video for each in channel.sent]


async def test_auto_learns_and_forecasts_the_cost_of_the_size_that_was_chosen():
    served = service()
    await served.serve(of_picture(300, 200, fit="auto"))
    portrait, landscape = (
        GenerateRequest(height=height, width=80 - height).validate(MANIFEST) for height in (48, 32)
    )
    assert served._costs.seconds(portrait) is not None and served._costs.seconds(landscape) is None
    served._costs.learn(portrait, denoise_s=25 * 60.0, total_s=25 * 60.0, sharing=1.0)
    late = of_picture(300, 200, fit="auto", deadline_s=5.0)
    await served.serve(late)
    assert isinstance(late.finished[0], DeadlineExceeded) and not late.sent, "refused before it is accepted"
    fine = of_picture(200, 300, fit="auto", deadline_s=5.0)
    await served.serve(fine)
    assert fine.finished == [None]


async def test_a_picture_that_cannot_be_measured_is_refused_and_frees_its_place():
    class Refusing(FakeDecoder):
        async def measure(self, data):
            raise InvalidImage("no such picture", field="image")

    served = service()
    served.decoder = Refusing()
    channel = of_picture(300, 200, fit="auto")
    await served.serve(channel)
    assert isinstance(channel.finished[0], InvalidImage) and not channel.sent
    assert served.status()["active"] == 0


async def test_no_more_pictures_are_measured_than_requests_are_admitted():
    going, measured = asyncio.Event(), []

    class Slow(FakeDecoder):
        async def measure(self, data):
            measured.append(data)
            await going.wait()
            return await super().measure(data)

    served = service(max_active=1, max_waiting=1)
    served.decoder = Slow()
    channels = [of_picture(300, 200, fit="auto") for _ in range(6)]
    tasks = [asyncio.create_task(served.serve(channel)) for channel in channels]
    await wait_until_async(lambda: sum(bool(channel.finished) for channel in channels) == 4)
    assert len(measured) == 2
    going.set()
    await asyncio.gather(*tasks)
    outcomes = [channel.finished[0] for channel in channels]
    assert outcomes.count(None) == 2 and sum(isinstance(each, Overloaded) for each in outcomes) == 4


async def test_warnings_follow_the_acceptance_once_each():
    trained = replace(MANIFEST, trained_size=(576, 1024), trained_frames=3)
    channel = FakeChannel(num_inference_steps=1)
    await service(manifest=trained).serve(channel)
    assert isinstance(channel.events[0], Accepted)
    assert [event.field for event in channel.events[1:3]] == ["size", "num_frames"]
    assert sum(isinstance(event, Warned) for event in channel.events) == 2
    usual = FakeChannel(num_inference_steps=1)
    await service(manifest=replace(MANIFEST, trained_size=(32, 48), trained_frames=6)).serve(usual)
    assert not [event for event in usual.events if isinstance(event, Warned)]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("x" * 1_000_000, "x" * 128),
        ("a\nFAKE LOG LINE\x1b[31m\0", "aFAKE LOG LINE[31m"),
        ("Bild 語-7", "Bild 語-7"),
    ],
)
async def test_names_are_128_printable_characters(asked, kept, caplog):
    channel = FakeChannel(num_inference_steps=1, id=asked)
    with caplog.at_level(logging.INFO):
        await service().serve(channel)
    assert channel.events[0].id == kept and channel.events[-1].id == kept
    assert json.loads(caplog.messages[-1])["request"] == kept
    assert max(map(len, caplog.messages)) < 1024


async def test_a_name_that_is_not_printable_at_all_is_drawn():
    channel = FakeChannel(num_inference_steps=1, id="\n\x1b\0")
    await service().serve(channel)
    assert len(channel.events[0].id) == 16


async def test_the_lag_of_a_loop_that_hangs_is_seen_from_outside():
    """As a `send` that blocks makes it hang."""
    serving = service()
    assert serving.status()["loop_lag_s"] == 0.0, "before there is a loop"
    await serving.serve(FakeChannel(num_inference_steps=1))
    assert serving.status()["loop_lag_s"] == 0.0
    seen = []

    def watch():
        end = time.monotonic() + 5
        while time.monotonic() < end and not (seen and seen[-1] > 0.2):
            seen.append(serving.status()["loop_lag_s"])
        released.set()

    released = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    released.wait(5)  # on the loop's own thread
    watcher.join()
    assert seen[-1] > 0.2
    await wait_until_async(lambda: serving.status()["loop_lag_s"] == 0.0)


async def test_after_a_loss_new_requests_end_with_it_too():
    gate = Gate()
    served = service(FakeStages(gate=gate))
    running, later = FakeChannel(), FakeChannel()
    task = asyncio.create_task(served.serve(running))
    await wait_until_async(lambda: gate.reached)
    served.fail("stage unet has not answered")
    await asyncio.wait_for(task, 2)
    await served.serve(later)
    for channel in (running, later):
        (error,) = channel.finished
        assert isinstance(error, StageLost) and "unet" in error.message
    assert not served.busy
