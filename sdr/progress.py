"""Report how far long work is: the one way in which it does."""

from typing import Protocol


class Progress(Protocol):
    """Called by long work as it goes on."""

    def __call__(self, description: str, done: float, total: float, /) -> None:
        """Say that `done` of `total` of what `description` names is done."""
        ...


def silent(description: str, done: float, total: float, /) -> None:
    """Report to nobody."""
