"""Requests for tests: a strategy of good ones, and what the error of a bad one must say."""

import math

from hypothesis import strategies as st

from zoetrope_core.request import field_rules

RULES = field_rules()


def values(rule):
    """A strategy of all that a rule accepts."""
    if rule.choices:
        return st.sampled_from(rule.choices)
    if rule.type is bool:
        return st.booleans()
    if rule.type is tuple:
        least, most = rule.count
        numbers = st.lists(st.floats(rule.low, rule.high), min_size=least, max_size=min(most, 9), unique=True)
        return numbers.map(lambda found: tuple(sorted(found, reverse=rule.falling)))
    if rule.type is int:
        return st.integers(rule.low, rule.high)
    return st.floats(rule.low, rule.high) | st.integers(math.ceil(rule.low), int(rule.high))


FIELDS = st.fixed_dictionaries({}, optional={name: values(rule) for name, rule in RULES.items()})


def assert_names(error, field, value, allowed):
    assert error.message.startswith(f"{field}: ")
    assert value in error.message
    assert allowed in error.message
    assert error.details["field"] == field
    assert value in error.details["value"]
    assert allowed in error.details["allowed"]
