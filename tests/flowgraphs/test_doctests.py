"""The examples in the docstrings of what needs no GNU Radio."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["pdu", "supervisor", "link"])
def test_docstring_examples(module):
    assert doctest.testmod(importlib.import_module(f"flowgraphs.{module}"), optionflags=doctest.ELLIPSIS).failed == 0
