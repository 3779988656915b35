"""Channel estimators against their analytic error bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.benchmarks.bounds import lmmse_bound
from receiver.channel.estimate import (
    ESTIMATORS,
    ChannelEstimate,
    estimate_channel,
    fourier_matrix,
    lmmse_estimate,
    ls_estimate,
)
from receiver.channel.prior import receiver_pdp
from sdr.air.impairments import draw_taps, exponential_pdp
from sdr.errors import ConfigError
from sdr.layout import FrameLayout, load_layout

NUM_TAPS, DECAY = 8, 4.0
PDP = exponential_pdp(NUM_TAPS, DECAY)


def full_band(fft_size: int, pilot_symbols: int = 1) -> FrameLayout:
    return replace(
        load_layout("paper"),
        fft_size=fft_size,
        active=tuple(range(-fft_size // 2, fft_size // 2)),
        pilot_symbols=pilot_symbols,
        header_symbols=64,
    )


def observe(
    layout: FrameLayout, noise_var: float, frames: int, rng: np.random.Generator
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Taps (F, L) and received pilots (F, P, N)."""
    taps = np.stack([draw_taps(PDP, rng) for _ in range(frames)]).astype(np.complex128)
    response = taps @ fourier_matrix(np.arange(layout.fft_size), NUM_TAPS, layout.fft_size).T
    clean = response[:, None, :] * layout.pilots
    noise = rng.standard_normal((2, *clean.shape)) * np.sqrt(noise_var / 2)
    return taps, clean + noise[0] + 1j * noise[1]


def analytic_error(name: str, fft_size: int, noise_var: float) -> float:
    per_tap = noise_var / fft_size
    return {
        "ls": noise_var,
        "dft": NUM_TAPS * per_tap,
        "lmmse": float(np.sum(PDP * per_tap / (PDP + per_tap))),
    }[name]


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("fft_size", [64, 256])
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_error_meets_the_analytic_bound(name: str, fft_size: int, snr_db: float) -> None:
    layout, noise_var = full_band(fft_size), 10 ** (-snr_db / 10)
    taps, pilots = observe(layout, noise_var, 20 if name == "ls" else 400, np.random.default_rng(fft_size))
    estimate = estimate_channel(name, pilots, layout, noise_var, PDP)
    truth = taps @ fourier_matrix(np.arange(fft_size), NUM_TAPS, fft_size).T
    error = np.mean(np.abs(estimate.response - truth) ** 2)
    bound = analytic_error(name, fft_size, noise_var)
    assert abs(10 * np.log10(error / bound)) < 0.3
    # The stated error variance is the bound itself.
    one = estimate_channel(name, pilots[0], layout, noise_var, PDP)
    assert np.allclose(one.response_var.mean(), bound, rtol=1e-6)


@pytest.mark.parametrize(
    ("fft_size", "snr_db", "expected_db"), [(64, 0, -9.7), (256, 0, -15.2), (64, 10, -19.1), (256, 20, -35.1)]
)
def test_lmmse_error_is_the_reference_curve(fft_size: int, snr_db: float, expected_db: float) -> None:
    estimate = lmmse_estimate(np.zeros((1, fft_size)), full_band(fft_size), 10 ** (-snr_db / 10), PDP)
    assert abs(10 * np.log10(estimate.response_var.mean()) - expected_db) < 0.1


@pytest.mark.parametrize("layout_name", ["paper", "air"])
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_stated_covariance_is_the_scatter(name: str, layout_name: str) -> None:
    """Where the covariance claims to hold: on the active carriers, also of a layout with guards."""
    layout, noise_var = load_layout(layout_name), 0.3
    taps, pilots = observe(layout, noise_var, 400 if name == "ls" else 800, np.random.default_rng(3))
    truth = taps @ fourier_matrix(np.arange(layout.fft_size), NUM_TAPS, layout.fft_size).T
    # LS has as many taps as carriers; one frame at a time keeps its covariances small.
    responses = np.stack([estimate_channel(name, frame, layout, noise_var, PDP).response for frame in pilots])
    active = layout.active_bins
    measured = np.mean(np.abs(responses - truth)[:, active] ** 2, axis=0)
    stated = estimate_channel(name, pilots[0], layout, noise_var, PDP).response_var[active]
    # Each carrier's scatter over 400 or 800 frames has a standard error of at most 5 %.
    assert np.allclose(measured, stated, rtol=0.25)
    assert measured.mean() == pytest.approx(stated.mean(), rel=0.05)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_noise_free_estimates_are_exact(name: str) -> None:
    layout = full_band(64, pilot_symbols=2)
    taps, pilots = observe(layout, 0.0, 3, np.random.default_rng(0))
    estimate = estimate_channel(name, pilots, layout, 0.0, PDP)
    assert np.allclose(estimate.taps[:, :NUM_TAPS], taps, atol=1e-6)
    assert estimate.taps.shape[0] == 3


def test_pilot_symbols_average_the_noise() -> None:
    one, four = (ls_estimate(np.ones((p, 64)), full_band(64, p), 0.4).response_var.mean() for p in (1, 4))
    assert one == pytest.approx(0.4) and four == pytest.approx(0.1)


def test_a_single_frame_needs_no_batch_axis() -> None:
    layout = full_band(64)
    _, pilots = observe(layout, 0.1, 2, np.random.default_rng(1))
    both, one = lmmse_estimate(pilots, layout, [0.1, 0.2], PDP), lmmse_estimate(pilots[1], layout, 0.2, PDP)
    assert np.allclose(both.taps[1], one.taps) and np.allclose(both.taps_cov[1], one.taps_cov)


def test_known_symbols_of_any_modulus() -> None:
    """lmmse with `known` is the conjugate Gaussian posterior, computed here from the stacked linear model."""
    rng = np.random.default_rng(7)
    layout = load_layout("air")
    known = rng.standard_normal((2, 256)) + 1j * rng.standard_normal((2, 256))
    y = rng.standard_normal((2, 256)) + 1j * rng.standard_normal((2, 256))
    fourier = fourier_matrix(layout.active, NUM_TAPS, 256)
    stacked = np.concatenate([known[p, layout.active_bins, None] * fourier for p in range(2)])
    received = np.concatenate([y[p, layout.active_bins] for p in range(2)])
    covariance = np.linalg.inv(stacked.conj().T @ stacked / 0.5 + np.diag(1 / PDP))
    estimate = lmmse_estimate(y, layout, 0.5, PDP, known=known)
    assert np.allclose(estimate.taps_cov, covariance)
    assert np.allclose(estimate.taps, covariance @ stacked.conj().T @ received / 0.5)


def test_receiver_pdp_tolerates_a_late_start() -> None:
    profile = receiver_pdp(10, 2)
    assert profile.sum() == pytest.approx(1.0) and np.all(profile > 0)
    assert profile.argmax() == 2 and 0 < profile[0] < profile[1] < profile[2]
    with pytest.raises(ConfigError, match="advance"):
        receiver_pdp(2, 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lmse", {}, "Unknown channel estimator"),
        ("lmmse", {"pdp": None}, "power profile"),
        ("lmmse", {"pdp": -PDP}, "power profile"),
        ("ls", {"pilot_grid": np.zeros((1, 32))}, "shape"),
        ("ls", {"pilot_grid": np.zeros((3, 64))}, "pilot"),
        ("ls", {"noise_var": -1.0}, "noise_var"),
        ("dft", {"pdp": np.ones(65)}, "taps"),
    ],
)
def test_misuse_is_one_clear_error(name: str, changes: dict[str, object], message: str) -> None:
    arguments: dict = {"pilot_grid": np.zeros((1, 64)), "layout": full_band(64), "noise_var": 0.1, "pdp": PDP} | changes
    with pytest.raises(ConfigError, match=message) as error:
        estimate_channel(name, **arguments)
    assert "\n" not in str(error.value)


def test_estimates_check_their_shapes() -> None:
    with pytest.raises(ConfigError, match="covariance"):
        ChannelEstimate(np.zeros(3, complex), np.zeros((2, 2), complex), np.zeros(8, complex), np.array(1.0))


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_guard_bands_cost_no_more_than_their_bound(snr_db: float) -> None:
    """On the active carriers LMMSE meets the bound of those carriers, nothing leaks in from the guards."""
    layout, noise_var = load_layout("air"), 10 ** (-snr_db / 10)
    taps, pilots = observe(layout, noise_var, 600, np.random.default_rng(11))
    truth = taps @ fourier_matrix(np.arange(layout.fft_size), NUM_TAPS, layout.fft_size).T
    active = layout.active_bins
    errors = {}
    for name in ESTIMATORS:
        count = 50 if name == "ls" else 600
        response = estimate_channel(name, pilots[:count], layout, noise_var, PDP).response
        errors[name] = np.mean(np.abs(response - truth[:count])[:, active] ** 2)
    assert abs(10 * np.log10(errors["lmmse"] / lmmse_bound(layout, noise_var, PDP))) < 0.6
    assert errors["lmmse"] <= errors["dft"] * 1.02 and errors["dft"] < errors["ls"]


# Channels that move
