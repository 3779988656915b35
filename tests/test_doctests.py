"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import calibration
import flowgraphs
import lab
import ota
import receiver
import sdr
import transmitter

PACKAGES = (sdr, flowgraphs, receiver, transmitter, calibration, lab, ota)
#: The modules of `flowgraphs` that import without GNU Radio, which lives in another interpreter.
FLOWGRAPHS = ("flowgraphs.link", "flowgraphs.pdu", "flowgraphs.supervisor")
MODULES = sorted(
    module.name
    for package in PACKAGES
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__") and (package is not flowgraphs or module.name in FLOWGRAPHS)
)


def examples(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize(("package", "least"), [("sdr", 15), ("receiver", 5), ("lab", 5)])
def test_there_are_examples(package: str, least: int) -> None:
    assert len([test for name in MODULES if name.startswith(f"{package}.") for test in examples(name)]) >= least
