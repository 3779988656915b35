"""Channel estimation from known OFDM symbols, and the linear equalisers.

A channel is a vector of taps `h` (L,); its response on carrier k is `H[k] = sum_l h[l] exp(-2i pi k l / N)`. Tap 0
belongs to the path that arrives exactly at the start of the receiver's cyclic prefix (`SyncedFrame.start`); the
synchroniser opens its windows `advance` samples early, so the first path usually sits at tap `advance`.

Every estimator takes `(pilot_grid, layout, noise_var, pdp)` and returns the estimate with its error covariance,
batched over leading axes. The reference errors (one pilot symbol, all carriers active, unit-modulus pilots) are

    ls      noise_var
    dft     noise_var * L / N
    lmmse   sum_l p_l s / (p_l + s),  s = noise_var / N
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError
from sdr.layout import FrameLayout

__all__ = [
    "ESTIMATORS",
    "ChannelEstimate",
    "dft_estimate",
    "estimate_channel",
    "exponential_pdp",
    "fourier_matrix",
    "interpolate_estimate",
    "lmmse_estimate",
    "ls_estimate",
    "mmse_equalise",
    "receiver_pdp",
    "zf_equalise",
]

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelEstimate:
    """A channel estimate and how wrong it may be. Leading axes (...) are a batch, usually frames.

    taps: complex (..., L). taps_cov: complex (..., L, L), the error covariance E[(h_hat - h)(h_hat - h)^H] (posterior
    covariance for `lmmse`). response: complex (..., N) in FFT bin order. noise_var: (...,) that the estimate assumed.
    """

    taps: Complex
    taps_cov: Complex
    response: Complex
    noise_var: Real

    def __post_init__(self) -> None:
        batch, length = self.taps.shape[:-1], self.taps.shape[-1]
        if self.taps_cov.shape != (*batch, length, length):
            raise ConfigError(
                f"The covariance of {self.taps.shape} taps has shape {self.taps_cov.shape}; "
                f"it needs {(*batch, length, length)}."
            )
        if self.response.shape[:-1] != batch or self.noise_var.shape != batch:
            raise ConfigError(
                f"Response {self.response.shape} and noise_var {self.noise_var.shape} do not share the batch axes "
                f"{batch} of the taps; give one of each per frame."
            )

    @property
    def response_var(self) -> Real:
        """(..., N): error variance of `response` on every carrier, diag(F C F^H)."""
        size, length = self.response.shape[-1], self.taps.shape[-1]
        fourier = fourier_matrix(np.arange(size), length, size)
        return np.einsum("kl,...lm,km->...k", fourier, self.taps_cov, fourier.conj(), optimize=True).real


def fourier_matrix(carriers: ArrayLike, num_taps: int, fft_size: int) -> Complex:
    """(len(carriers), num_taps): maps taps to the response on the carriers (signed or bin numbers).

    >>> fourier_matrix([0, 1], 2, 4).round(6) + 0
    array([[1.+0.j, 1.+0.j],
           [1.+0.j, 0.-1.j]])
    """
    phase = np.outer(np.asarray(carriers, dtype=np.int64), np.arange(num_taps)) % fft_size
    return np.exp(-2j * np.pi * phase / fft_size)


def receiver_pdp(
    num_taps: int,
    advance: int,
    decay: float = 4.0,
    spread: int = 8,
    timing_odds: tuple[float, ...] = (0.99, 0.007, 0.002, 0.001),
) -> Real:
    """(num_taps,): the prior power profile of the taps behind a synchroniser that may be a sample or two late.

    The exponential profile of `spread` taps starts at tap `advance - e` with probability `timing_odds[e]`; what falls
    outside of the window is dropped, taps that the profile leaves empty keep 1e-4 of the power each (fractional delays
    leak), and the sum is 1. `decay` is in samples. The default odds are generous: behind 8 taps the synchroniser was a
    sample late for 2 of 504 frames at 0 dB, and for none of 1023 at 5 and 10 dB.

    >>> receiver_pdp(4, 1, decay=1e-3, timing_odds=(0.75, 0.25)).round(3).tolist()
    [0.25, 0.75, 0.0, 0.0]
    """
    if num_taps <= advance or advance < 0:
        raise ConfigError(f"An advance of {advance} needs at least {advance + 1} taps, found {num_taps}.")
    profile = np.zeros(num_taps)
    path = exponential_pdp(spread, decay)
    for late, odds in enumerate(timing_odds):
        first = advance - late
        lo, hi = max(first, 0), min(first + spread, num_taps)
        if lo < hi:
            profile[lo:hi] += odds * path[lo - first : hi - first]
    profile = np.maximum(profile / profile.sum(), 1e-4)
    return profile / profile.sum()


def _known_symbols(pilot_grid: ArrayLike, layout: FrameLayout, known: ArrayLike | None) -> tuple[Complex, Complex]:
    """The received (..., P, A) and known (..., P, A) symbols on the active carriers."""
    received = np.asarray(pilot_grid, dtype=np.complex128)
    reference = np.asarray(layout.pilots if known is None else known, dtype=np.complex128)
    if received.ndim < 2 or received.shape[-1] != layout.fft_size:
        raise ConfigError(f"Pilots have shape {received.shape}; needed (..., P, {layout.fft_size}) in FFT bin order.")
    if reference.shape[-2:] != received.shape[-2:] or received.shape[-2] == 0:
        raise ConfigError(
            f"{received.shape[-2]} received and {reference.shape[-2]} known pilot symbols; channel estimation needs as "
            f"many of each and at least one: use a layout with pilots, or the blind method."
        )
    bins = np.asarray(layout.active, dtype=np.int64) % layout.fft_size
    return received[..., bins], np.broadcast_to(reference[..., bins], received[..., bins].shape)


def _noise(noise_var: ArrayLike, batch: tuple[int, ...]) -> Real:
    noise = np.broadcast_to(np.asarray(noise_var, dtype=np.float64), batch).copy()
    if not np.all(np.isfinite(noise)) or np.any(noise < 0):
        raise ConfigError(f"noise_var must be finite and not negative, found {noise.tolist()}.")
    return noise


def ls_estimate(
    pilot_grid: ArrayLike,
    layout: FrameLayout,
    noise_var: ArrayLike,
    pdp: ArrayLike | None = None,
    known: ArrayLike | None = None,
) -> ChannelEstimate:
    """Least squares per carrier, no assumption on the delays (`pdp` is not used). Error variance noise_var / P.

    pilot_grid (..., P, N); `known` (..., P, N) replaces the layout's pilots. The taps are all N; carriers without
    pilots get a zero response.
    """
    received, reference = _known_symbols(pilot_grid, layout, known)
    noise = _noise(noise_var, received.shape[:-2])
    size = layout.fft_size
    energy = np.sum(np.abs(reference) ** 2, axis=-2)
    if np.any(energy <= 0):
        raise ConfigError(
            "LS needs known symbols with power on every active carrier; use dft or lmmse for sparse ones."
        )
    bins = np.asarray(layout.active, dtype=np.int64) % size
    response = np.zeros((*received.shape[:-2], size), dtype=np.complex128)
    response[..., bins] = np.sum(received * reference.conj(), axis=-2) / energy
    # h = IFFT(H), so C_h = F^-1 diag(var) F^-H: circulant, built from the inverse FFT of the variances.
    variances = np.zeros((*received.shape[:-2], size))
    variances[..., bins] = noise[..., None] / energy
    lags = np.fft.ifft(variances, axis=-1) / size
    taps_cov = lags[..., (np.arange(size)[:, None] - np.arange(size)[None, :]) % size]
    return ChannelEstimate(np.fft.ifft(response, axis=-1), taps_cov, response, noise)


def _taps_estimate(
    received: Complex, reference: Complex, layout: FrameLayout, noise: Real, num_taps: int, precision: Real
) -> ChannelEstimate:
    """Solves (sum_p F^H |X_p|^2 F + noise_var * diag(precision)) h = sum_p F^H X_p^* Y_p."""
    fourier = fourier_matrix(layout.active, num_taps, layout.fft_size)
    matched = np.sum(received * reference.conj(), axis=-2) @ fourier.conj()
    energy = np.sum(np.abs(reference) ** 2, axis=-2)
    gram = np.einsum("kl,...k,km->...lm", fourier.conj(), energy, fourier, optimize=True)
    normal = gram + noise[..., None, None] * np.diag(precision)
    inverse = np.linalg.inv(normal)
    taps = (inverse @ matched[..., None])[..., 0]
    response = taps @ fourier_matrix(np.arange(layout.fft_size), num_taps, layout.fft_size).T
    return ChannelEstimate(taps, noise[..., None, None] * inverse, response, noise)


def dft_estimate(
    pilot_grid: ArrayLike,
    layout: FrameLayout,
    noise_var: ArrayLike,
    pdp: ArrayLike | None = None,
    known: ArrayLike | None = None,
) -> ChannelEstimate:
    """Least squares on the first L taps, L = len(pdp) or, without one, the length of the cyclic prefix + 1.

    pilot_grid (..., P, N). Needs at least L carriers with pilots.
    """
    received, reference = _known_symbols(pilot_grid, layout, known)
    noise = _noise(noise_var, received.shape[:-2])
    num_taps = layout.cp_samples + 1 if pdp is None else np.asarray(pdp).shape[-1]
    if num_taps > layout.num_active:
        raise ConfigError(f"{num_taps} taps cannot be solved from {layout.num_active} carriers; use lmmse.")
    return _taps_estimate(received, reference, layout, noise, num_taps, np.zeros(num_taps))


def lmmse_estimate(
    pilot_grid: ArrayLike,
    layout: FrameLayout,
    noise_var: ArrayLike,
    pdp: ArrayLike | None = None,
    known: ArrayLike | None = None,
) -> ChannelEstimate:
    """The posterior mean and covariance of taps h ~ CN(0, diag(pdp)) given known symbols.

    pilot_grid (..., P, N), pdp (L,) in the power units of the grid (sum 1 for a grid of unit mean signal power).
    """
    if pdp is None:
        raise ConfigError("LMMSE needs the prior power profile of the taps (pdp); use dft without one.")
    profile = np.asarray(pdp, dtype=np.float64)
    if profile.ndim != 1 or np.any(profile < 0) or not np.any(profile > 0):
        raise ConfigError(
            f"The power profile needs shape (L,), no negative and a positive power; found {profile.tolist()}."
        )
    received, reference = _known_symbols(pilot_grid, layout, known)
    noise = _noise(noise_var, received.shape[:-2])
    # A tap of prior power zero must stay zero; a finite floor keeps the normal equations solvable.
    precision = 1.0 / np.maximum(profile, 1e-9 * profile.max())
    # Without noise LMMSE is least squares, but only the prior regularises the carriers that are not there.
    solvable = np.maximum(noise, 1e-12 * profile.sum())
    estimate = _taps_estimate(received, reference, layout, solvable, profile.size, precision)
    return ChannelEstimate(estimate.taps, estimate.taps_cov, estimate.response, noise)


def interpolate_estimate(
    pilot_grid: ArrayLike,
    layout: FrameLayout,
    noise_var: float,
    pdp: ArrayLike,
    doppler_hz: float,
    pilot_times_s: ArrayLike,
    times_s: ArrayLike,
    known: ArrayLike | None = None,
) -> ChannelEstimate:
    """Taps at any times from pilot symbols at others: LMMSE under Clarke's model.

    Taps are independent CN(0, pdp), each with autocorrelation J0(2 pi doppler_hz t). Between, before and after the
    pilots this is the Wiener interpolator; without Doppler it is `lmmse_estimate` of all pilots at once.

    Args:
        pilot_grid: (P, N); `known` (P, N) replaces the layout's pilots. pilot_times_s: (P,). times_s: (T,).

    Returns:
        An estimate with batch axis T.
    """
    profile = np.asarray(pdp, dtype=np.float64)
    received, reference = _known_symbols(pilot_grid, layout, known)
    pilots, wanted = np.asarray(pilot_times_s, dtype=np.float64), np.asarray(times_s, dtype=np.float64)
    if received.ndim != 2 or pilots.shape != received.shape[:1] or doppler_hz < 0 or not noise_var > 0:
        raise ConfigError(
            f"Interpolation needs one frame of pilots (P, N), as many times, Doppler >= 0 and noise > 0; found "
            f"{received.shape}, {pilots.shape}, {doppler_hz} and {noise_var}."
        )
    length, count = profile.size, pilots.size
    fourier = fourier_matrix(layout.active, length, layout.fft_size)

    def correlation(a: Real, b: Real) -> Real:
        return scipy.special.j0(2 * np.pi * doppler_hz * (a[:, None] - b[None, :]))

    prior = np.kron(correlation(pilots, pilots), np.diag(profile))
    cross = np.kron(correlation(wanted, pilots), np.diag(profile))
    gram = np.zeros((count * length, count * length), dtype=np.complex128)
    matched = np.empty(count * length, dtype=np.complex128)
    for index in range(count):
        part = slice(index * length, (index + 1) * length)
        gram[part, part] = (fourier.conj().T * np.abs(reference[index]) ** 2) @ fourier / noise_var
        matched[part] = fourier.conj().T @ (reference[index].conj() * received[index]) / noise_var
    # C (I + G C)^-1 needs neither G nor C inverted: guard bands and still channels make them singular.
    gain = np.linalg.solve((np.eye(count * length) + gram @ prior).T, cross.T).T
    taps = (gain @ matched).reshape(wanted.size, length)
    reduction = (gain @ gram @ cross.T).reshape(wanted.size, length, wanted.size, length)
    each = np.arange(wanted.size)
    covariance = np.diag(profile) - reduction[each, :, each, :]
    response = taps @ fourier_matrix(np.arange(layout.fft_size), length, layout.fft_size).T
    return ChannelEstimate(taps, covariance, response, np.full(wanted.size, float(noise_var)))


Estimator = Callable[..., ChannelEstimate]
ESTIMATORS: dict[str, Estimator] = {"ls": ls_estimate, "dft": dft_estimate, "lmmse": lmmse_estimate}


def estimate_channel(
    name: str,
    pilot_grid: ArrayLike,
    layout: FrameLayout,
    noise_var: ArrayLike,
    pdp: ArrayLike | None = None,
    known: ArrayLike | None = None,
) -> ChannelEstimate:
    """Runs the estimator `name` (ls, dft or lmmse) of the registry; unknown names are errors."""
    if name not in ESTIMATORS:
        raise ConfigError(f"Unknown channel estimator {name!r}; choose one of {', '.join(sorted(ESTIMATORS))}.")
    return ESTIMATORS[name](pilot_grid, layout, noise_var, pdp, known)


def mmse_equalise(y: ArrayLike, response: ArrayLike, noise_var: ArrayLike, symbol_power: float = 1.0) -> Complex:
    """conj(H) y / (|H|^2 + noise_var / symbol_power), elementwise with broadcasting. Biased to zero, as MMSE is."""
    gain, noise = np.asarray(response, dtype=np.complex128), np.asarray(noise_var, dtype=np.float64)
    denominator = np.abs(gain) ** 2 + noise / symbol_power
    # A carrier without gain and without noise says nothing: its MMSE estimate is the prior mean.
    silent = denominator == 0
    return np.where(silent, 0.0, gain.conj() * np.asarray(y) / np.where(silent, 1.0, denominator))


def zf_equalise(y: ArrayLike, response: ArrayLike) -> Complex:
    """y / H, elementwise with broadcasting; zero where the response is zero."""
    return mmse_equalise(y, response, 0.0)
