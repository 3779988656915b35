"""What words of symbols look like: a mixture of factor analysers, and the channel found with it.

A word is a whole image's symbols, or a block's. Those of one cluster are close to Gaussian in their real and imaginary
parts, w = (Re z, Im z):

    p(w) = sum_c weight_c N(mean_c, factors_c factors_c^T + diag(noise_c))

So the symbols' posterior given the received cells and taps is closed form, and expectation maximisation (EM) climbs
p(y | h) p(h) with the symbols marginalised: no image has to be guessed to tell how likely a channel is. (Mixtures of
factor analysers: Ghahramani and Hinton 1996.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from receiver.channel.conditional import tap_steering
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Words
from receiver.measurement.model import Measurement
from receiver.priors.symbols import SymbolMixture, posterior_in_parts
from sdr.errors import ConfigError

#: Weakest gain that a cell is divided by; below it the cell says nothing, and a float32 sum must not be lost in it.
_LEAST_GAIN_SQUARED = 1e-5
#: Components that are followed between two looks at all of them. The posterior of the component is that narrow.
_FOLLOWED = 6
#: All components are looked at, and the half of the starts with less evidence is dropped, every so many rounds.
_ROUNDS_PER_HALVING = 4


@dataclass(frozen=True, eq=False)
class _Received:
    """Words as received, of those that one frame holds.

    Attributes: cells (R, W), undone of the words' signs; carriers (R, W) of the cells; noise (R, W) power of
    each over its frame's; frame (R,); fft_size.
    """

    cells: Tensor
    carriers: Tensor
    noise: Tensor
    frame: Tensor
    fft_size: int

    @classmethod
    def of(cls, measurement: Measurement, mixture: SymbolMixture, words: Words | None) -> _Received:
        words = Words.whole(measurement.num_symbols) if words is None else words
        places, signs = (part.to(measurement.cells.device) for part in (words.places, words.signs))
        if mixture.num_symbols != places.shape[1]:
            raise ConfigError(
                f"The mixture is of words of {mixture.num_symbols} symbols, the images have words of {places.shape[1]}."
            )
        frames = measurement.frame_of_cell[:, places]
        whole = (frames == frames[..., :1]).all(dim=-1)
        return cls(
            (measurement.received_cells()[:, places] * signs[:, None])[whole],
            (measurement.cells[:, places] % measurement.layout.fft_size)[whole],
            measurement.cell_noise_ratio[:, places][whole],
            frames[..., 0][whole],
            measurement.layout.fft_size,
        )

    def waves(self, num_taps: int) -> Tensor:
        """(R, W, L)"""
        return tap_steering(self.carriers, num_taps, self.fft_size)


#: Rounds of Gauss and Newton.
_ROOT_ROUNDS = 30
#: Distance of two roots, over their length, below which they are one.
_SAME_ROOT = 0.05


@torch.no_grad()
def second_order_channels(
    measurement: Measurement,
    mixture: SymbolMixture,
    prior: ChannelPrior,
    candidates: Tensor,
    words: Words | None = None,
    *,
    kept: int,
) -> Tensor:
    """Taps (F, kept, L) up to their sign from second-order statistics, best first.

    Where symbols are improper, E[z^2] = m is not 0 and E[y^2] = H^2 m: least squares give g, the taps of H^2, and Gauss
    and Newton the taps h with h * h = g from each candidate (F, M, L). Many lead to the same root, and noise may favour
    a wrong one: those that differ are kept, the best again where there are too few. It needs many more symbols than
    taps.
    """
    seen = _Received.of(measurement, mixture, words)
    squares = mixture.mean.square() + mixture.factors.square().sum(-1) + mixture.noise
    real_square, imag_square = (mixture.weight @ squares).chunk(2)
    real, imag = mixture.mean.chunk(2, dim=1)
    real_factors, imag_factors = mixture.factors.chunk(2, dim=1)
    product = mixture.weight @ (real * imag + (real_factors * imag_factors).sum(-1))
    improper = torch.complex(real_square - imag_square, 2 * product)
    noise = measurement.noise_var[seen.frame][:, None] * seen.noise
    weight = 1 / (real_square + imag_square + noise).square()  # about the spread of a cell's square
    num_taps = candidates.shape[2]
    size = 2 * num_taps - 1
    columns = seen.waves(size) * improper[:, None]
    gram = torch.einsum("rw,rwl,rwm->rlm", weight.to(columns.dtype), columns.conj(), columns)
    cross = torch.einsum("rw,rwl,rw->rl", weight.to(columns.dtype), columns.conj(), seen.cells.square())
    frames = len(candidates)
    gram = gram.new_zeros(frames, size, size).index_add(0, seen.frame, gram)
    cross = cross.new_zeros(frames, size).index_add(0, seen.frame, cross)
    # A little of the prior, by which E|g_l|^2 goes with the profile convolved with itself.
    power = prior.power.view(-1, num_taps)
    profile = torch.nn.functional.conv1d(power[None], power.flip(1)[:, None], padding=num_taps - 1, groups=len(power))[
        0
    ]
    rows = torch.arange(frames, device=gram.device)
    gram = gram + torch.diag_embed(1 / (2 * profile)).to(gram)[rows % len(profile)]
    target = torch.linalg.solve(gram, cross[..., None])[..., 0]
    h = candidates
    lags = torch.arange(size, device=h.device)[:, None] - torch.arange(num_taps, device=h.device)[None]
    inside = ((lags >= 0) & (lags < num_taps)).to(h)
    metric = torch.linalg.cholesky(gram).mH  # errors of g count as the measurement tells of them

    def convolution(h: Tensor) -> tuple[Tensor, Tensor]:
        """(F, M, 2 L - 1, L) that convolves with h, and what h * h misses of g."""
        shifted = h[..., lags.clamp(0, num_taps - 1)] * inside
        return shifted, target[:, None] - (shifted @ h[..., None])[..., 0]

    for _ in range(_ROOT_ROUNDS):
        shifted, error = convolution(h)
        slope = metric[:, None] @ (2 * shifted)
        normal = slope.mH @ slope
        damping = 1e-3 * torch.diagonal(normal, dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
        normal = normal + damping * torch.eye(num_taps, device=h.device)
        h = h + torch.linalg.solve(normal, slope.mH @ (metric[:, None] @ error[..., None]))[..., 0]
    misfit = (metric[:, None] @ convolution(h)[1][..., None]).abs().square().sum((-2, -1)).nan_to_num(float("inf"))
    h = h.nan_to_num(0)
    frame = torch.arange(frames, device=h.device)
    roots = []
    for _ in range(kept):
        root = h[frame, misfit.argmin(dim=1)]
        if roots:
            root = torch.where(misfit.isinf().all(dim=1, keepdim=True), roots[0], root)
        roots.append(root)
        apart = torch.minimum((h - root[:, None]).norm(dim=-1), (h + root[:, None]).norm(dim=-1))
        misfit = misfit.masked_fill(apart < _SAME_ROOT * root.norm(dim=-1, keepdim=True), float("inf"))
    return torch.stack(roots, dim=1)


@torch.no_grad()
def mixture_channel(
    measurement: Measurement,
    mixture: SymbolMixture,
    prior: ChannelPrior,
    candidates: Tensor,
    words: Words | None = None,
    *,
    rounds: int = 20,
    initial_noise: float = 4.0,
    misfit: float = 0.0,
) -> Tensor:
    """Taps (F, L) of most posterior density p(h | y), symbols marginalised, by EM from several starts.

    The noise variance is annealed from ``initial_noise`` times the measured one, so that early rounds see a smoother
    density; starts are halved by it as the rounds go on. What an amplifier adds to a cell counts as noise.

    Args:
        candidates: (F, M, L) starts.
        words: that the mixture is of; None: the image is one word. Those that lie in several frames are left out.
        misfit: noise variance that counts beside the measured one, as words differ from what the mixture says of them:
            where noise is weak, taps would be bent until they fit better.

    Raises:
        ConfigError: the mixture is of words with another number of symbols.
    """
    num_taps = candidates.shape[2]
    of_words = _Received.of(measurement, mixture, words)
    frame, received, waves = of_words.frame, of_words.cells, of_words.waves(num_taps)
    kept, distortion = measurement.distortion
    outer = (waves.conj()[..., :, None] * waves[..., None, :]).flatten(2)
    matched = waves.conj() * received[..., None]
    power = prior.at(torch.arange(len(candidates)))[..., None, :]
    precision = torch.diag_embed(1 / power).to(candidates)
    h, log_density, among = candidates, candidates.real.new_zeros(candidates.shape[:2]), None
    for index in range(rounds):
        looks = index % _ROUNDS_PER_HALVING == 0
        if looks and index:
            best = log_density.topk(-(-h.shape[1] // 2), dim=1).indices
            h = h.gather(1, best[..., None].expand(-1, -1, num_taps))
        annealed = initial_noise ** (1 - (index + 1) / rounds)
        noise_var = ((measurement.noise_var + misfit) * annealed)[frame][:, None, None]
        noise_var = noise_var * of_words.noise[:, None, :]
        gain = torch.einsum("bkl,bsl->bsk", waves, h[frame])
        squared = gain.abs().square().clamp(min=_LEAST_GAIN_SQUARED)
        seen = received[:, None] * gain.conj() / (kept * squared)
        noise = (noise_var / squared + distortion) / (2 * kept**2)
        found = posterior_in_parts(
            mixture,
            torch.cat([seen.real, seen.imag], dim=-1).flatten(0, 1),
            torch.cat([noise, noise], dim=-1).flatten(0, 1),
            None if looks else among,
        )
        if looks:
            among = found.log_joint.topk(min(_FOLLOWED, len(mixture.weight)), dim=1).indices
        rows = seen.shape[:2]
        # In terms of what was received, not of what was seen of the symbols.
        evidence = found.log_likelihood.unflatten(0, rows) - squared.log().sum(-1)
        log_prior = -(h.abs().square() / power).sum(-1)
        log_density = log_prior.index_add(0, frame, evidence)
        # The taps of most expected density: least squares, weighted, with the symbols' first and second moments.
        mean = torch.complex(*found.mean.unflatten(0, rows).chunk(2, dim=-1))
        real_square, imag_square = found.square.unflatten(0, rows).chunk(2, dim=-1)
        weight = kept / (noise_var + distortion * squared)
        gram = torch.einsum("bsk,bkm->bsm", (weight * kept * (real_square + imag_square)).to(outer.dtype), outer)
        cross = torch.einsum("bsk,bkl->bsl", weight * mean.conj(), matched)
        gram = h.new_zeros(*h.shape[:2], num_taps**2).index_add(0, frame, gram).unflatten(-1, (num_taps, -1))
        cross = torch.zeros_like(h).index_add(0, frame, cross)
        h = torch.linalg.solve(gram + precision, cross[..., None])[..., 0]
    return h[torch.arange(len(h), device=h.device), log_density.argmax(dim=1)]
