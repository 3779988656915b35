"""Read the side information that an image's symbols begin with, and take it out of a measurement.

It is read as the header is, by the channel that preambles and header have seen: receivers without pilots need it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from receiver.measurement.antennas import combined
from receiver.measurement.model import Measurement
from receiver.sync.frame import SyncedFrame
from sdr.errors import InputError
from sdr.side_block import decode_side, encode_side, side_cells


def take_side(frames: Sequence[SyncedFrame], measurement: Measurement) -> tuple[bytes, Measurement]:
    """Return the side information of one image, and the measurement of its other symbols.

    The symbols of the side information are known from then on: they stand with the tracking carriers.

    Args:
        frames: F of them, those of `measurement`, all with headers that tell of side information.
        measurement: of one image.

    Raises:
        InputError: it was not received without errors.
    """
    header = frames[0].header
    assert header is not None and measurement.num_images == 1
    csnr_db, count = header.csnr_db, side_cells(header.side_bytes, header.csnr_db)
    image_id = measurement.image_ids[0]
    if count >= measurement.num_symbols:
        raise InputError(f"Image {image_id} has {measurement.num_symbols} symbols, {count} of side information alone.")
    taps = np.stack([antenna.known_taps for frame in frames for antenna in frame.antennas]).astype(np.complex64)
    heard, h = combined(measurement, torch.from_numpy(taps).to(measurement.y) / measurement.scale[:, None])
    gain, received = heard.gains(h)[0, :count], heard.received_cells()[0, :count]
    soft = gain.conj() * received / heard.cell_noise_var[0, :count]
    data = decode_side(soft.cpu().numpy(), header.side_bytes, csnr_db)
    if data is None:
        raise InputError(
            f"The side information of image {image_id} arrived with errors, so its symbols mean nothing. Raise the SNR."
        )
    known = torch.from_numpy(encode_side(data, csnr_db)).to(measurement.y)
    grid = measurement.tracking_grid.reshape(-1).clone()
    grid[measurement.cells[0, :count]] = known * measurement.scramble[0, :count]
    rest = replace(
        measurement,
        cells=measurement.cells[:, count:],
        scramble=measurement.scramble[:, count:],
        tracking_grid=measurement.at_all_antennas(grid.view(measurement.y.shape)),
    )
    return data, rest
