"""Figures of scores: methods as everywhere, and points at which nothing arrived."""

from __future__ import annotations

from lab.evaluation.summary import SnrPoint
from lab.reports.figures import method_colour, method_title
from lab.reports.scores import lines, score_figure
from receiver.samplers import METHODS

NOTHING = SnrPoint(-10.0, "hifi", 4, 0, None, None, None, None, None, None, None)
POINTS = [NOTHING, SnrPoint(5.0, "hifi", 4, 4, 20.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.1)]


def test_a_point_at_which_nothing_arrived_does_not_stop_the_figure() -> None:
    quality, success = score_figure([("", POINTS)]).axes
    assert [list(container[0].get_xdata()) for container in (*quality.containers, *success.containers)] == [
        [5.0],
        [5.0],
    ]


def test_colours_tell_methods_and_lines_tell_runs() -> None:
    other = [SnrPoint(5.0, "hifi:steps=5", 4, 4, 20.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.1)]
    first, second, third = lines([("a", POINTS), ("b", [*POINTS, *other])])
    assert (first.colour, first.label) == (second.colour, "a: HiFi-DiffCom")
    assert (first.linestyle, first.marker) != (second.linestyle, second.marker) == (third.linestyle, third.marker)
    assert third.colour != first.colour and third.label == "b: hifi:steps=5"


def test_methods_are_called_and_coloured_as_the_registry_says() -> None:
    for name, method in METHODS.items():
        assert (method_title(name), method_colour(name)) == (method.title, method.colour)
    assert method_title("hifi:zeta=0.1") == "hifi:zeta=0.1" and method_colour("hifi:zeta=0.1") is None
