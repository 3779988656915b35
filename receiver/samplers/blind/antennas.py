"""Find the channels of several antennas without pilots.

Given the symbols z the antennas' taps are independent, so that the likelihoods of all antennas multiply: p(y | z) is
the product of their evidences, each with its taps marginalised. Each antenna's channel is first searched for on its
own; what is decoded with it then tells of the other antennas' channels, and turbo rounds on all of them together go on
from each of these answers. The evidence of all antennas picks the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.measurement.model import Measurement
from receiver.samplers.blind.starts import blind_start
from receiver.samplers.blind.turbo import turbo
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from receiver.samplers.problem import Channel, Models, Problem
from receiver.samplers.randomness import RowGenerators, frame_randomness
from receiver.samplers.settings import MethodSettings


@torch.no_grad()
def joint_taps(
    measurement: Measurement,
    prior: ChannelPrior,
    models: Models,
    settings: MethodSettings,
    generator: torch.Generator | Sequence[torch.Generator],
) -> Tensor:
    """Return the taps (F * A, L) of A antennas in F frames.

    Args:
        measurement: of A antennas.
        prior: of the taps.
        models: codec, and what the search starts from.
        settings: of the search.
        generator: of candidates, one or one per frame.
    """
    antennas = measurement.antennas
    of_rows = frame_randomness(generator)
    if isinstance(of_rows, RowGenerators):
        of_rows = RowGenerators(tuple(row for row in of_rows.rows for _ in range(antennas)))
    apart = _apart(measurement)
    nuisance = NuisanceEstimate.begin(apart, NuisancePrior())
    found = blind_start(Problem(nuisance, models, Channel(prior), settings, of_rows, of_rows))
    starts = []
    for x in found.x_d.split(measurement.num_images):
        z = torch.cat(
            [models.codec.encode(*part) for part in zip(x.split(64), measurement.csnr_db.split(64), strict=True)]
        )
        starts.append(conditional_channel(measurement, z, prior).mean)
    return turbo(measurement, models.codec, prior, torch.stack(starts, dim=1), rounds=settings.turbo_rounds).h


def _apart(measurement: Measurement) -> Measurement:
    """Return a measurement in which every antenna receives images of its own, antenna by antenna."""
    antennas, block = measurement.antennas, measurement.layout.data_symbols * measurement.layout.fft_size
    shift = torch.arange(antennas, device=measurement.cells.device).repeat_interleave(measurement.num_images) * block
    return replace(
        measurement,
        antennas=1,
        cells=measurement.cells.repeat(antennas, 1) + shift[:, None],
        scramble=measurement.scramble.repeat(antennas, 1),
        image_ids=measurement.image_ids * antennas,
        csnr_db=measurement.csnr_db.repeat(antennas),
    )
