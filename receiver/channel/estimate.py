"""Channel estimation from known OFDM symbols.

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
from numpy.typing import ArrayLike, NDArray

from sdr.errors import ConfigError
from sdr.layout import FrameLayout

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelEstimate:
    """A channel estimate and how wrong it may be. Leading axes (...) are a batch, usually frames.

    Attributes:
        taps: complex (..., L).
        taps_cov: complex (..., L, L), error covariance E[(h_hat - h)(h_hat - h)^H]; the posterior's for `lmmse`.
        response: complex (..., N) in FFT bin order.
        noise_var: (...,) that the estimate assumed.
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

    def frame(self, row: int) -> ChannelEstimate:
        """Return the estimate of one frame of a batch."""
        return ChannelEstimate(self.taps[row], self.taps_cov[row], self.response[row], self.noise_var[row])

    @property
    def response_var(self) -> Real:
        """Return the error variance (..., N) of `response` on every carrier, diag(F C F^H)."""
        size, length = self.response.shape[-1], self.taps.shape[-1]
        fourier = fourier_matrix(np.arange(size), length, size)
        return np.einsum("kl,...lm,km->...k", fourier, self.taps_cov, fourier.conj(), optimize=True).real


def fourier_matrix(carriers: ArrayLike, num_taps: int, fft_size: int) -> Complex:
    """Return the matrix (carriers, taps) that maps taps to the response on carriers (signed or bin numbers).

    >>> fourier_matrix([0, 1], 2, 4).round(6) + 0
    array([[1.+0.j, 1.+0.j],
           [1.+0.j, 0.-1.j]])
    """
    phase = np.outer(np.asarray(carriers, dtype=np.int64), np.arange(num_taps)) % fft_size
    return np.exp(-2j * np.pi * phase / fft_size)


def _known_symbols(pilot_grid: ArrayLike, layout: FrameLayout, known: ArrayLike | None) -> tuple[Complex, Complex]:
    """Return the received and the known symbols, both (..., P, A), on the active carriers."""
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
    """Estimate by least squares per carrier, without any assumption on delays. Error variance noise_var / P.

    The taps are all N; carriers without pilots get a zero response.

    Args:
        pilot_grid: (..., P, N) received pilots.
        layout: of the frames.
        noise_var: (...,) per carrier.
        pdp: not used.
        known: (..., P, N) pilots as sent, the layout's unless given.

    Raises:
        ConfigError: shapes that don't fit, or an active carrier without power.
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
    """Solve (sum_p F^H |X_p|^2 F + noise_var * diag(precision)) h = sum_p F^H X_p^* Y_p.

    `receiver.channel.conditional` solves the same in torch for whole grids and adds the evidence; the synchroniser has
    a form of its own that is made for many frames under one profile.
    """
    fourier = fourier_matrix(layout.active, num_taps, layout.fft_size)
    matched = np.sum(received * reference.conj(), axis=-2) @ fourier.conj()
    energy = np.sum(np.abs(reference) ** 2, axis=-2)
    gram = np.einsum("kl,...k,km->...lm", fourier.conj(), energy, fourier, optimize=True)
    normal = gram + noise[..., None, None] * (precision[..., None] * np.eye(num_taps))
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
    """Estimate by least squares on the first L taps, L = len(pdp) or, without one, the cyclic prefix + 1.

    Args:
        pilot_grid: (..., P, N) received pilots.
        layout: of the frames.
        noise_var: (...,) per carrier.
        pdp: (L,) only its length counts.
        known: (..., P, N) pilots as sent, the layout's unless given.

    Raises:
        ConfigError: shapes that don't fit, or fewer than L carriers with pilots.
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
    """Estimate by the posterior mean and covariance of taps h ~ CN(0, diag(pdp)) given known symbols.

    Args:
        pilot_grid: (..., P, N) received pilots.
        layout: of the frames.
        noise_var: (...,) per carrier.
        pdp: (L,), or (..., L) for profiles that differ, in the power units of the grid (sum 1 for a grid of unit mean
            signal power).
        known: (..., P, N) pilots as sent, the layout's unless given.

    Raises:
        ConfigError: no profile, or shapes that don't fit.
    """
    if pdp is None:
        raise ConfigError("LMMSE needs the prior power profile of the taps (pdp); use dft without one.")
    profile = np.asarray(pdp, dtype=np.float64)
    received, reference = _known_symbols(pilot_grid, layout, known)
    batch = received.shape[:-2]
    fits = profile.ndim == 1 or (profile.ndim and profile.shape[:-1] == batch)
    if not fits or np.any(profile < 0) or not np.all(np.any(profile > 0, axis=-1)):
        raise ConfigError(
            f"The power profile needs shape (L,) or {(*batch, 'L')}, no negative and a positive power; found "
            f"{profile.tolist()}."
        )
    noise = _noise(noise_var, batch)
    # A tap of prior power zero must stay zero; a finite floor keeps the normal equations solvable.
    precision = 1.0 / np.maximum(profile, 1e-9 * profile.max(axis=-1, keepdims=True))
    # Without noise LMMSE is least squares, but only the prior regularises the carriers that are not there.
    solvable = np.maximum(noise, 1e-12 * profile.sum(axis=-1))
    estimate = _taps_estimate(received, reference, layout, solvable, profile.shape[-1], precision)
    return ChannelEstimate(estimate.taps, estimate.taps_cov, estimate.response, noise)


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
    """Run the estimator `name` of `ESTIMATORS`.

    Raises:
        ConfigError: an unknown name, and what the estimator refuses.
    """
    if name not in ESTIMATORS:
        raise ConfigError(f"Unknown channel estimator {name!r}; choose one of {', '.join(sorted(ESTIMATORS))}.")
    return ESTIMATORS[name](pilot_grid, layout, noise_var, pdp, known)
