"""Events survive the wire; what is not one is a ValueError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core import events
from zoetrope_core.events import Accepted, Done, Failed, Heartbeat, Progress, UnknownEvent, Warned

COUNT = st.integers(0, 2**63 - 1)
SECONDS = st.floats(0, 1e9)
JSON = st.none() | st.booleans() | COUNT | SECONDS | st.text()
EVENTS = st.one_of(
    st.builds(Accepted, id=st.text(), seed=COUNT, steps=COUNT),
    st.builds(Warned, code=st.text(), field=st.text(), message=st.text()),
    st.builds(Heartbeat, waiting=COUNT),
    st.builds(Progress, stage=st.text(), step=COUNT, steps=COUNT, eta_seconds=st.none() | SECONDS),
    st.builds(
        Failed,
        code=st.text(),
        status=st.text(),
        message=st.text(),
        details=st.dictionaries(st.text(), JSON, max_size=3),
    ),
    st.builds(
        Done,
        id=st.text(),
        seed=COUNT,
        parameters=st.dictionaries(st.text(), JSON, max_size=3),
        timings=st.dictionaries(st.text(), SECONDS, max_size=3),
        video_bytes=COUNT,
    ),
)


@given(EVENTS)
def test_an_event_survives_the_wire(event):
    assert events.from_json(events.to_json(event)) == event


@given(EVENTS)
def test_every_event_says_its_version_and_type(event):
    body = json.loads(events.to_json(event))
    assert (body["version"], body["type"]) == (1, event.type)
    assert events.EVENTS[event.type] is type(event)


def test_a_time_that_is_not_known_is_left_out():
    assert b"eta" not in events.to_json(Progress(stage="denoise", step=0, steps=2))


@given(EVENTS)
def test_a_field_of_a_newer_server_is_left_out(event):
    body = {**json.loads(events.to_json(event)), "brand_new": [1]}
    assert events.from_json(json.dumps(body)) == event


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"type": "heartbeat", "waiting": 1}',
        b'{"version": 2, "type": "heartbeat", "waiting": 1}',
        b'{"version": 1, "waiting": 1}',
        b'{"version": 1, "type": "preview"}',
        b'{"version": 1, "type": ["heartbeat"], "waiting": 1}',
        b'{"version": 1, "type": "heartbeat"}',
        b"\xff",
    ],
    ids=ascii,
)
def test_what_is_no_event_is_a_value_error(text):
    with pytest.raises(ValueError):
        events.from_json(text)


def test_an_event_of_a_newer_server_is_told_from_what_is_no_event():
    with pytest.raises(UnknownEvent):
        events.from_json(b'{"version": 1, "type": "brand_new", "fields": 1}')
    for text in (b'{"version": 2, "type": "brand_new"}', b'{"version": 1, "type": []}', b'{"version": 1}'):
        with pytest.raises(ValueError) as raised:
            events.from_json(text)
        assert not isinstance(raised.value, UnknownEvent)
