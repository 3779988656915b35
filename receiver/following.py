"""Follow taps that move within frames: by all known symbols, then by the symbols that were decoded.

The forward model gets the functions of time in which a frame's taps move (`receiver.channel.motion`), and the channel
estimate their coefficients. What the estimate may be off by in a cell counts as that cell's noise, so that symbols
far from any pilot count for less. Decoding what is known that way, and encoding it again, gives symbols that stand as
further pilots (decision directed); the share of them that is wrong counts as their noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from receiver.channel.conditional import ConditionalChannel, conditional_channel, tap_steering
from receiver.channel.decoding import for_decoder
from receiver.channel.motion import Motion, measure_motion
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Codec
from receiver.measurement.antennas import combined
from receiver.measurement.model import LOST_RATIO, Measurement
from receiver.sync.frame import SyncedFrame

#: Most rounds of decoding and following, and the change of taps, in units of the noise, that ends them.
ROUNDS, _SETTLED = 12, 0.01


@dataclass(frozen=True, eq=False)
class Followed:
    """Frames whose taps move.

    Attributes:
        measurement: with the motion in its forward model, and the estimate's error in its noise.
        prior: of the coefficients, with what known symbols say of them.
        h: (F, r L) their estimate.
        plain: the measurement with the noise alone.
    """

    measurement: Measurement
    prior: ChannelPrior
    h: Tensor
    plain: Measurement


def follow(frames: Sequence[SyncedFrame], measurement: Measurement, prior: ChannelPrior) -> Followed | None:
    """Return the frames of a measurement as their known symbols show them to move; None where they stand still.

    Args:
        frames: those of the measurement.
        measurement: as if taps stood still, of F rows: the frames at every antenna, whose taps move alike or not.
        prior: of taps; of antennas that differ their mean is taken.
    """
    power = np.atleast_2d(prior.power.cpu().double().numpy()).mean(axis=0)
    power = np.pad(power, (0, max(0, measurement.layout.cp_samples + 1 - power.size)), constant_values=power.min())
    rows = [antenna for frame in frames for antenna in frame.antennas]
    found = [measure_motion(row, measurement.layout, power) for row in rows]
    if not any(motion.moves for motion, row in zip(found, rows, strict=True) if not row.lost):
        return None
    measurement, prior = _moving(measurement, found, rows, torch.from_numpy(power))
    nothing = torch.zeros_like(measurement.scramble)
    return _estimated(measurement, prior, conditional_channel(measurement, nothing, prior))


def _moving(
    measurement: Measurement, found: Sequence[Motion], frames: Sequence[SyncedFrame], power: Tensor
) -> tuple[Measurement, ChannelPrior]:
    """Return the measurement with its motion and its noise about moving taps, and the coefficients' prior."""
    device, rank = measurement.y.device, max(motion.basis.shape[1] for motion in found)
    size, lost = rank * len(power), torch.tensor([frame.lost for frame in frames], device=device)
    basis = torch.zeros(len(found), measurement.layout.data_symbols, rank)
    gram, cross = torch.zeros(len(found), size, size, dtype=torch.complex64), torch.zeros(len(found), size) + 0j
    for row, motion in enumerate(found):
        used = motion.cross.size
        basis[row, :, : motion.basis.shape[1]] = torch.from_numpy(motion.basis)
        gram[row, :used, :used], cross[row, :used] = torch.from_numpy(motion.gram), torch.from_numpy(motion.cross)
    y = torch.from_numpy(np.stack([motion.data for motion in found])).to(measurement.y)
    noise_var = torch.tensor([motion.noise_var for motion in found]).to(measurement.noise_var)
    ratio = torch.where(lost[:, None, None], measurement.noise_ratio, torch.ones_like(measurement.noise_ratio))
    moving = replace(measurement, y=y, noise_var=noise_var, noise_ratio=ratio, motion=basis.to(device))
    power = power.to(noise_var).repeat(rank)
    return moving, ChannelPrior(power, gram.to(device), cross.to(device))


def _estimated(plain: Measurement, prior: ChannelPrior, found: ConditionalChannel) -> Followed:
    """Return the frames with an estimate of their coefficients, whose error is added to the noise.

    Args:
        plain: with the noise alone.
        prior: of the coefficients.
        found: their posterior.
    """
    cells = plain.noise_var[:, None, None] * plain.noise_ratio + _response_var(plain, found.covariance)
    active = torch.from_numpy(np.array(plain.layout.active_bins)).to(cells.device)
    level = 1 / (1 / cells[:, :, active]).mean(dim=(1, 2))
    ratio = (cells / level[:, None, None]).clamp(max=LOST_RATIO)
    return Followed(replace(plain, noise_var=level, noise_ratio=ratio), prior, found.mean, plain)


def _response_var(measurement: Measurement, covariance: Tensor) -> Tensor:
    """Return the variance (F, S, N) of the response on every cell, by the covariance (F, r L, r L) of coefficients."""
    motion, size = measurement.motion, measurement.layout.fft_size
    assert motion is not None
    rank = motion.shape[-1]
    blocks = covariance.unflatten(2, (rank, -1)).unflatten(1, (rank, -1))
    motion = motion.to(blocks.dtype)
    taps = torch.einsum("fsi,filjm,fsj->fslm", motion, blocks, motion)
    steering = tap_steering(torch.arange(size, device=taps.device), taps.shape[-1], size)
    return torch.einsum("nl,fslm,nm->fsn", steering, taps, steering.conj()).real.clamp(min=0)


@torch.no_grad()
def follow_decoded(followed: Followed, codec: Codec, rounds: int = ROUNDS) -> Followed:
    """Return frames that are followed by the symbols that are decoded, too.

    Args:
        followed: as known symbols show them.
        codec: of the images.
        rounds: of decoding, at most.
    """
    for _ in range(rounds):
        measurement, before = followed.measurement, followed
        x = codec.decode(*for_decoder(codec, *combined(measurement, followed.h))).clamp(0, 1)
        found = _given_decoded(followed, codec.encode(x, measurement.csnr_db))
        followed = _estimated(followed.plain, followed.prior, found)
        change = measurement.symbol_taps(followed.h - before.h).abs().square().sum(dim=-1).mean(dim=-1)
        if bool((change < _SETTLED * measurement.noise_var).all()):
            break
    return followed


def _given_decoded(followed: Followed, z: Tensor) -> ConditionalChannel:
    """Return the coefficients' posterior given decoded symbols (B, K), as far as these explain what was received."""
    plain, cells = followed.plain, followed.plain.cells_at_antennas
    row = cells // (plain.layout.data_symbols * plain.layout.fft_size)
    frame, count = row // plain.antennas, plain.num_frames // plain.antennas
    noise_var = plain.noise_var[row]

    def per_frame(values: Tensor) -> Tensor:
        """Sum over all symbols at all antennas, less noisy ones counting more."""
        return values.new_zeros(count).index_add(0, frame.flatten(), (values / noise_var).flatten())

    def at_cells(grid: Tensor) -> Tensor:
        return grid.expand(plain.y.shape).reshape(-1)[cells]

    power = at_cells(plain.response(plain.symbol_taps(followed.h)).abs().square())
    error = at_cells((plain.y - plain.forward(z, followed.h)).abs().square())
    excess = error - followed.measurement.noise_var[row] * at_cells(followed.measurement.noise_ratio)
    wrong = (per_frame(excess) / per_frame(power).clamp(min=1e-6)).clamp(0, 1)
    # Of symbols of unit power that are off by a variance, so much is right, and the rest is independent of it.
    right = 1 - wrong / 2
    doubt = (1 - right.square())[frame] * power / noise_var
    ratio = plain.noise_ratio.reshape(-1).index_put((cells,), at_cells(plain.noise_ratio) + doubt)
    return conditional_channel(
        replace(plain, noise_ratio=ratio.view(plain.y.shape)), z * right[frame[0]], followed.prior
    )
