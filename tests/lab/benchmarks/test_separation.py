"""Block error rates: the fitted curve, what fading makes of it, and that frames and GNU Radio cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.benchmarks.fading_blocks import awgn_start_db, bit_information, fading_bler, fading_threshold_db
from lab.benchmarks.separation import (
    SIMULATED,
    SchemeRow,
    SeparationBenchmark,
    blocks_through_frames,
    blocks_through_gnuradio,
    count_fading,
    sionna_point,
)
from lab.benchmarks.waterfall import BlerPoint, Waterfall, fit_waterfall, search_waterfall
from receiver.separation.channel_code import ChannelCode
from receiver.separation.schemes import SCHEMES, find_scheme
from sdr.layout import load_layout
from transmitter.separation import load_table

#: Frames of 256 symbols.
LAYOUT = load_layout("paper")


def drawn(middle_db: float, width_db: float) -> Callable[[float, int, int], BlerPoint]:
    true = Waterfall(middle_db, width_db)

    def count(csnr_db: float, blocks: int, seed: int) -> BlerPoint:
        errors = np.random.default_rng(seed).binomial(blocks, true.bler(np.array(csnr_db)))
        return BlerPoint("none", "here", csnr_db, blocks, int(errors))

    return count


@pytest.mark.parametrize("start_db", [1.3, 4.0])
def test_a_waterfall_is_found_and_fitted(start_db: float) -> None:
    points = search_waterfall(drawn(2.5, 0.25), start_db, 600)
    found = fit_waterfall(points, resamples=20)
    assert abs(found.at(1e-2) - Waterfall(2.5, 0.25).at(1e-2)) < 4 * found.error_db + 0.05
    assert 0 < found.error_db < 0.15 and 0.1 < found.width_db < 0.5
    assert sum(point.blocks for point in points) < 2000
    low, high = points[0].interval
    assert low <= points[0].errors / points[0].blocks <= high


def test_information_of_bits_goes_from_none_to_all() -> None:
    for scheme in (SCHEMES[0], find_scheme("16qam-490")):
        found = bit_information(scheme, np.array([-20.0, 5.0, 40.0]))
        assert found[0] < 0.1 and abs(found[2] - scheme.bits_per_symbol) < 0.01 and found[1] < np.log2(1 + 10**0.5)
        assert abs(awgn_start_db(scheme) - 10 * np.log10(2**scheme.efficiency - 1)) < 3


def test_fading_costs_more_than_white_noise_and_less_over_two_frames() -> None:
    scheme, curve = find_scheme("qpsk-449"), Waterfall(0.5, 0.1)
    one, two = (fading_bler(scheme, curve, (4.0, 8.0), channels=1000, frames=frames) for frames in (1, 2))
    assert (one > two).all() and (np.diff(one) < 0).all() and one[1] > 1e-3
    flat = fading_bler(scheme, curve, (4.0,), taps=1, channels=1000)
    # A single Rayleigh tap: lost below the threshold, 1 - exp(-10^((.5 - 4) / 10)).
    assert abs(flat[0] - (1 - np.exp(-(10**-0.35)))) < 0.05
    assert fading_threshold_db(scheme, curve, 1e-2) < fading_threshold_db(scheme, curve, 1e-3)


def test_frames_gnuradio_and_sionna_agree() -> None:
    """Above the threshold all arrive, below none does, wherever blocks are sent."""
    scheme = find_scheme("qpsk-449")
    code = ChannelCode(scheme, LAYOUT.capacity)
    for csnr_db, lost in ((4.5, range(2)), (-2.0, range(7, 9))):
        assert blocks_through_frames(code, LAYOUT, csnr_db, 8, 1).errors in lost
        assert blocks_through_gnuradio(code, LAYOUT, csnr_db, 8, 1).errors in lost
        assert sionna_point(scheme, LAYOUT.capacity, csnr_db, 8, 1).errors in lost


def test_blocks_over_fading_are_lost_as_predicted() -> None:
    """Of 60 blocks where 30 % and 5 % are expected: within 4 standard deviations; small blocks need a little more."""
    scheme = find_scheme("qpsk-449")
    counts = count_fading(scheme, Waterfall(1.6, 0.35), LAYOUT, 60, 0)
    assert [round(count.predicted, 2) for count in counts] == pytest.approx([0.3, 0.05, 0.0], abs=0.02)
    assert counts[0].point.csnr_db < counts[1].point.csnr_db < counts[2].point.csnr_db
    for count in counts:
        expected = 60 * count.predicted
        assert abs(count.point.errors - expected) < 4 * max(expected, 1) ** 0.5


def test_a_table_is_on_the_safe_side_and_can_be_read(tmp_path: Path) -> None:
    row = SchemeRow("qpsk-449", 0.877, SIMULATED, 75, 0.76, 0.06, 0.85, 9.25)
    found = SeparationBenchmark((row, replace(row, where="elsewhere", fading_db=None)), ())
    (tmp_path / "table.toml").write_text(found.table())
    (read,) = load_table(tmp_path / "table.toml").rows
    assert (read.scheme, read.white_noise_db, read.fading_db) == ("qpsk-449", 1.0, 9.4)
