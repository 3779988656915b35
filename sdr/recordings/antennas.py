"""Join recordings that antennas of one receiver made at the same time, and choose among antennas."""

import os
from collections.abc import Sequence

from sdr.errors import ConfigError, RecordingError
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import MAX_ANTENNAS, Recording
from sdr.settings import same_rate


def read_antennas(paths: Sequence[str | os.PathLike[str]]) -> Recording:
    """Read one SigMF recording of all antennas, or several that were made at the same time, of an antenna or more each.

    Args:
        paths: at least one; the first says how the radio was set.

    Raises:
        RecordingError: one can't be read, their lengths, rates or carriers differ, or there are too many antennas.
    """
    return join_antennas([read_recording(path, max_antennas=MAX_ANTENNAS) for path in paths], paths)


def join_antennas(recordings: Sequence[Recording], names: Sequence[str | os.PathLike[str]]) -> Recording:
    """Return one recording of all antennas.

    Args:
        recordings: at least one; the first says how the radio was set.
        names: of each, for messages.

    Raises:
        RecordingError: their lengths, rates or carriers differ, or there are too many antennas.
    """
    first = recordings[0]
    for name, other in zip(names[1:], recordings[1:], strict=True):
        rates = first.settings.rate_sps, other.settings.rate_sps
        carriers = first.settings.center_hz, other.settings.center_hz
        lengths = first.num_samples, other.num_samples
        for unit, (one, two), same in (
            ("samples per second", rates, same_rate(*rates)),
            ("Hz of carrier", carriers, carriers[0] == carriers[1]),
            ("samples", lengths, lengths[0] == lengths[1]),
        ):
            if not same:
                raise RecordingError(
                    f"{name} has {two:.12g} {unit}, {names[0]} has {one:.12g}; antennas of one receiver are recorded "
                    "together, at one rate and carrier"
                )
    if len(recordings) == 1:
        return first
    return first.with_antennas(samples for recording in recordings for samples in recording.antennas)


def choose_antennas(recording: Recording, numbers: Sequence[int]) -> Recording:
    """Return what some antennas heard; the recording itself where none is named.

    Args:
        recording: of one antenna or more.
        numbers: of the antennas, from 0.

    Raises:
        ConfigError: there is no such antenna.
    """
    if not numbers:
        return recording
    check_chosen(numbers, len(recording.antennas), "the recording")
    return recording.with_antennas(recording.antennas[number] for number in numbers)


def check_chosen(numbers: Sequence[int], antennas: int, what: str, remedy: str = "") -> None:
    """Refuse numbers of antennas that are not there.

    Args:
        numbers: from 0.
        antennas: how many there are.
        what: has them; for the message.
        remedy: what else can be done, behind "Mend --use-antennas".

    Raises:
        ConfigError: says which ones there are.
    """
    if max(numbers) >= antennas:
        there = "antenna 0 alone" if antennas == 1 else f"antennas 0..{antennas - 1}"
        raise ConfigError(f"Antenna {max(numbers)} is asked for, and {what} has {there}. Mend --use-antennas{remedy}.")
