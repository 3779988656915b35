"""Decode what several antennas received as what one of them would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from receiver.measurement.antennas import combined
from receiver.measurement.model import Measurement
from receiver.samplers.blind.antennas import joint_taps
from receiver.samplers.problem import Channel, Models
from receiver.samplers.settings import MethodSettings

#: What a blind method is once the channels are found.
KNOWING: Mapping[str, str] = {
    "blind": "hifi",
    "blind-turbo": "hifi",
    "blind-jscc": "jscc",
    "blind-bp": "bp",
    "blind-guided": "guided",
    "blind-land": "land",
    "blind-daps": "daps",
}


def as_one_antenna(
    method: str,
    measurement: Measurement,
    channel: Channel,
    models: Models,
    settings: MethodSettings,
    generator: torch.Generator | Sequence[torch.Generator],
) -> tuple[str, Measurement, Channel]:
    """Return method, measurement and channel of one antenna that stands for all; as they are where there is one.

    A blind method's channels are found from all antennas together, and kept while the image is sampled.

    Args:
        method: name of it.
        measurement: of F frames at A antennas.
        channel: prior, and the taps (F * A, L) that pilots gave.
        models: that the method may use.
        settings: of the method.
        generator: of what a blind search draws, one or one per frame.

    A blind method that is not among `KNOWING` does not search for channels first, and takes one antenna.
    """
    if measurement.antennas == 1:
        return method, measurement, channel
    h = channel.h
    if h is None:
        h = joint_taps(measurement, channel.prior, models, settings, generator)
        method = KNOWING[method]
    measurement, h = combined(measurement, h)
    return method, measurement, replace(channel, h=h)
