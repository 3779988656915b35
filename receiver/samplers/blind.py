"""The channel as an unknown: closed-form conditional and evidence, initialisation, turbo rounds.

Given the images, the received cells are linear and Gaussian in the taps, y = A h + n with A = diag(s) F (s the sent
cells, F the taps' Fourier matrix on their carriers), h ~ CN(0, diag(power)), n ~ CN(0, noise_var). So p(h | x, y) and
the evidence p(y | x) with h marginalised need one L x L solve per frame. Nothing here uses a pilot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from receiver.codecs import CSNR_RANGE_DB, Codec
from receiver.measurement import Measurement
from sdr.errors import ConfigError


@dataclass(frozen=True)
class ChannelPrior:
    """Taps h_l ~ CN(0, power_l), independent.

    Attributes:
        power: (L,) positive; sums to about 1, as the measurement is scaled to unit mean signal power.
    """

    power: Tensor

    def __post_init__(self) -> None:
        if self.power.dim() != 1 or not bool((self.power > 0).all()):
            raise ConfigError(
                f"Tap powers must be a vector of positive numbers, found shape {tuple(self.power.shape)}."
            )

    @property
    def num_taps(self) -> int:
        return self.power.shape[0]


def decoder_csnr_db(measurement: Measurement, noise_var: Tensor) -> Tensor:
    """(B,) CSNR to tell the decoder at a noise variance (F,), no more than codecs are trained with."""
    return (-10 * noise_var.log10()[measurement.frame_of_image]).clamp(max=CSNR_RANGE_DB[1])


@dataclass(frozen=True)
class ConditionalChannel:
    """p(h | x, y) = CN(mean, covariance) and the evidence log p(y | x), per frame.

    Attributes:
        mean: (..., L) complex.
        covariance: (..., L, L) complex.
        log_evidence: (...,) nats, h marginalised.
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor


def _solve(
    gram: Tensor, cross: Tensor, energy: Tensor, cells: Tensor, noise_var: Tensor, power: Tensor
) -> ConditionalChannel:
    """Gaussian conditioning from sufficient statistics: gram = A^H A, cross = A^H y, energy = ||y||^2."""
    noise = noise_var[..., None, None]
    precision = gram / noise + torch.diag(1 / power).to(gram)
    factor = torch.linalg.cholesky(precision)
    scaled = (cross / noise_var[..., None])[..., None]
    mean = torch.cholesky_solve(scaled, factor)[..., 0]
    log_det = 2 * torch.diagonal(factor, dim1=-2, dim2=-1).real.log().sum(-1) + power.log().sum()
    fit = energy / noise_var - (scaled[..., 0].conj() * mean).real.sum(-1)
    log_evidence = -fit - log_det - cells * (noise_var * torch.pi).log()
    return ConditionalChannel(mean, torch.cholesky_inverse(factor), log_evidence)


def tap_steering(carriers: Tensor, num_taps: int, fft_size: int) -> Tensor:
    """exp(-2 pi i k l / N) for carriers k (...): (..., L)."""
    angle = -2 * torch.pi / fft_size * (carriers[..., None] * torch.arange(num_taps, device=carriers.device) % fft_size)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def conditional_channel(
    measurement: Measurement, z: Tensor, prior: ChannelPrior, noise_var: Tensor | None = None
) -> ConditionalChannel:
    """p(h | y, z) of every frame, all its images (and tracking carriers) taken together.

    Args:
        z: (B, K) sent symbols.
        noise_var: (F,) linear, overrides the measurement's (annealing).
    """
    noise_var = measurement.noise_var if noise_var is None else noise_var
    size = measurement.layout.fft_size
    steering = tap_steering(torch.arange(size, device=z.device), prior.num_taps, size)
    sent, occupied = measurement.transmitted_grid(z), measurement.sent_grid(z) != 0
    sent = sent * occupied
    power = sent.abs().square().sum(dim=1)
    matched = (sent.conj() * measurement.y).sum(dim=1)
    gram = torch.einsum("fn,nl,nm->flm", power.to(steering.dtype), steering.conj(), steering)
    energy = (measurement.y.abs().square() * occupied).sum(dim=(1, 2))
    return _solve(gram, matched @ steering.conj(), energy, occupied.sum(dim=(1, 2)), noise_var, prior.power.to(energy))


def codebook_evidence(
    measurement: Measurement, codebook: Tensor, prior: ChannelPrior, noise_var: Tensor, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """Evidence of every codebook entry for every image on its own, h marginalised.

    Args:
        codebook: (n, K) symbols of encoded images.
        noise_var: (B,) linear; larger than the air's, since no entry is the image that was sent.

    Returns:
        log evidence (B, n) and the conditional mean of h (B, n, L).
    """
    size = measurement.layout.fft_size
    steering = tap_steering(measurement.cells % size, prior.num_taps, size)
    received = measurement.received_cells()
    energy = received.abs().square().sum(-1)
    outer = (steering.conj()[..., :, None] * steering[..., None, :]).flatten(2)
    matched = steering.conj() * received[..., None]
    evidences, means = [], []
    power = prior.power.to(energy)
    # What an amplifier adds to a cell depends on all images of its symbol, so it counts as noise here.
    kept, distortion = measurement.distortion
    noise_var = noise_var + distortion
    for part in (kept * codebook).split(chunk):
        gram = torch.einsum("nk,bkm->bnm", part.abs().square().to(outer.dtype), outer)
        gram = gram.unflatten(-1, (prior.num_taps,) * 2)
        cross = torch.einsum("nk,bkl->bnl", part.conj(), matched)
        found = _solve(gram, cross, energy[:, None], part.new_tensor(part.shape[1]).real, noise_var[:, None], power)
        evidences.append(found.log_evidence)
        means.append(found.mean)
    return torch.cat(evidences, dim=1), torch.cat(means, dim=1)


def spread_candidates(log_evidence: Tensor, means: Tensor, count: int, pool: int = 64) -> Tensor:
    """Well-separated channel candidates: greedy, the best evidence first, then each the farthest from those chosen.

    Candidates are drawn from the ``pool`` of best evidence only; distance is that of the taps, ||h - h'||^2.

    Args:
        log_evidence: (F, n); means: (F, n, L).

    Returns:
        (F, count, L).
    """
    pool = min(pool, log_evidence.shape[1])
    best = log_evidence.topk(pool, dim=1).indices
    taps = means.gather(1, best[..., None].expand(-1, -1, means.shape[-1]))
    chosen = [taps[:, 0]]
    distance = (taps - taps[:, :1]).abs().square().sum(-1)
    rows = torch.arange(taps.shape[0], device=taps.device)
    for _ in range(count - 1):
        nxt = taps[rows, distance.argmax(dim=1)]
        chosen.append(nxt)
        distance = torch.minimum(distance, (taps - nxt[:, None]).abs().square().sum(-1))
    return torch.stack(chosen, dim=1)


def _linked_frames(measurement: Measurement) -> Tensor:
    """(F,) for every frame the first frame that an image links it to; itself unless an image spans frames."""
    group = torch.arange(measurement.num_frames, device=measurement.cells.device)
    if measurement.spans_frames:
        for frames in measurement.frame_of_cell:
            members = frames.unique()
            group[members] = group[members].min()
    return group


def alone(measurement: Measurement) -> Tensor:
    """(F,) whether no image links a frame to another one."""
    linked = _linked_frames(measurement)
    return torch.bincount(linked, minlength=measurement.num_frames)[linked] == 1


#: Images per call of the codec where many channel candidates are tried. Decoding 512 at once took 1.4 to 1.5 times the
#: processor time of parts of 128 (one thread, three runs each): tensors so large are paged in anew at every layer.
_CODEC_BATCH = 128
#: Symbols per call at the most, but for a single image: large images go one by one, so that memory stays bounded.
_CODEC_SYMBOLS = 1 << 15


def _in_parts(network: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, csnr_db: Tensor, num_symbols: int) -> Tensor:
    batch = max(1, min(_CODEC_BATCH, _CODEC_SYMBOLS // num_symbols))
    parts = zip(inputs.split(batch), csnr_db.split(batch), strict=True)
    return torch.cat([network(part, csnr) for part, csnr in parts])


#: After so many rounds the half of the starts with less evidence is dropped; the basin is decided by then.
_ROUNDS_PER_HALVING = 3


@dataclass(frozen=True)
class TurboResult:
    """Attributes: h (F, L), x (B, C, H, W) deterministic decoding with it, log_evidence (F,)."""

    h: Tensor
    x: Tensor
    log_evidence: Tensor


@torch.no_grad()
def turbo(
    measurement: Measurement,
    codec: Codec,
    prior: ChannelPrior,
    candidates: Tensor,
    encoder_csnr_db: Tensor,
    *,
    rounds: int = 10,
    initial_noise: float = 4.0,
) -> TurboResult:
    """Alternate x <- D(W_h^-1 y) and h <- E[h | y, E(x)] from several starts; the evidence picks one per frame.

    Starts are halved by evidence as the rounds go on, frames that share an image together.

    The noise variance is annealed from ``initial_noise`` times the measured one down to it, so that early rounds
    do not trust an image that is still wrong.

    Args:
        candidates: (F, M, L) starts.
        encoder_csnr_db: (B,) the CSNR that the encoder was told.
    """
    frames, starts, _ = candidates.shape
    group = _linked_frames(measurement)
    h = candidates.transpose(0, 1)
    x = torch.empty(0)
    log_evidence = torch.empty(0)
    for index in range(rounds):
        wide = measurement.repeat(starts)
        noise_var = wide.noise_var * initial_noise ** (1 - (index + 1) / rounds)
        z = wide.decoder_input(h.flatten(0, 1), noise_var)
        size = measurement.num_symbols
        x = _in_parts(codec.decode, z, decoder_csnr_db(wide, noise_var), size).clamp(0, 1)
        z = _in_parts(codec.encode, x, encoder_csnr_db.repeat(starts), size)
        conditional = conditional_channel(wide, z, prior, noise_var)
        h = conditional.mean.unflatten(0, (starts, frames))
        log_evidence = conditional.log_evidence.unflatten(0, (starts, frames))
        log_evidence = torch.zeros_like(log_evidence).index_add(1, group, log_evidence)[:, group]
        if (index + 1) % _ROUNDS_PER_HALVING == 0 and index + 1 < rounds:
            starts = max(1, -(-starts // 2))
            kept = log_evidence.topk(starts, dim=0).indices
            h = h.gather(0, kept[..., None].expand(-1, -1, h.shape[-1]))
    best = log_evidence.argmax(dim=0)
    rows = torch.arange(frames, device=best.device)
    x = x.unflatten(0, (starts, -1))
    images = torch.arange(x.shape[1], device=best.device)
    return TurboResult(
        h[best, rows],
        x[best[measurement.frame_of_image], images],
        log_evidence[best, rows],
    )
