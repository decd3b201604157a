"""Requests: every kind of bad input is an InvalidRequest that says field, value and what is allowed."""

import dataclasses
import json
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from request_cases import FIELDS, RULES, assert_names

from zoetrope_core.errors import InvalidRequest
from zoetrope_core.request import MAX_BYTES, GenerateRequest

NUMBERS = {name: rule for name, rule in RULES.items() if rule.type in (int, float) and not rule.choices}
INTEGERS = [name for name, rule in NUMBERS.items() if rule.type is int]
FLOATS = [name for name, rule in NUMBERS.items() if rule.type is float]
CHOICES = [name for name, rule in RULES.items() if rule.choices]
FLAGS = [name for name, rule in RULES.items() if rule.type is bool]
OPTIONAL = [entry.name for entry in dataclasses.fields(GenerateRequest) if entry.default is None]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def refused(data):
    """The error of a request as JSON (a str or bytes goes as it is)."""
    with pytest.raises(InvalidRequest) as raised:
        GenerateRequest.from_json(data if isinstance(data, str | bytes) else json.dumps(data))
    raised.value.message.encode()  # it becomes a gRPC status message: lone surrogates would break that
    assert len(raised.value.message) < 1000
    assert raised.value.to_event()["code"] == "invalid_argument"
    return raised.value


@given(FIELDS)
def test_what_the_rules_accept_is_a_request(fields):
    request = GenerateRequest.from_json(json.dumps({"version": 1, **fields}))
    assert request == GenerateRequest(**fields)


@given(FIELDS)
def test_a_request_survives_json(fields):
    request = GenerateRequest(**fields)
    assert GenerateRequest.from_json(request.to_json()) == request
    assert GenerateRequest.from_dict(request.to_dict()) == request
    assert json.loads(request.to_json())["version"] == 1


def test_an_empty_object_is_all_defaults():
    assert GenerateRequest.from_json("{}") == GenerateRequest() == GenerateRequest.from_dict({})


def test_defaults_are_those_of_diffusers():
    request = GenerateRequest()
    assert (request.num_inference_steps, request.fps, request.motion_bucket_id) == (25, 7, 127)
    assert request.noise_aug_strength == 0.02
    assert (request.min_guidance_scale, request.max_guidance_scale) == (1.0, 3.0)


def test_every_default_is_accepted_and_every_field_is_described():
    for entry in dataclasses.fields(GenerateRequest):
        rule = RULES[entry.name]
        assert entry.default is None or rule.accepts(entry.default), entry.name
        assert rule.doc and rule.allowed


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_in_and_what_is_beyond_is_out(name):
    rule = NUMBERS[name]
    for value in (rule.low, rule.high):
        assert getattr(GenerateRequest.from_json(json.dumps({name: value})), name) == value
    step = 1 if rule.type is int else 1e-6
    for value in (rule.low - step, rule.high + step):
        error = refused({name: value})
        assert_names(error, name, repr(value), f"from {rule.low} to {rule.high}")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_not_finite_is_refused(name, literal):
    error = refused(f'{{"{name}": {literal}}}')
    assert_names(error, name, repr(float(literal)), "from")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [10**18, 10**30, 10**400, -(10**400), 10**4000], ids=["e18", "e30", "e400", "-e400", "e4000"]
)
def test_huge_integers_are_refused(name, value):
    if value == 10**18 and name == "seed":
        assert GenerateRequest.from_json(json.dumps({name: value})).seed == value
        return
    assert refused({name: value}).details["field"] == name


def test_integers_too_long_to_parse_or_to_print_are_refused():
    assert refused('{"seed": 1' + "0" * 5000 + "}").details["field"] == "request"
    with pytest.raises(InvalidRequest, match="seed: got an integer of .* bits"):
        GenerateRequest.from_dict({"seed": 1 << 20_000})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_not_a_number(name, value):
    assert_names(refused({name: value}), name, repr(value), RULES[name].allowed)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [16.0, 16.5, "16", [16], {"value": 16}])
def test_an_integer_must_be_one(name, value):
    assert refused({name: value}).details["field"] == name


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_may_be_an_integer_but_not_a_word(name):
    assert getattr(GenerateRequest.from_json(json.dumps({name: 2})), name) == 2
    assert_names(refused({name: "2.0"}), name, "'2.0'", "a number from")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "no such", 1, True, ["euler"], {"a": 1}])
def test_a_choice_is_one_of_its_words(name, value):
    error = refused({name: value})
    assert error.details["field"] == name
    assert error.details["allowed"] == "one of " + ", ".join(RULES[name].choices)


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "true", None, 1.0])
def test_a_flag_is_true_or_false(name, value):
    assert_names(refused({name: value}), name, repr(value), "true or false")


@pytest.mark.parametrize("name", RULES)
def test_null_stands_for_the_checkpoints_default_and_nothing_else(name):
    if name in OPTIONAL:
        assert GenerateRequest.from_json(json.dumps({name: None})) == GenerateRequest()
    else:
        assert_names(refused({name: None}), name, "None", RULES[name].allowed)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("motion_bucket", "motion_bucket_id"),
        ("motionBucketId", "motion_bucket_id"),
        ("num_steps", "num_frames"),
        ("num_inference_step", "num_inference_steps"),
        ("noise_aug", "noise_aug_strength"),
        ("seeds", "seed"),
        ("guidance_scale", "min_guidance_scale"),
        ("widht", "width"),
        ("Width", "width"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(written, meant):
    error = refused({written: 1})
    assert error.message.startswith(f"{written}: unknown field; did you mean ")
    assert error.details["suggestion"] in RULES
    if written not in ("num_steps", "guidance_scale"):  # several are near
        assert error.details["suggestion"] == meant
    assert all(name in error.details["allowed"] for name in RULES)


def test_a_name_like_no_other_has_no_suggestion():
    error = refused({"zzzzzzzz": 1})
    assert "did you mean" not in error.message
    assert "suggestion" not in error.details


@pytest.mark.parametrize(
    "name", ["\ud800", "a\nb", "\x1b[31mred", "", "\u202e", "n" * 5000, "'", "\x00"], ids=ascii
)
def test_names_that_cannot_be_printed_are_escaped(name):
    error = refused({name: 1})
    assert "unknown field" in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize("value", ["\ud800", "a\nb", "\x1b[31mred", "v" * 50_000], ids=lambda v: ascii(v[:9]))
def test_values_that_cannot_be_printed_are_escaped(value):
    assert refused({"codec": value}).message.isprintable()


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, True, 1.5, [1], {}, float("nan")], ids=str)
def test_another_version_is_refused(version):
    error = refused({"version": version})
    assert error.details["field"] == "version"
    assert "allowed is 1" in error.message


@pytest.mark.parametrize(
    "text", ["", " ", "nul", "{", '{"fps": }', "{'fps': 7}", b"\xff\xfe\xfa", b"\x00", "\ufeff{}"]
)
def test_what_is_not_json_is_refused(text):
    assert refused(text).details["field"] == "request"


@pytest.mark.parametrize("data", [[], [1], "text", 7, None, True, 1.5])
def test_json_that_is_no_object_is_refused(data):
    error = refused(data)
    assert error.details["field"] == "request"
    assert "a JSON object" in error.message


def test_the_length_is_bounded():
    longest = "{" + " " * (MAX_BYTES - 2) + "}"
    assert GenerateRequest.from_json(longest) == GenerateRequest()
    assert_names(refused(longest + " "), "request", f"{MAX_BYTES + 1} bytes", f"at most {MAX_BYTES} bytes")


@pytest.mark.parametrize("depth", [10, 500, 900, 950, 980, 990, 995, 1000, 1100, 30_000])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")], ids=["array", "object"])
def test_deep_nesting_is_refused_at_every_depth(depth, brackets):
    opening, closing = brackets
    depth = min(depth, (MAX_BYTES - 20) // (len(opening) + len(closing)))
    assert refused('{"fps": ' + opening * depth + "1" + closing * depth + "}").details["field"] in (
        "fps",
        "request",
    )


@given(JSON)
def test_any_json_is_a_request_or_an_invalid_request(data):
    text = json.dumps(data)
    if isinstance(data, dict) and not data:
        return
    try:
        GenerateRequest.from_json(text)
    except InvalidRequest as error:
        error.message.encode()


@given(st.sampled_from(list(RULES)), JSON)
def test_any_value_of_any_field_is_taken_or_refused(name, value):
    try:
        request = GenerateRequest.from_json(json.dumps({name: value}))
    except InvalidRequest as error:
        assert error.details["field"] == name
        error.message.encode()
    else:
        taken = getattr(request, name)
        assert taken == (tuple(value) if isinstance(value, list) else value)
        assert taken is None or RULES[name].accepts(taken)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_invalid_request(data):
    try:
        GenerateRequest.from_json(data)
    except InvalidRequest as error:
        error.message.encode()


@given(st.text(string.ascii_letters + "_", min_size=1, max_size=30))
def test_any_other_name_is_refused(name):
    if name not in RULES and name != "version":
        assert refused({name: 1}).details["field"] == name


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_says_in_words_what_it_accepts(rule):
    if rule.choices:
        assert all(choice in rule.allowed for choice in rule.choices)
    elif rule.type is not bool:
        assert str(rule.low) in rule.allowed and str(rule.high) in rule.allowed
    assert not rule.accepts(math.nan)
    assert not rule.accepts(None)
    assert not rule.accepts(object())


@pytest.mark.parametrize("name", ["sigmas", "guidance_interval"])
@pytest.mark.parametrize(
    "value",
    [[], [1.0, 1.0], [1.0, 0.5, 2.0], [math.inf, 1.0], ["7", 1], [[3], 1], {"0": 1}, 3.0, "3,1", [1e9, 1]],
)
def test_arrays_of_the_wrong_kind_order_or_range_are_refused(name, value):
    error = refused({name: value})
    assert error.details["field"] == name and "numbers from" in error.details["allowed"]


def test_the_order_of_an_array_is_part_of_its_rule():
    assert GenerateRequest.from_json('{"sigmas": [9, 3, 1.5]}').sigmas == (9, 3, 1.5)
    assert GenerateRequest.from_json('{"guidance_interval": [0, 16]}').guidance_interval == (0, 16)
    refused({"sigmas": [1.5, 3, 9]})
    refused({"guidance_interval": [16, 0]})
    refused({"guidance_interval": [0, 1, 16]})
