"""The simulated channel as the receiver would have to see it."""

import numpy as np
import pytest

from lab.evaluation.channel_truth import ChannelTruth, true_symbol_taps, true_taps
from receiver.channel.estimate import fourier_matrix
from receiver.sync.preamble import find_frames
from sdr.framing import data_grid, pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio
from sdr.symbols import Symbols


@pytest.mark.parametrize("doppler_hz", [0, 100])
def test_taps_of_every_symbol_are_those_that_it_met(doppler_hz):
    """Data cells without noise are the sent ones times the response, but for what leaks between carriers."""
    layout, rng = load_layout("photo"), np.random.default_rng(0)
    parts = rng.standard_normal((2, 3, layout.capacity)) / np.sqrt(2)
    z = (parts[0] + 1j * parts[1]).astype(np.complex64)
    contents = pack_frames(Symbols(z, "00c0ffee", ("a", "b", "c"), (1, 32, 32), 10.0), layout)
    moving = f",doppler_hz={doppler_hz}" if doppler_hz else ""
    with open_radio(f"sim:taps=8,cfo_hz=300,seed=4,csnr_db=35,gain_db=-2{moving}", layout=layout) as radio:
        assert isinstance(radio, SimulatedRadio)
        radio.transmit(modulate_stream(contents, layout))
        found = find_frames(radio.receive(), layout)
        starts = [layout.gap_samples + index * layout.frame_samples for index in range(3)]
        truth = ChannelTruth.from_mapping(radio.channel_truth(starts))
    assert truth.moving == bool(doppler_hz) and len(found) == 3
    for frame, content in zip(found, contents, strict=True):
        taps = true_symbol_taps(frame, truth, layout, 11)
        sent = data_grid(content.payload, layout) * layout.amplitude * 10 ** (-2 / 20)
        predicted = sent * (taps @ fourier_matrix(np.arange(256), 11, 256).T)
        received = frame.untracked_grid[1:]
        error = np.sum(np.abs(received - predicted) ** 2) / np.sum(np.abs(received) ** 2)
        assert error < 10**-2.5
        apart = np.sum(np.abs(taps[0] - taps[-1]) ** 2) / np.sum(np.abs(taps[0]) ** 2)
        assert apart > 0.3 if doppler_hz else apart < 1e-2
        middle = true_taps(frame, truth, layout, 11)
        assert np.sum(np.abs(middle - taps[7:9].mean(axis=0)) ** 2) < 1e-2
