"""What a run did where, and how long it took."""

from __future__ import annotations

import sys
from dataclasses import dataclass

#: Where a stage runs unless it says otherwise.
HERE = f"this process, {sys.executable}"


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as run.json and `--json` hold it.

    Attributes:
        stage: what was done.
        where: process, interpreter or device.
        seconds: time that it took.
    """

    stage: str
    where: str
    seconds: float
