"""Choose the channels that blind decoding starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from receiver.channel.prior import ChannelPrior
from receiver.following import Followed, follow_decoded
from receiver.measurement.model import Measurement
from receiver.samplers.blind.evidence import alone, codebook_evidence, spread_candidates
from receiver.samplers.blind.mixture import mixture_channel, second_order_channels
from receiver.samplers.blind.turbo import turbo
from receiver.samplers.deterministic import decoded
from receiver.samplers.problem import Problem
from receiver.samplers.randomness import RowGenerators, standard_normal
from receiver.samplers.settings import STARTS


def _rankable(problem: Problem) -> Tensor:
    """(F,) frames whose candidates can be ranked: the evidence of a word needs the whole image in one frame."""
    images = torch.bincount(problem.measurement.frame_of_image, minlength=problem.measurement.num_frames)
    return alone(problem.measurement) & (images > 0)


def initial_channels(problem: Problem) -> Tensor:
    """Channel candidates (F, M, L) from where the settings say, else from the prior; see `MethodSettings.start`."""
    measurement, prior, count = problem.measurement, problem.channel.prior, problem.settings.candidates
    mixture, codebook = problem.models.mixture, problem.models.codebook
    sources = {
        "mixture": None if mixture is None else (lambda _, words=mixture.mean_symbols: words),
        "codebook": None if codebook is None else partial(_encoded, problem, codebook),
        "random": None,
    }
    allowed = STARTS[STARTS.index(problem.settings.start) :]
    words = next((sources[name] for name in allowed if sources[name] is not None), None)
    ranked = _rankable(problem).tolist() if words is not None else [False] * measurement.num_frames
    drawn = [frame for frame, is_ranked in enumerate(ranked) if not is_ranked]
    candidates = torch.zeros(
        measurement.num_frames, count, prior.num_taps, dtype=torch.complex64, device=measurement.y.device
    )
    if drawn:
        candidates[drawn] = _drawn_channels(problem, drawn, count)
    if words is not None and len(drawn) < len(ranked):
        images = torch.bincount(measurement.frame_of_image, minlength=measurement.num_frames)
        per_image = _ranked_channels(problem, words)
        for frame in (frame for frame, is_ranked in enumerate(ranked) if is_ranked):
            wanted = -(-2 * count // int(images[frame]))
            mine = per_image[measurement.frame_of_image == frame, :wanted].transpose(0, 1).flatten(0, 1)
            # Cyclically filled where a frame has too few.
            candidates[frame] = mine[torch.arange(count, device=mine.device) % mine.shape[0]]
    return candidates


def _drawn_channels(problem: Problem, frames: Sequence[int], count: int) -> Tensor:
    """(frames, count, L) draws of the prior."""
    source, prior = problem.frame_generator, problem.channel.prior
    if isinstance(source, RowGenerators):
        source = RowGenerators(tuple(source.rows[frame] for frame in frames))
    draws = standard_normal((len(frames), count, prior.num_taps, 2), source, prior.power.device)
    return torch.view_as_complex(draws) * (prior.at(torch.tensor(frames))[..., None, :] / 2).sqrt()


def _encoded(problem: Problem, images: Tensor, csnr_db: Tensor) -> Tensor:
    return torch.cat([problem.codec.encode(x, csnr_db.expand(len(x))) for x in images.split(256)])


#: Words of most evidence among which an image's candidates are spread.
_POOL = 32


@torch.no_grad()
def _ranked_channels(problem: Problem, words: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, M, L): for every image channels that explain it with a word, the best first.

    Args:
        words: gives symbols (n, K) that images may have, for a CSNR that the encoder was told.
    """
    measurement, prior, told = problem.measurement, problem.channel.prior, problem.encoder_csnr_db
    # No word is the image that was sent: half of the signal power counts as noise.
    loose = (measurement.noise_var + 0.5)[measurement.frame_of_image]
    wanted = min(2 * problem.settings.candidates, _POOL)
    picked = []
    for csnr_db in told.unique():
        mine = told == csnr_db
        some = replace(
            measurement,
            cells=measurement.cells[mine],
            scramble=measurement.scramble[mine],
            csnr_db=measurement.csnr_db[mine],
            image_ids=measurement.image_ids[: int(mine.sum())],
        )
        evidence, means = codebook_evidence(some, words(csnr_db), prior, loose[mine])
        best = evidence.topk(min(_POOL, evidence.shape[1]), dim=1)
        taps = means.gather(1, best.indices[..., None].expand(-1, -1, means.shape[-1]))
        picked.append(spread_candidates(best.values, taps, min(wanted, evidence.shape[1])))
    rows = torch.cat([torch.nonzero(told == csnr_db)[:, 0] for csnr_db in told.unique()])
    return torch.cat(picked)[rows.argsort()]


#: Where an image has many words: square roots that are tried and kept, and, to refine them and tell their signs, the
#: words of each frame that are looked at and the rounds.
_ROOTS, _KEPT_ROOTS, _WORDS_PER_FRAME, _REFINING_ROUNDS = 24, 6, 64, 32
#: Noise variance that counts as the mixture's misfit. Without it 8 of 72 crops of 192 pixels a side were lost
#: at 10 dB; with it, and twice the roots and rounds, at most one.
_MISFIT = 0.05


@dataclass(frozen=True)
class BlindStart:
    """Where a blind method begins.

    Attributes:
        h: (F, L) taps found without pilots.
        x_d: (B, C, H, W) what the decoder makes of the measurement with them.
        by_mixture: the mixture of symbols found them.
    """

    h: Tensor
    x_d: Tensor
    by_mixture: bool


def as_strong_as_received(measurement: Measurement, h: Tensor) -> Tensor:
    """Return taps h (F, L) times what makes them explain the power received, as an image's symbols have unit power.

    Taps that were found by symbols that differ from those sent come out weak. Least squares over the cells of images;
    a cell's power varies as its square.
    """
    gain, noise = measurement.gains(h).abs().square(), measurement.cell_noise_var
    weight = gain / (gain + noise).square()
    frame = measurement.frame_of_cell.flatten()

    def per_frame(values: Tensor) -> Tensor:
        return values.new_zeros(len(h)).index_add(0, frame, values.flatten())

    received = per_frame(weight * (measurement.received_cells().abs().square() - noise) * measurement.arrived)
    power = received / per_frame(weight * gain * measurement.arrived)
    return h * torch.where(power > 0, power, 1.0).sqrt()[:, None]


def blind_start(problem: Problem) -> BlindStart:
    """Find taps without pilots: by the mixture of symbols where there is one, else by turbo rounds from candidates.

    Taps that move are found as they are in the middle of the data, and followed from there by what is decoded.
    """
    if problem.measurement.motion is not None:
        return _moving_start(problem)
    settings, prior, measurement = problem.settings, problem.channel.prior, problem.measurement
    words, mixture = problem.codec.words, problem.models.mixture if settings.start == "mixture" else None
    if mixture is not None and len(words.places) > 1:
        drawn = _drawn_channels(problem, range(measurement.num_frames), _ROOTS)
        best = second_order_channels(measurement, mixture, prior, drawn, words, kept=_KEPT_ROOTS)
        few = words.thinned(_WORDS_PER_FRAME * len(measurement.frame_of_cell[0].unique()))
        starts, rounds = torch.cat([best, -best], dim=1), _REFINING_ROUNDS
        h = mixture_channel(measurement, mixture, prior, starts, few, rounds=rounds, misfit=_MISFIT)
        h = as_strong_as_received(measurement, h)
        return BlindStart(h, decoded(problem, h), True)
    candidates = initial_channels(problem)
    if mixture is not None and bool(_rankable(problem).all()):
        h = mixture_channel(measurement, mixture, prior, candidates)
        return BlindStart(h, decoded(problem, h), True)
    found = turbo(measurement, problem.codec, prior, candidates, rounds=settings.turbo_rounds)
    return BlindStart(found.h, found.x, False)


@torch.no_grad()
def _moving_start(problem: Problem) -> BlindStart:
    """Find the taps of the middle data symbol, where motion makes noise of the others, and follow them."""
    measurement, power = problem.measurement, problem.channel.prior.power
    motion = measurement.motion
    assert motion is not None
    middle = motion[:, motion.shape[1] // 2]
    alike = (motion @ middle[..., None])[..., 0] / middle.square().sum(dim=-1, keepdim=True)
    noise = measurement.noise_ratio + (1 - alike.square())[..., None] / measurement.noise_var[:, None, None]
    about = replace(measurement, noise_ratio=noise)
    nuisance = replace(problem.nuisance, measurement=replace(about, motion=None))
    channel = replace(problem.channel, prior=ChannelPrior(power[: len(power) // motion.shape[-1]]))
    begun = blind_start(replace(problem, nuisance=nuisance, channel=channel))
    # The mean of the coefficients given the taps of the middle symbol.
    h = (middle / middle.square().sum(dim=-1, keepdim=True))[..., None] * begun.h[:, None, :]
    found = follow_decoded(Followed(about, problem.channel.prior, h.flatten(1), measurement), problem.codec)
    return BlindStart(found.h, decoded(problem, found.h), False)
