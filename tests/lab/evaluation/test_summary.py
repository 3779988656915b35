"""Stored rows: what is written can be read again, by this version and, where columns are missing, from older ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from lab.evaluation.outcomes import ImageOutcome
from lab.evaluation.statistics import wilson_interval
from lab.evaluation.summary import SnrPoint, Summary, summarise
from lab.experiments.sweep import PointSummary
from sdr.errors import ConfigError

SUMMARY = Summary("hifi", 8, 21.0, 0.5, 0.8, 0.02, 0.05, 0.01, 0.07, 0.01, 0.9, 0.5, 1.0, 0.2, 0.98, 1.0, None)
POINT = SnrPoint(10.0, "hifi", 8, 7, 21.0, 0.5, 0.9, 0.5, 1.0, 1.0, 0.2)
ROWS = [
    SUMMARY,
    POINT,
    SnrPoint(None, "jscc", 8, 0, None, None, 0.0, 0.0, 0.3, None, None),
    SnrPoint(10.0, "hifi", 8, 7, 21.0, 0.5, 0.9, 0.5, 1.0, 1.0, 0.2, 0.05, 0.01, 7),
    PointSummary("awgn", "10 dB", 10.0, "hifi", 8, 8, 2, 2, SUMMARY),
    PointSummary("awgn", "-20 dB", -20.0, "hifi", 0, 8, 0, 2, None),
]


def outcome(name: str) -> ImageOutcome:
    return ImageOutcome(id=name, method="jscc", residual=1.0, expected_psnr_db=20.0, accepted=True, seconds=0.1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_what_is_written_is_read_again(row: Summary | SnrPoint | PointSummary) -> None:
    assert type(row).from_row({**row.row(), "unheard_of": 1}) == row


def test_what_an_older_version_did_not_store_is_none() -> None:
    old = {key: value for key, value in SUMMARY.row().items() if key not in ("ssim", "channel_found")}
    assert Summary.from_row(old).ssim is None and Summary.from_row(old).channel_found is None
    assert SnrPoint.from_row(SUMMARY.row()).sent is None


def test_a_point_has_realism_only_where_it_was_measured() -> None:
    assert "realism" not in POINT.row()


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_s_interval_is_where_the_score_test_ends(counts: tuple[int, int]) -> None:
    """At its ends the rate found lies 1.96 standard deviations of that end from it."""
    successes, n = counts
    rate, (low, high) = successes / n, wilson_interval(successes, n)
    assert 0 <= low <= rate <= high <= 1
    for edge in (low, high):
        if 0 < edge < 1:
            assert abs(rate - edge) / (edge * (1 - edge) / n) ** 0.5 == pytest.approx(norm.ppf(0.975), rel=1e-6)


def test_no_rate_of_nothing() -> None:
    for successes, n in ((2, 1), (-1, 3)):
        with pytest.raises(ConfigError, match="no proportion"):
            wilson_interval(successes, n)


def test_without_a_measure_of_realism_the_rest_is_measured() -> None:
    outcomes = [
        dataclasses.replace(outcome("a"), cbr=0.02, side_cbr=0.0),
        dataclasses.replace(outcome("b"), cbr=0.04, side_cbr=0.0),
    ]
    originals = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    summary = summarise("hifi", outcomes, originals * 0.9, originals, None, plain=originals * 0.8)
    assert summary.realism is summary.realism_se is summary.realism_null is None
    assert summary.psnr_db > 10 and summary.cbr == pytest.approx(0.03) and summary.side_cbr == 0
    assert Summary.from_row(summary.row()) == summary


def test_the_null_of_a_method_that_errs_less_is_the_plain_decoder() -> None:
    """Measured anew or taken from its summary: the same values."""
    generator = torch.Generator().manual_seed(0)
    originals = torch.rand(2, 3, 64, 64, generator=generator)
    plain = (originals + 0.1 * torch.randn(originals.shape, generator=generator)).clamp(0, 1)
    outcomes = [outcome("a"), outcome("b")]
    of_plain = summarise("jscc", outcomes, plain, originals, None)
    better = originals * 0.99
    anew = summarise("bp", outcomes, better, originals, None, plain=plain)
    assert summarise("bp", outcomes, better, originals, None, plain=plain, plain_summary=of_plain) == anew
    worse = originals * 0.5
    noisier = summarise("bp", outcomes, worse, originals, None, plain=plain, plain_summary=of_plain)
    if anew.lpips_vgg_null is not None:
        assert anew.lpips_vgg_null == of_plain.lpips_vgg and noisier.lpips_vgg_null > of_plain.lpips_vgg
