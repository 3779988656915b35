"""The one way in which long work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (description, done, total) by long work.
Report = Callable[[str, float, float], None]
