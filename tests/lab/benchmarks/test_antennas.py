"""The benchmark of receiving antennas."""

from __future__ import annotations

from lab.benchmarks.antennas import measure
from lab.benchmarks.uneven_noise import held_out
from receiver.bundles.bundle import load_bundle
from sdr.layout import load_layout


def test_the_receiver_is_near_known_channels() -> None:
    bundle = load_bundle()
    rows = measure(bundle, held_out(bundle, 24), load_layout("paper"), ["jscc"], csnr_db=8.0)
    for row in rows:
        assert row.n == row.decoded == 24
        # It can't be better than its bound by more than chance, and is behind it by less than 0.3 dB.
        assert -0.1 < row.behind_known_db < 0.3
    assert rows[1].psnr_db > rows[0].psnr_db + 0.5
