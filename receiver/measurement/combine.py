"""Combine several receptions of the same symbols, each over a known channel of its own.

A reception of symbol z is y = g z + n, n ~ CN(0, noise). All that the receptions tell of z is in

    sum conj(g) y / noise = weight z_hat,     weight = sum |g|^2 / noise

(maximum-ratio combining): z_hat = z + CN(0, 1 / weight). So what was received in all is a measurement of z over a flat
channel of gain 1, in which every cell has noise of its own, and whatever decodes a measurement decodes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.measurement.collect import MODEL_ERROR_VAR
from receiver.measurement.model import LOST_RATIO, Measurement
from receiver.sync.frame import SyncedFrame
from sdr.framing import image_spans
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.repeat_request import RepeatRequest, answered_symbols, is_answer


@dataclass(frozen=True, eq=False)
class Payloads:
    """What F frames tell of the symbols in their payloads.

    Attributes:
        matched: (F, capacity) complex, conj(g) y / noise.
        weight: (F, capacity) |g|^2 / noise.
        taps: (F, L) complex, of the channels.
    """

    matched: Tensor
    weight: Tensor
    taps: Tensor

    @classmethod
    def of(cls, measurement: Measurement, h: Tensor) -> Payloads:
        """Return what frames tell whose channels are known.

        A limiter or an amplifier counts as Bussgang has it: a gain, and distortion like noise.

        Args:
            measurement: of whole payloads, see `receiver.measurement.collect.measure_payloads`.
            h: (F, L) taps.
        """
        gain = measurement.gains(h)
        kept, distortion = measurement.distortion
        noise = measurement.cell_noise_var + gain.abs().square() * distortion
        gain = gain * kept
        return cls(gain.conj() * measurement.received_cells() / noise, gain.abs().square() / noise, h)


@dataclass(frozen=True, eq=False)
class Received:
    """All that was received of one image.

    Attributes:
        frame: first frame that told of it.
        taps: (L,) complex, of that frame's channel.
        matched: (K,) complex, of all receptions of each symbol, see `Payloads`.
        weight: (K,) likewise; 0 where nothing was received.
        receptions: how often its symbols were received, on average.
    """

    frame: SyncedFrame
    taps: Tensor
    matched: Tensor
    weight: Tensor
    receptions: float

    @property
    def header(self) -> FrameHeader:
        """Header of its first frame."""
        assert self.frame.header is not None
        return self.frame.header

    @property
    def kind(self) -> tuple[object, ...]:
        """What images have in common that are decoded together."""
        header = self.header
        return header.codec_digest, header.image_shape, header.symbols_per_image, header.csnr_db


def add_receptions(
    frames: Sequence[SyncedFrame], payloads: Payloads, requests: Mapping[str, RepeatRequest]
) -> dict[str, Received]:
    """Return by image id all that frames tell.

    Args:
        frames: F of them with headers, each frame sent at most once; answers behind what they repeat.
        payloads: theirs.
        requests: by their digests; answers to others are left out.
    """
    found: dict[str, Received] = {}
    for index, frame in enumerate(frames):
        assert frame.header is not None
        for image_id, symbols, place in _contents(frame.header, requests):
            count = frame.header.symbols_per_image
            if image_id not in found:
                if is_answer(frame.header):
                    continue
                zero = payloads.matched.new_zeros(count)
                found[image_id] = Received(frame, payloads.taps[index], zero, zero.real.clone(), 0.0)
            known = found[image_id]
            if symbols[-1] >= known.weight.numel():
                continue
            part, where = slice(place, place + symbols.size), torch.from_numpy(symbols).to(payloads.weight.device)
            known.matched[where] += payloads.matched[index, part]
            known.weight[where] += payloads.weight[index, part]
            share = symbols.size / known.weight.numel()
            found[image_id] = Received(known.frame, known.taps, known.matched, known.weight, known.receptions + share)
    return found


def _contents(header: FrameHeader, requests: Mapping[str, RepeatRequest]) -> list[tuple[str, NDArray[np.int64], int]]:
    """Return images in a frame, indices of their symbols, and the place of the first one in the payload."""
    if not is_answer(header):
        return [
            (span.image_id, np.arange(span.symbol_start, span.symbol_start + span.num_symbols), span.payload_start)
            for span in image_spans(header)
        ]
    request = requests.get(header.codec_digest)
    if request is None or request.num_symbols != header.symbols_per_image:
        return []
    return answered_symbols(request, header)


@dataclass(frozen=True, eq=False)
class CombinedImages:
    """Images as they are decoded from all that was received.

    Attributes:
        measurement: of B images over flat channels, F' frames of which each holds symbols of one image.
        frames: F' received ones beside those of `measurement`: the first that told of the image.
        taps: (F', 1) complex, the channels of `measurement`.
    """

    measurement: Measurement
    frames: tuple[SyncedFrame, ...]
    taps: Tensor


def combined_images(images: Mapping[str, Received], layout: FrameLayout) -> CombinedImages:
    """Return the measurement of all that was received of B images of one kind.

    Args:
        images: by their ids.
        layout: of their frames.
    """
    header = next(iter(images.values())).header
    count, capacity = header.symbols_per_image, layout.capacity
    per_image, block = -(-count // capacity), layout.data_symbols * layout.fft_size
    padding = per_image * capacity - count

    def by_frame(parts: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.pad(torch.stack(list(parts)), (0, padding)).view(-1, capacity)

    weight = by_frame([image.weight for image in images.values()])
    noise_var = _level(weight, per_image)[:, None]
    arrived = weight > 1 / (LOST_RATIO * noise_var)
    noise = (1 / torch.where(arrived, weight, 1)).clamp(min=MODEL_ERROR_VAR)
    z_hat = by_frame([image.matched for image in images.values()])
    z_hat = torch.where(arrived, z_hat / torch.where(arrived, weight, 1), 0)
    frames = len(z_hat)
    cells = torch.from_numpy(np.array(layout.cell_index, dtype=np.int64)).to(z_hat.device)
    scramble = torch.from_numpy(np.array(layout.cell_scramble)).to(z_hat)
    grid, ratio = z_hat.new_zeros(frames, block), weight.new_ones(frames, block)
    grid[:, cells] = z_hat * scramble
    ratio[:, cells] = torch.where(arrived, noise / noise_var, LOST_RATIO)
    shape = (frames, layout.data_symbols, layout.fft_size)
    of_images = torch.arange(frames, device=z_hat.device)[:, None] * block + cells
    measurement = Measurement(
        y=grid.view(shape),
        noise_var=noise_var[:, 0],
        cells=of_images.view(len(images), -1)[:, :count],
        scramble=scramble.repeat(len(images), per_image)[:, :count],
        layout=layout,
        previous_symbol=z_hat.new_zeros(frames, layout.fft_size),
        tracking_grid=z_hat.new_zeros(shape),
        image_ids=tuple(images),
        csnr_db=weight.new_full((len(images),), header.csnr_db),
        image_shape=header.image_shape,
        codec_digest=header.codec_digest,
        pilots=z_hat.new_zeros(frames, layout.pilot_symbols, layout.fft_size),
        scale=weight.new_ones(frames),
        noise_ratio=ratio.view(shape),
    )
    first = tuple(image.frame for image in images.values() for _ in range(per_image))
    return CombinedImages(measurement, first, z_hat.new_ones(frames, 1))


def _level(weight: Tensor, per_image: int) -> Tensor:
    """Return the noise variance (F',) of frames by their cells' weights (F', capacity): the harmonic mean.

    So a frame whose channel has unit power has its own noise variance. Where nothing arrived it is that of the image.
    """
    arrived = weight > 0
    own = weight.sum(dim=1) / arrived.sum(dim=1).clamp(min=1)
    image = weight.view(-1, per_image * weight.shape[1])
    of_image = image.sum(dim=1) / (image > 0).sum(dim=1).clamp(min=1)
    mean = torch.where(own > 0, own, of_image.repeat_interleave(per_image))
    return (1 / mean).clamp(min=MODEL_ERROR_VAR)
