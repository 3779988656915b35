"""Frames whose taps move, followed by known and decoded symbols."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.benchmarks.doppler import moving_layout, transmit
from lab.benchmarks.uneven_noise import held_out
from lab.evaluation.channel_truth import true_symbol_taps
from lab.evaluation.metrics import psnr_db
from receiver.bundles.bundle import load_bundle
from receiver.channel.prior import channel_prior
from receiver.decode import BatchDecoder
from receiver.following import follow, follow_decoded
from receiver.samplers.blind import starts
from receiver.samplers.blind.starts import BlindStart
from receiver.samplers.variants import method_variant
from receiver.sync.preamble import find_frames
from sdr.errors import ConfigError


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("fashion")


def sent_over(bundle, doppler_hz, pilot_every=None, images=32, antennas=1):
    """Return the decoder, the frames measured, the true taps at every antenna, and the originals."""
    layout, originals = moving_layout("fashion", pilot_every), held_out(bundle, images)
    recording, truths = transmit(bundle, originals, layout, doppler_hz, 10.0, 3, antennas)
    decoder = BatchDecoder(bundle)
    frames = find_frames(recording, layout)
    measured = decoder.measure(frames, layout)
    rows = [(row, truth) for frame in frames for row, truth in zip(frame.antennas, truths, strict=True)]
    scale = layout.amplitude / np.sqrt([row.signal_power for row, _ in rows])
    taps = np.stack([true_symbol_taps(row, truth, layout, 11) for row, truth in rows]) * scale[:, None, None]
    return decoder, measured, torch.from_numpy(taps), originals


def mean_psnr_db(decoder, measured, method, originals):
    images = decoder.decode(measured, method_variant(method), torch.Generator().manual_seed(0))
    assert all(image.taps.shape == (11 if measured.measurement.antennas == 1 else 256,) for image in images)
    shown = torch.stack([torch.from_numpy(image.image) for image in images])
    return float(psnr_db(shown, torch.stack([originals[image.id] for image in images])).mean())


def tap_errors(followed, taps):
    """Return the squared error of the taps over their power, data symbol by data symbol."""
    found = followed.measurement.symbol_taps(followed.h)[..., : taps.shape[-1]]
    return (found - taps).abs().square().sum(dim=-1).mean(dim=0) / taps.abs().square().sum(dim=-1).mean()


@pytest.mark.parametrize(("doppler_hz", "antennas"), [(100.0, 1), (200.0, 1), (200.0, 2)])
def test_decoded_symbols_hold_taps_that_leave_the_pilot(bundle, doppler_hz, antennas):
    decoder, measured, taps, originals = sent_over(bundle, doppler_hz, antennas=antennas)
    known = follow(measured.frames, measured.measurement, channel_prior(measured.measurement.layout))
    assert known is not None
    followed = follow_decoded(known, measured.codec)
    errors, better = tap_errors(known, taps), tap_errors(followed, taps)
    assert errors[-1] > 2 * errors[0]
    assert better.mean() < 0.5 * errors.mean() and better.max() < 0.03
    # What the estimate is off by is counted.
    added = known.measurement.noise_var[:, None, None] * known.measurement.noise_ratio
    added = (added - known.plain.noise_var[:, None, None]).mean()
    assert 0.3 * errors.mean() < added < 3 * errors.mean()
    still = mean_psnr_db(decoder, measured, "jscc", originals)
    assert mean_psnr_db(decoder, measured, "jscc:follow=true", originals) > still + 1


def test_pilots_on_either_side_hold_taps_without_decoding(bundle):
    _, measured, taps, _ = sent_over(bundle, 200.0)
    _, again, more, _ = sent_over(bundle, 200.0, pilot_every=3)
    errors = []
    for batch, true in ((measured, taps), (again, more)):
        known = follow(batch.frames, batch.measurement, channel_prior(batch.measurement.layout))
        assert known is not None
        errors.append(float(tap_errors(known, true).mean()))
    assert errors[1] < 0.02 and errors[1] < 0.3 * errors[0]


def test_two_antennas_that_are_followed_are_better_than_one(bundle):
    found = []
    for antennas in (1, 2):
        decoder, measured, _, originals = sent_over(bundle, 200.0, antennas=antennas)
        found.append(mean_psnr_db(decoder, measured, "jscc:follow=true", originals))
    assert found[1] > found[0] + 0.3


def test_antennas_that_are_followed_are_decoded_by_samplers_too(bundle):
    decoder, measured, _, originals = sent_over(bundle, 200.0, images=16, antennas=2)
    for method in ("bp", "guided"):
        assert mean_psnr_db(decoder, measured, f"{method}:follow=true", originals) > 20
    with pytest.raises(ConfigError, match="there are 2"):
        decoder.decode(measured, method_variant("blind-jscc:follow=true"), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("method", "antennas"), [("jscc", 1), ("bp", 1), ("jscc", 2)])
def test_nothing_changes_where_taps_stand_still(bundle, method, antennas):
    decoder, measured, _, _ = sent_over(bundle, 0.0, images=16, antennas=antennas)
    usual, following = (
        decoder.decode(measured, method_variant(name), torch.Generator().manual_seed(0))
        for name in (method, f"{method}:follow=true")
    )
    for one, other in zip(usual, following, strict=True):
        assert np.array_equal(one.image, other.image) and one.residual == other.residual


def test_several_draws_of_moving_taps(bundle):
    decoder, measured, _, originals = sent_over(bundle, 200.0, images=16)
    twice = BatchDecoder(bundle, replace(decoder.settings, draws=2))
    images = twice.decode(measured, method_variant("bp:follow=true"), torch.Generator().manual_seed(0))
    error = psnr_db(
        torch.stack([torch.from_numpy(i.mean) for i in images]), torch.stack([originals[i.id] for i in images])
    )
    assert error.mean() > 20


def test_a_setting_that_is_no_truth_value_is_refused():
    with pytest.raises(ConfigError, match="follow must be bool"):
        method_variant("jscc:follow=yes")


def test_blind_methods_follow_from_the_middle_symbol(bundle, monkeypatch):
    """Given the middle symbol's taps, off by a tenth, they get as far as with all known symbols."""
    decoder, measured, taps, originals = sent_over(bundle, 200.0, images=16)
    begun = (taps[:, 2] * 1.1).to(torch.complex64)
    monkeypatch.setattr(starts, "blind_start", lambda problem: BlindStart(begun, torch.empty(0), False))
    found = mean_psnr_db(decoder, measured, "blind-jscc:follow=true", originals)
    assert found > mean_psnr_db(decoder, measured, "jscc:follow=true", originals) - 0.5
