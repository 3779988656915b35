"""Measurements of known symbols through known taps, for the tests of several folders."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from receiver.measurement.model import Measurement
from sdr.layout import FrameLayout


def make_measurement(
    z: Tensor, h: Tensor, noise_var: float, layout: FrameLayout, per_frame: int, seed: int = 0
) -> Measurement:
    """Images' symbols z (B, K) through taps h (F, L) and noise, all known to the test."""
    frames, symbols = h.shape[0], z.shape[1]
    block = layout.data_symbols * layout.fft_size
    index = np.arange(len(z))
    slots = [slice(i % per_frame * symbols, (i % per_frame + 1) * symbols) for i in index]
    cells = np.stack([layout.cell_index[s] + i // per_frame * block for i, s in zip(index, slots, strict=True)])
    scramble = np.stack([layout.cell_scramble[s] for s in slots])
    grid = (frames, layout.data_symbols, layout.fft_size)
    measurement = Measurement(
        y=torch.zeros(grid, dtype=torch.complex64),
        noise_var=torch.full((frames,), noise_var),
        cells=torch.from_numpy(cells.astype(np.int64)),
        scramble=torch.from_numpy(scramble),
        layout=layout,
        previous_symbol=torch.zeros(frames, layout.fft_size, dtype=torch.complex64),
        tracking_grid=torch.zeros(grid, dtype=torch.complex64),
        image_ids=tuple(map(str, index)),
        csnr_db=torch.full((len(z),), 10.0),
        image_shape=(1, 4, 4),
        codec_digest="00000000",
        pilots=torch.zeros(frames, layout.pilot_symbols, layout.fft_size, dtype=torch.complex64),
        scale=torch.ones(frames),
    )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(grid, dtype=torch.complex64, generator=generator) * noise_var**0.5
    return measurement.with_received(measurement.forward(z, h) + noise)


def gaussian(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
