"""What a page may say, and what it may not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.live.controls import ACTIONS, MAX_COMMAND_BYTES, Choice, Number, Switch, controls, read_command
from sdr.errors import InputError

EVERY = controls(("hifi", "diffcom"), simulated=True, played=True) | controls((), simulated=False, played=False)


def test_there_are_controls_of_every_kind():
    assert {type(control) for control in EVERY.values()} == {Number, Choice, Switch}


@pytest.mark.parametrize("name", EVERY)
def test_a_control_takes_its_values_and_nothing_beside(name):
    control = EVERY[name]
    if isinstance(control, Number):
        right, wrong = [control.low, control.high], [control.low - 1, control.high + 1, float("nan"), float("inf")]
        right = [round(value) for value in right] if control.whole else right
        wrong += [True, "5", 0.5 if control.whole else None]
    elif isinstance(control, Choice):
        right, wrong = list(control.names), [0, "", control.names[0] + " "]
    else:
        right, wrong = [True, False], [0, 1, "true"]
    for value in right:
        assert read_command(json.dumps({"set": name, "value": value}), EVERY) == (name, value)
    for value in [*wrong, "/etc/passwd", "../runs", "pluto:usb:", ["hifi"], {"a": 1}, None]:
        with pytest.raises(InputError):
            read_command(json.dumps({"set": name, "value": value}), EVERY)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_takes_no_value(action):
    assert read_command(json.dumps({"do": action}), EVERY) == (action, None)
    for more in ({"value": "/etc/passwd"}, {"path": "x"}, {"set": "mute"}):
        with pytest.raises(InputError):
            read_command(json.dumps({"do": action, **more}), EVERY)


@settings(max_examples=50, deadline=None)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_whatever_else_comes_is_refused(text):
    with pytest.raises(InputError):
        read_command(text, EVERY)


def test_a_huge_or_deep_command_is_refused():
    for text in ('{"set": "mute", "value": true}' + " " * MAX_COMMAND_BYTES, "[" * 100_000, '{"do": "quit"}'):
        with pytest.raises(InputError):
            read_command(text, EVERY)
