"""Join recordings that antennas of one receiver made at the same time."""

import os
from collections.abc import Sequence
from dataclasses import replace

from sdr.errors import RecordingError
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
    recordings = [read_recording(path, max_antennas=MAX_ANTENNAS) for path in paths]
    first = recordings[0]
    for path, other in zip(paths[1:], recordings[1:], strict=True):
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
                    f"{path} has {two:.12g} {unit}, {paths[0]} has {one:.12g}; antennas of one receiver are recorded "
                    "together, at one rate and carrier"
                )
    if len(recordings) == 1:
        return first
    others = [samples for recording in recordings for samples in recording.antennas][1:]
    return replace(first, others=tuple(others), health=None)  # type: ignore[arg-type]  # measured anew
