"""The channel as an unknown: closed-form conditional and evidence, initialisation, turbo rounds.

Given the images, the received cells are linear and Gaussian in the taps, y = A h + n with A = diag(s) F (s the sent
cells, F the taps' Fourier matrix on their carriers), h ~ CN(0, diag(power)), n ~ CN(0, noise_var). So p(h | x, y) and
the evidence p(y | x) with h marginalised need one L x L solve per frame. Nothing here uses a pilot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.channel.conditional import solve, tap_steering
from receiver.channel.prior import ChannelPrior
from receiver.measurement.model import Measurement


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
    evidences, means = [], []
    power = prior.at(measurement.frame_of_image)[..., None, :].to(received.real)
    # What an amplifier adds to a cell depends on all images of its symbol, so it counts as noise here.
    kept, distortion = measurement.distortion
    noise_var = noise_var + distortion
    excess = measurement.cell_noise_var - measurement.noise_var[measurement.frame_of_cell]
    weight = 1 / (1 + excess / noise_var[:, None])
    energy = (weight * received.abs().square()).sum(-1)
    outer = weight[..., None] * (steering.conj()[..., :, None] * steering[..., None, :]).flatten(2)
    matched = steering.conj() * (weight * received)[..., None]
    for part in (kept * codebook).split(chunk):
        gram = torch.einsum("nk,bkm->bnm", part.abs().square().to(outer.dtype), outer)
        gram = gram.unflatten(-1, (prior.num_taps,) * 2)
        cross = torch.einsum("nk,bkl->bnl", part.conj(), matched)
        found = solve(gram, cross, energy[:, None], part.new_tensor(part.shape[1]).real, noise_var[:, None], power)
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


def linked_frames(measurement: Measurement) -> Tensor:
    """(F,) for every frame the first frame that an image links it to; itself unless an image spans frames.

    The antennas of a frame hold the same images.
    """
    group = torch.arange(measurement.num_frames, device=measurement.cells.device)
    if measurement.spans_frames:
        for frames in measurement.frame_of_cell:
            members = frames.unique()
            group[members] = group[members].min()
    return group[:: measurement.antennas].repeat_interleave(measurement.antennas)


def alone(measurement: Measurement) -> Tensor:
    """(F,) whether no image links a frame to another one."""
    linked = linked_frames(measurement)
    return torch.bincount(linked, minlength=measurement.num_frames)[linked] == 1
