"""The error tree and what travels of an error."""

import json

import pytest

from zoetrope_core import errors
from zoetrope_core.errors import Overloaded, Refused, ZoetropeError

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ZoetropeError)]
STATUSES = ("INTERNAL", "INVALID_ARGUMENT", "UNAVAILABLE", "CANCELLED")


def test_codes_are_unique():
    codes = [kind.code for kind in TREE]
    assert len(set(codes)) == len(codes) == len(TREE) >= 12


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_the_modules_docstring_lists_the_class_with_code_and_status(kind):
    (line,) = [line for line in errors.__doc__.splitlines() if f"{kind.__name__} " in line + " "]
    assert line.split()[-2:] == [kind.code, kind.status]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_statuses_are_those_that_triton_has(kind):
    assert kind.status in STATUSES


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_event_has_code_status_message_and_details(kind):
    error = kind("what is wrong", field="width", nothing=None)
    assert error.to_event() == {
        "code": kind.code,
        "status": kind.status,
        "message": "what is wrong",
        "field": "width",
    }
    assert str(error) == "what is wrong"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_only_a_refusals_status_message_is_json(kind):
    text = kind("words", retry_after_s=2.5).status_message()
    if issubclass(kind, Refused):
        assert json.loads(text) == {"code": kind.code, "message": "words", "retry_after_s": 2.5}
    else:
        assert text == "words"


def test_a_refusal_without_a_hint_has_none():
    assert "retry_after_s" not in json.loads(Overloaded("full").status_message())
