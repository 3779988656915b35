"""How a frame's taps move: the Doppler that its known symbols show, and what they say of the taps in every symbol.

Taps are a Gaussian process in time, E[h_l(t) h_l(t')^*] = power_l J0(2 pi f (t - t')) (Clarke; one tap is independent
of the next). Over a frame such a process lies in few dimensions: with R = U diag(lambda) U^H its correlation over the
frame's symbols, the taps of symbol s are

    h(s) = sum_j basis[s, j] c_j,    basis = U diag(sqrt lambda),    c_j ~ CN(0, diag(power)) independent,

(Karhunen and Loeve; for a flat spectrum these are the Slepian sequences of Zemen and Mecklenbraeuker, IEEE Trans.
Signal Process. 53(9), 2005). The coefficients take the place of taps in the forward model, which stays linear, and a
channel that stands still is the case of one constant function. All known symbols together (preambles, header, pilots,
tracking carriers) tell f by their evidence, the coefficients integrated out: nothing is told to the receiver.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from receiver.channel.conditional import ConditionalChannel, solve
from receiver.sync.frame import SyncedFrame
from receiver.sync.known import transmitted
from receiver.sync.offsets import symbol_times
from sdr.framing import data_grid
from sdr.header import encode_header
from sdr.layout import FrameLayout

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

#: Doppler shifts that are tried, in turns per OFDM symbol.
_TURNS_PER_SYMBOL = (0.0, 0.005, 0.01, 0.0175, 0.025, 0.035, 0.05, 0.07, 0.1, 0.14)
#: Share of the taps' power that the basis may leave out.
_LEFT_OUT = 1e-4
#: Symbols whose correlation is decomposed; those between them follow from it.
_MOST_KNOTS = 256
#: Most coefficients of a frame; Doppler shifts that would need more of them are not tried.
_MOST_COEFFICIENTS = 1024
#: Rounds in which the noise is measured beside the taps.
_NOISE_ROUNDS = 3
#: Nats of evidence that a channel must have for moving. A frame that stands still reached 5 in 2000.
_MOVES_NATS = 20.0


@dataclass(frozen=True, eq=False)
class Motion:
    """What the known symbols of a frame say of its moving taps. Grids have unit mean signal power.

    Attributes:
        doppler_hz: of most evidence.
        gain_nats: its evidence over that of a channel that stands still.
        noise_var: noise per cell about the moving taps.
        basis: (S, r) functions of time, at the data symbols.
        gram: (r L, r L) what the symbols before the data say of the coefficients, function by function, over the noise.
        cross: (r L,) likewise.
        data: complex64 (S, N) data symbols, as they came: no phase is taken out of single ones.
    """

    doppler_hz: float
    gain_nats: float
    noise_var: float
    basis: Real
    gram: Complex
    cross: Complex
    data: NDArray[np.complex64]

    @property
    def moves(self) -> bool:
        """Whether the evidence is beyond doubt that the taps move."""
        return self.gain_nats > _MOVES_NATS


def motion_basis(times_s: Real, doppler_hz: float) -> Real:
    """Return the functions (T, r) of time whose random sums have autocorrelation J0(2 pi f t), but for 1e-4 of it.

    >>> motion_basis(np.arange(3.0), 0.0).round(6).tolist()
    [[1.0], [1.0], [1.0]]
    """
    knots = np.unique(np.linspace(0, times_s.size - 1, min(times_s.size, _MOST_KNOTS)).round().astype(int))
    lags = times_s[:, None] - times_s[None, knots]
    correlation = scipy.special.j0(2 * np.pi * doppler_hz * lags)
    values, vectors = np.linalg.eigh(correlation[knots])
    values, vectors = values[::-1], vectors[:, ::-1]
    left_out = 1 - np.cumsum(values) / knots.size
    rank = 1 + int(np.argmax(left_out < _LEFT_OUT))
    basis = correlation @ (vectors[:, :rank] / np.sqrt(values[:rank]))
    return basis * np.where(basis.sum(axis=0) < 0, -1.0, 1.0)


def measure_motion(frame: SyncedFrame, layout: FrameLayout, power: Real) -> Motion:
    """Measure how the taps of a frame with a header move.

    Args:
        frame: that was received.
        layout: of the frame.
        power: (L,) prior of the taps.
    """
    num_symbols, first = layout.num_symbols, layout.first_data_symbol
    times = symbol_times(layout, 0, num_symbols)
    bases = [motion_basis(times, turns * layout.rate_sps / layout.symbol_samples) for turns in _TURNS_PER_SYMBOL]
    bases = [bases[0], *(basis for basis in bases[1:] if basis.shape[1] * power.size <= _MOST_COEFFICIENTS)]
    noise_var, found = frame.noise_var / frame.signal_power, []
    # Paths that move against each other look like a clock that drifts, too.
    for drift_ppm in dict.fromkeys([frame.corrected_sfo_ppm, 0.0]):
        received, sent = _symbols(frame, layout, drift_ppm)
        statistics = _Statistics.of(received[:, layout.active_bins], sent[:, layout.active_bins], layout, power.size)
        for index, basis in enumerate(bases):
            fit, noise = statistics.fit(basis, power, noise_var)
            found.append((float(fit.log_evidence), index, noise, received, statistics))
    evidence, index, noise, received, statistics = max(found, key=lambda item: item[0])
    gram, cross = statistics.before(first).onto(bases[index][:first])
    return Motion(
        doppler_hz=_TURNS_PER_SYMBOL[index] * layout.rate_sps / layout.symbol_samples,
        gain_nats=evidence - max(item[0] for item in found if item[1] == 0),
        noise_var=noise,
        basis=bases[index][first:],
        gram=gram / noise,
        cross=cross / noise,
        data=received[first:].astype(np.complex64),
    )


def _symbols(frame: SyncedFrame, layout: FrameLayout, drift_ppm: float) -> tuple[Complex, Complex]:
    """Return all symbols of a frame (T, N) as they came, and what is known of those sent, 0 where nothing is.

    Phases that tracking took out of single symbols are put back, as moving taps turn them anyway; the clock's drift is
    taken out of all symbols alike.
    """
    assert frame.header is not None
    before: Complex = np.concatenate([frame.preamble_grid, frame.header_grid]).astype(np.complex128)
    received: Complex = np.concatenate([before, frame.untracked_grid])
    received /= np.sqrt(frame.signal_power)
    omega = 2 * np.pi * np.fft.fftfreq(layout.fft_size)
    drift = drift_ppm * 1e-6 * layout.rate_sps * symbol_times(layout, 0, len(received))
    received *= np.exp(-1j * drift[:, None] * omega)
    preambles = np.stack([layout.preamble_a, layout.preamble_b])
    known = np.concatenate([preambles, encode_header(frame.header, layout), layout.pilots])
    within: Complex = data_grid(np.zeros(layout.capacity, np.complex64), layout).astype(np.complex128)
    return received, np.concatenate([transmitted(known, layout), within])


@dataclass(frozen=True, eq=False)
class _Statistics:
    """What the known cells of T symbols say of the taps L of each, sufficient for any motion.

    Attributes:
        gram: (T, L, L) A^H A.
        cross: (T, L) A^H y.
        energy: ||y||^2 of the known cells.
        cells: their number.
    """

    gram: Complex
    cross: Complex
    energy: float
    cells: int

    @classmethod
    def of(cls, received: Complex, sent: Complex, layout: FrameLayout, num_taps: int) -> _Statistics:
        """Return those of received and sent cells (T, A) on the active carriers."""
        size, bins = layout.fft_size, layout.active_bins
        spectrum = np.zeros((len(sent), 2, size), np.complex128)
        spectrum[:, 0, bins], spectrum[:, 1, bins] = np.abs(sent) ** 2, sent.conj() * received
        lags = np.fft.ifft(spectrum, axis=-1) * size
        apart = (np.arange(num_taps)[:, None] - np.arange(num_taps)[None, :]) % size
        known = sent != 0
        energy = float(np.sum(np.abs(received[known]) ** 2))
        return cls(lags[:, 0, apart], lags[:, 1, :num_taps], energy, int(known.sum()))

    def before(self, symbol: int) -> _Statistics:
        """Return those of the first symbols; the energy stays that of all."""
        return replace(self, gram=self.gram[:symbol], cross=self.cross[:symbol])

    def onto(self, basis: Real) -> tuple[Complex, Complex]:
        """Return gram (r L, r L) and cross (r L,) for the coefficients of a basis (T, r)."""
        rank, num_taps = basis.shape[1], self.cross.shape[1]
        weight = np.einsum("ti,tj->ijt", basis, basis).reshape(rank * rank, -1)
        gram = (weight @ self.gram.reshape(len(basis), -1)).reshape(rank, rank, num_taps, num_taps)
        return gram.transpose(0, 2, 1, 3).reshape(rank * num_taps, -1), (basis.T @ self.cross).reshape(-1)

    def fit(self, basis: Real, power: Real, noise_var: float) -> tuple[ConditionalChannel, float]:
        """Return the coefficients' posterior, and the noise per cell about them.

        Args:
            basis: (T, r).
            power: (L,) prior of the taps.
            noise_var: to begin with.
        """
        gram, cross = (torch.from_numpy(value) for value in self.onto(basis))
        prior = torch.from_numpy(np.tile(power, basis.shape[1]))
        energy, cells = torch.tensor(self.energy, dtype=torch.float64), torch.tensor(float(self.cells))
        for _ in range(_NOISE_ROUNDS):
            noise = torch.tensor(noise_var, dtype=torch.float64)
            found = solve(gram, cross, energy, cells, noise, prior)
            error = self.energy - 2 * (cross.conj() @ found.mean).real + (found.mean.conj() @ gram @ found.mean).real
            used = (gram @ found.covariance).diagonal().real.sum() / noise
            noise_var = float(error / (self.cells - used).clamp(min=1))
        return solve(gram, cross, energy, cells, torch.tensor(noise_var, dtype=torch.float64), prior), noise_var
