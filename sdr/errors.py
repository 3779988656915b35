"""Define errors whose message is written for the person at the keyboard.

Every message is one line that says what was found, what was needed and what to do about it. The command line prints
it and exits with status 2; a traceback is for our own mistakes only.
"""

import difflib
from collections.abc import Iterable


class OtaError(Exception):
    """Base of all errors that a user, a file or a device can cause."""


class InputError(OtaError, ValueError):
    """An argument, an image or another input file can't be used."""


class LayoutError(OtaError, ValueError):
    """A frame layout is inconsistent, unknown, or doesn't match what was received."""


class RecordingError(OtaError, ValueError):
    """A recording is missing, damaged, of the wrong type, or too short."""


class RadioError(OtaError, RuntimeError):
    """A radio's address is wrong, or the radio doesn't do what was asked of it."""


class FlowgraphError(OtaError, RuntimeError):
    """A GNU Radio process can't be started, or died."""


class ConfigError(OtaError, ValueError):
    """A configuration or experiment file is wrong."""


class ModelError(OtaError, ValueError):
    """Model weights are missing, damaged, or don't fit the network."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown `word`: the nearest choice, or all of them.

    >>> did_you_mean("papper", ["air", "paper"])
    "did you mean 'paper'?"
    >>> did_you_mean("xyz", ["paper", "air"])
    'choose from air, paper'
    """
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}"
