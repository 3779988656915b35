"""Alternate between decoding the images and estimating the channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.decoding import for_decoder
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Codec
from receiver.measurement.antennas import combined
from receiver.measurement.model import Measurement
from receiver.samplers.blind.evidence import linked_frames

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
    *,
    rounds: int = 10,
    initial_noise: float = 4.0,
) -> TurboResult:
    """Alternate x <- D(W_h^-1 y) and h <- E[h | y, E(x)] from several starts; the evidence picks one per frame.

    Starts are halved by evidence as the rounds go on, frames that share an image together.

    The noise variance is annealed from ``initial_noise`` times the measured one down to it, so that early rounds
    do not trust an image that is still wrong.

    Args:
        candidates: (F, M, L) starts; antennas have rows of their own, and one decoding for all.
    """
    frames, starts, _ = candidates.shape
    group = linked_frames(measurement)
    h = candidates.transpose(0, 1)
    x = torch.empty(0)
    log_evidence = torch.empty(0)
    for index in range(rounds):
        wide = measurement.repeat(starts)
        noise_var = wide.noise_var * initial_noise ** (1 - (index + 1) / rounds)
        heard, taps = combined(replace(wide, noise_var=noise_var), h.flatten(0, 1))
        size = measurement.num_symbols
        x = _in_parts(codec.decode, *for_decoder(codec, heard, taps), size).clamp(0, 1)
        z = _in_parts(codec.encode, x, wide.csnr_db, size)
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
