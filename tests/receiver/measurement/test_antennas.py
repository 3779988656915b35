"""Combining antennas loses nothing: likelihoods of all antennas, and of the one that stands for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from receiver.channel.antennas import combined_estimate
from receiver.channel.conditional import conditional_channel
from receiver.channel.estimate import lmmse_estimate
from receiver.channel.pilots import estimate_channels
from receiver.channel.prior import ChannelPrior
from receiver.measurement.antennas import combined
from receiver.measurement.equalise import equalise, unshrunk
from receiver.measurement.model import LOST_RATIO, Measurement
from receiver.priors.symbols import SymbolMixture
from receiver.samplers.blind.evidence import codebook_evidence
from receiver.samplers.blind.mixture import mixture_channel, second_order_channels
from sdr.errors import ConfigError
from sdr.layout import load_layout
from tests.receiver.simulated import gaussian, make_measurement

PAPER = load_layout("paper")
ANTENNAS, FRAMES, TAPS = 3, 2, 8


def antennas_of(z: Tensor, h: Tensor, noise_var: Tensor, **changes: object) -> Measurement:
    """Return images z (B, K), two a frame, through taps h (F * A, L) with noise (F * A,) of each antenna."""
    layout = replace(PAPER, clip_ratio=changes.pop("clip_ratio", None), data_symbols=changes.pop("data_symbols", 1))
    one = make_measurement(z, h[::ANTENNAS], 1.0, layout, 2)
    rows = {
        name: getattr(one, name).repeat_interleave(ANTENNAS, dim=0)
        for name in ("y", "previous_symbol", "tracking_grid", "pilots", "scale", "noise_ratio", "pilot_noise_ratio")
    }
    block = one.layout.data_symbols * one.layout.fft_size
    cells = one.cells % block + one.cells // block * ANTENNAS * block
    measurement = replace(one, **(rows | {"noise_var": noise_var, "cells": cells, "antennas": ANTENNAS} | changes))
    noise = gaussian(tuple(measurement.y.shape), 7) * (noise_var[:, None, None] * measurement.noise_ratio).sqrt()
    return measurement.with_received(measurement.forward(z, h) + noise)


def drawn(functions: int = 1, **changes: object) -> tuple[Measurement, Tensor, Tensor]:
    z, h = gaussian((4, 64), 1), gaussian((FRAMES * ANTENNAS, functions * TAPS), 2) / TAPS**0.5
    return antennas_of(z, h, torch.tensor([0.1, 0.3, 0.05, 0.2, 0.1, 1.0]), **changes), z, h


def log_ratio(measurement: Measurement, h: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """Return the log likelihood ratio (rows,) of two sets of symbols from all cells of each row."""
    noise = measurement.noise_var[:, None, None] * measurement.noise_ratio

    def misfit(z: Tensor) -> Tensor:
        occupied = measurement.sent_grid(z) != 0
        return (((measurement.y - measurement.forward(z, h)).abs().square() / noise) * occupied).sum(dim=(1, 2))

    return misfit(two) - misfit(one)


@pytest.mark.parametrize("kind", ["white", "uneven", "clipped", "moving"])
def test_combining_keeps_the_likelihood_ratio_of_any_two_answers(kind: str) -> None:
    changes: dict[str, object] = {}
    if kind == "uneven":
        shape = (FRAMES * ANTENNAS, PAPER.data_symbols, PAPER.fft_size)
        changes["noise_ratio"] = 10 ** torch.rand(shape, generator=torch.Generator().manual_seed(3))
    if kind == "clipped":
        changes |= {"clip_ratio": 1.2, "mode": "time"}
    if kind == "moving":
        motion = torch.randn((FRAMES * ANTENNAS, 3, 2), generator=torch.Generator().manual_seed(5))
        changes |= {"functions": 2, "data_symbols": 3, "motion": motion}
    measurement, z, h = drawn(**changes)
    one, taps = combined(measurement, h)
    assert one.num_frames == FRAMES and one.antennas == 1 and one.motion is None
    other = gaussian((4, 64), 9)
    # The likelihoods of a frame's antennas multiply. Through time nothing is left out in `measurement.forward`.
    stacked = log_ratio(measurement, h, z, other).unflatten(0, (FRAMES, ANTENNAS)).sum(dim=1)
    occupied_alike = log_ratio(one, taps, z, other)
    torch.testing.assert_close(occupied_alike, stacked, rtol=2e-3, atol=0.05)


def test_snrs_add_up_and_the_gain_is_real() -> None:
    measurement, z, h = drawn()
    one, taps = combined(measurement, h)
    torch.testing.assert_close(1 / one.noise_var, (1 / measurement.noise_var).view(FRAMES, ANTENNAS).sum(dim=1))
    response = one.response(taps)
    assert float(response.imag.abs().max()) < 1e-5 and float(response.real.min()) > 0
    powers = measurement.response(h).abs().square() / measurement.noise_var[:, None]
    wanted = powers.view(FRAMES, ANTENNAS, -1).sum(dim=1)
    torch.testing.assert_close(response.real.square() / one.noise_var[:, None], wanted, rtol=1e-4, atol=1e-3)
    # Without noise the combined cells are the symbols times the combined gain.
    clean, _ = combined(measurement.with_received(measurement.forward(z, h)), h)
    torch.testing.assert_close(clean.received_cells(), clean.gains(taps) * z, rtol=1e-4, atol=1e-4)


def test_the_error_of_combined_symbols_is_the_mmse_of_all_antennas() -> None:
    """A closed form: 1 / (1 + sum of SNRs) on every carrier, over many symbols."""
    z, h = gaussian((4, 64), 1), gaussian((FRAMES * ANTENNAS, TAPS), 2) / TAPS**0.5
    noise_var = torch.tensor([0.5, 1.0, 0.7, 2.0, 0.6, 0.9])
    found, wanted = [], 0.0
    for seed in range(200):
        z = gaussian((4, 64), 100 + seed)
        measurement = antennas_of(z, h, noise_var)
        noise = gaussian(tuple(measurement.y.shape), 1000 + seed) * noise_var[:, None, None].sqrt()
        one, taps = combined(measurement.with_received(measurement.forward(z, h) + noise), h)
        found.append((equalise(one, taps) - z).abs().square())
        wanted = float((1 / (1 + one.gains(taps).abs().square() / one.cell_noise_var)).mean())
    assert float(torch.stack(found).mean()) == pytest.approx(wanted, rel=0.02)


def test_one_antenna_is_left_as_it_is() -> None:
    z, h = gaussian((2, 20), 1), gaussian((1, 4), 2)
    measurement = make_measurement(z, h, 0.1, PAPER, 2)
    one, taps = combined(measurement, h)
    assert one is measurement and taps is h


def test_what_no_antenna_received_counts_as_lost() -> None:
    measurement, _, h = drawn()
    lost = torch.full_like(measurement.noise_ratio, LOST_RATIO)
    h = h.clone()
    h[:ANTENNAS] = 0
    empty = replace(measurement, y=torch.zeros_like(measurement.y), noise_ratio=lost)
    one, taps = combined(empty, h)
    assert not bool(one.arrived.any()) and bool(unshrunk(one, taps).isfinite().all())


def test_cells_are_not_looked_at_before_antennas_are_combined() -> None:
    measurement, _, _ = drawn()
    with pytest.raises(ConfigError, match="3 antennas have to be combined"):
        measurement.received_cells()
    with pytest.raises(ConfigError, match="6 rows are no whole number of frames at 4 antennas"):
        replace(measurement, antennas=4)


def test_copies_of_a_measurement_keep_their_antennas_together() -> None:
    measurement, _, h = drawn()
    one, _ = combined(measurement, h)
    twice, _ = combined(measurement.repeat(2), h.repeat(2, 1))
    torch.testing.assert_close(twice.received_cells(), one.received_cells().repeat(2, 1))


def test_the_error_of_the_combined_estimate_is_as_stated() -> None:
    """The mean of the stated variance is the squared error that estimated channels add to combined symbols."""
    rng = torch.Generator().manual_seed(5)
    rows, size = 400 * ANTENNAS, PAPER.fft_size
    noise_var = torch.tensor([0.1, 0.3, 0.05]).repeat(400)
    h = torch.randn((rows, TAPS), dtype=torch.complex64, generator=rng) / TAPS**0.5
    pilots = torch.from_numpy(PAPER.pilots.copy())
    heard = torch.fft.fft(h, n=size)[:, None] * pilots
    noise = torch.randn(heard.shape, dtype=torch.complex64, generator=rng) * noise_var[:, None, None].sqrt()
    estimate = lmmse_estimate((heard + noise).numpy(), PAPER, noise_var.double().numpy(), pdp=[1 / TAPS] * TAPS)
    z = gaussian((400, 64), 6)
    base = make_measurement(z, h[::ANTENNAS], 1.0, PAPER, 1)
    rows_of = {
        name: getattr(base, name).repeat_interleave(ANTENNAS, dim=0)
        for name in ("y", "previous_symbol", "tracking_grid", "pilots", "scale", "noise_ratio", "pilot_noise_ratio")
    }
    block = PAPER.data_symbols * size
    cells = base.cells % block + base.cells // block * ANTENNAS * block
    measurement = replace(base, **rows_of, noise_var=noise_var, cells=cells, antennas=ANTENNAS)
    measurement = measurement.with_received(measurement.forward(z, h))
    one, taps = combined(measurement, torch.from_numpy(estimate.taps).to(torch.complex64))
    joint = combined_estimate(measurement, estimate, taps.numpy())
    errors = one.squared_errors(z, taps)
    bins = one.cells % size
    stated = torch.from_numpy(joint.response_var)[one.frame_of_cell, bins]
    assert float(errors.mean()) == pytest.approx(float(stated.mean()), rel=0.1)


@pytest.mark.parametrize("unforeseen", [0.0, 0.03])
def test_each_antenna_has_a_prior_of_its_own(unforeseen: float) -> None:
    """Rows do not depend on another: each is as if its antenna's prior were that of all."""
    # Real symbols, so that squares tell of the channel, too.
    z, h = gaussian((4, 64), 1).real.to(torch.complex64) * 2**0.5, gaussian((FRAMES * ANTENNAS, TAPS), 2) / TAPS**0.5
    measurement = antennas_of(z, h, torch.tensor([0.1, 0.3, 0.05, 0.2, 0.1, 1.0]))
    measurement = replace(measurement, pilots=gaussian(tuple(measurement.pilots.shape), 6))
    power = 0.5 ** torch.arange(TAPS) * torch.tensor([[1.0], [0.5], [0.25]])
    power = torch.stack([row.roll(number) for number, row in enumerate(power)])
    power = power / power.sum(dim=1, keepdim=True)
    apart = replace(
        measurement,
        antennas=1,
        cells=torch.cat([measurement.cells + a * PAPER.data_symbols * PAPER.fft_size for a in range(ANTENNAS)]),
        scramble=measurement.scramble.repeat(ANTENNAS, 1),
        image_ids=measurement.image_ids * ANTENNAS,
        csnr_db=measurement.csnr_db.repeat(ANTENNAS),
    )
    loose, starts = torch.full((len(apart.cells),), 0.5), h[:, None]
    parts = torch.ones(1, z.shape[1])
    mixture = SymbolMixture(
        torch.ones(1), 0 * parts.repeat(1, 2), torch.zeros(1, 128, 1), torch.cat([parts, parts / 100], 1)
    )

    def found(prior: ChannelPrior) -> dict[str, Tensor]:
        conditional = conditional_channel(measurement, z, prior)
        estimate = estimate_channels(measurement, prior, unforeseen=unforeseen)
        evidence, mean = codebook_evidence(apart, z, prior, loose)
        return {
            "mean": conditional.mean,
            "evidence": conditional.log_evidence,
            "pilots": torch.from_numpy(estimate.taps),
            "errors": torch.from_numpy(estimate.taps_cov),
            "words": evidence,
            "taps of words": mean,
            "mixture": mixture_channel(apart, mixture, prior, starts, rounds=2),
            "squares": second_order_channels(apart, mixture, prior, starts, kept=2),
        }

    own = found(ChannelPrior(power))
    for antenna in range(ANTENNAS):
        alone = found(ChannelPrior(power[antenna]))
        for name, values in own.items():
            rows = apart.frame_of_image if "words" in name else torch.arange(len(values))
            mine = rows % ANTENNAS == antenna
            torch.testing.assert_close(values[mine], alone[name][mine], msg=f"{name} of antenna {antenna}")
            assert not torch.allclose(values[~mine], alone[name][~mine], rtol=1e-3), name
