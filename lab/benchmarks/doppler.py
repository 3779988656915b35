"""Measure what decoding loses where taps move within a frame, against a receiver that knows them symbol by symbol.

    python -m lab.benchmarks.doppler --out benchmarks/doppler/fashion.json
    python -m lab.benchmarks.doppler --bundle photo --images 13 --out benchmarks/doppler/photo.json
    python -m lab.benchmarks.doppler --dopplers-hz 100 200 --pilot-every 3 --out benchmarks/doppler/fashion-pilots.json
    python -m lab.benchmarks.doppler --antennas 2 --csnr-db 5 --out benchmarks/doppler/fashion-antennas.json
    python -m lab.benchmarks.doppler --images 32 --methods blind-jscc --dopplers-hz 100 200 \\
        --out benchmarks/doppler/fashion-blind.json

Images go over 8 taps that move by Clarke's model, at every antenna on their own. The same frames are decoded with the
true taps of every symbol and the true noise ("knows"), with taps that are followed by known and decoded symbols
("followed") or by known ones alone ("known symbols"), and as if taps stood still ("still"). Frames whose header is not
read are counted apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.benchmarks.uneven_noise import held_out
from lab.evaluation.channel_truth import ChannelTruth, true_symbol_taps
from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import mean_and_error
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.channel.prior import channel_prior
from receiver.decode import BatchDecoder, MeasuredFrames
from receiver.following import follow
from receiver.measurement.antennas import combined
from receiver.measurement.collect import measure_frames
from receiver.measurement.model import Measurement
from receiver.samplers import Channel, Models, sample
from receiver.samplers.variants import Variant, method_variant, sized_settings
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.air.impairments import noise_var_for_csnr
from sdr.files import write_json
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio
from sdr.recordings.recording import Recording
from transmitter.encode import encode_images

_NUM_TAPS = 8
#: Distance of the seeds of two antennas.
_ANTENNA_SEEDS = 1000
#: Frames decoded together.
_BATCH_FRAMES = 4
#: Taps behind `SyncedFrame.start` that hold all true ones.
_TRUE_TAPS = 16


@dataclass(frozen=True)
class DopplerRow:
    """PSNR of one method at one Doppler shift.

    Attributes:
        doppler_hz: of the taps.
        method: that decoded.
        receiver: what it knew of the taps.
        read: share of the frames whose header was read.
        n: images of these.
        psnr_db: mean.
        delta_db: mean difference to the receiver that knows, image by image.
        delta_error_db: its standard error.
    """

    doppler_hz: float
    method: str
    receiver: str
    read: float
    n: int
    psnr_db: float
    delta_db: float
    delta_error_db: float


def moving_layout(bundle: str, pilot_every: int | None = None) -> FrameLayout:
    """Return the layout: `photo`, or for small images one of 16 in four data symbols; pilots are repeated if wanted."""
    layout = load_layout("photo")
    if not bundle.startswith("photo"):
        layout = replace(layout, name="sixteen", data_symbols=4, image_slots=16)
    if pilot_every is None:
        return layout
    pilots = layout.data_symbols // (pilot_every - 1)
    name = f"{layout.name}-{pilot_every}"
    return replace(layout, name=name, data_symbols=layout.data_symbols + pilots, pilot_every=pilot_every)


def transmit(
    bundle: Bundle,
    originals: Mapping[str, Tensor],
    layout: FrameLayout,
    doppler_hz: float,
    csnr_db: float,
    seed: int,
    antennas: int = 1,
) -> tuple[Recording, list[ChannelTruth]]:
    """Return images after they went over taps that move, and these of every antenna."""
    images = torch.stack(list(originals.values()))
    codec = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).codec
    frames = encode_images(list(originals), images, codec, layout, csnr_db).frames
    moving = f"doppler_hz={doppler_hz}" if doppler_hz else f"block_samples={layout.frame_samples}"
    heard, truths = [], []
    # Antennas of one radio, but each simulated on its own, as its taps are told of a single antenna only.
    for antenna in range(antennas):
        uri = f"sim:taps={_NUM_TAPS},csnr_db={csnr_db},seed={seed + _ANTENNA_SEEDS * antenna},{moving}"
        with open_radio(uri, layout=layout) as radio:
            assert isinstance(radio, SimulatedRadio)
            radio.transmit(modulate_stream(frames, layout))
            heard.append(radio.receive())
            truth = radio.channel_truth([layout.gap_samples + i * layout.frame_samples for i in range(len(frames))])
        assert truth is not None
        truths.append(ChannelTruth.from_mapping(truth))
    return replace(heard[0], others=tuple(each.samples for each in heard[1:])), truths


def measure(
    bundle: Bundle,
    originals: Mapping[str, Tensor],
    layout: FrameLayout,
    methods: Sequence[str],
    *,
    dopplers_hz: Sequence[float] = (0.0, 50.0, 100.0, 200.0),
    csnr_db: float = 10.0,
    seed: int = 0,
    antennas: int = 1,
) -> list[DopplerRow]:
    """Decode images at every Doppler shift with every method and receiver.

    Args:
        bundle: models.
        originals: images (C, H, W) of one size by id.
        layout: of the frames.
        methods: names.
        dopplers_hz: of the taps; 0: they are drawn anew for each frame and stand still.
        csnr_db: CSNR of each antenna.
        seed: of everything random.
        antennas: that receive.
    """
    rows: list[DopplerRow] = []
    for doppler_hz in dopplers_hz:
        recording, truths = transmit(bundle, originals, layout, doppler_hz, csnr_db, seed, antennas)
        frames = [frame for frame in find_frames(recording, layout) if frame.header is not None]
        read = len(frames) / len(truths[0].frame_starts)
        decoding = _Decoding(bundle, originals, layout, truths, csnr_db, seed)
        for method in methods:
            known_db = decoding.knowing(frames, method)
            reached = {"knows": known_db} | decoding.receiving(frames, method)
            for receiver, found_db in reached.items():
                count, mean_db = found_db.numel(), float(found_db.mean())
                rows.append(
                    DopplerRow(
                        doppler_hz, method, receiver, read, count, mean_db, *mean_and_error(found_db - known_db)
                    )
                )  # fmt: skip
                print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


@dataclass(frozen=True)
class _Decoding:
    """What frames are decoded with."""

    bundle: Bundle
    originals: Mapping[str, Tensor]
    layout: FrameLayout
    truths: Sequence[ChannelTruth]
    csnr_db: float
    seed: int

    def knowing(self, frames: Sequence[SyncedFrame], method: str) -> Tensor:
        """Return the PSNR (n,) in dB of every image with the true taps of every symbol and the true noise."""
        found = []
        for batch in self._batches(frames):
            rows = [(row, truth) for frame in batch for row, truth in zip(frame.antennas, self.truths, strict=True)]
            taps = np.stack([true_symbol_taps(row, truth, self.layout, _TRUE_TAPS) for row, truth in rows])
            power = np.array([row.signal_power for row, _ in rows])
            gain = np.array([truth.gain for _, truth in rows]) * self.layout.amplitude
            noise_var = noise_var_for_csnr(self.layout, self.csnr_db) / power
            h = taps * (gain / np.sqrt(power))[:, None, None]
            symbols = self.layout.data_symbols
            measurement = replace(
                measure_frames([_untracked(frame) for frame in batch], self.layout),
                noise_var=torch.from_numpy(noise_var).float(),
                noise_ratio=torch.ones(len(rows), symbols, self.layout.fft_size),
                motion=torch.eye(symbols).expand(len(rows), -1, -1),
            )
            found.append(self._sampled(measurement, torch.from_numpy(h.astype(np.complex64)).flatten(1), method))
        return torch.cat(found)

    def receiving(self, frames: Sequence[SyncedFrame], method: str) -> dict[str, Tensor]:
        """Return the PSNR (n,) in dB of every image by what the receiver does about the motion."""
        variant, decoder = method_variant(method), BatchDecoder(self.bundle)
        found: dict[str, list[Tensor]] = {"followed": [], "known symbols": [], "still": []}
        for batch in self._batches(frames):
            measured = decoder.measure(batch, self.layout)
            for receiver, followed in (("followed", True), ("still", False)):
                found[receiver].append(self._decoded(decoder, measured, replace(variant, follow=followed)))
            if variant.blind:
                continue
            known = follow(batch, measured.measurement, channel_prior(self.layout))
            if known is None:
                found["known symbols"].append(found["still"][-1])
            else:
                found["known symbols"].append(self._sampled(known.measurement, known.h, method))
        return {receiver: torch.cat(parts) for receiver, parts in found.items() if parts}

    @staticmethod
    def _batches(frames: Sequence[SyncedFrame]) -> list[Sequence[SyncedFrame]]:
        return [frames[first : first + _BATCH_FRAMES] for first in range(0, len(frames), _BATCH_FRAMES)]

    def _sampled(self, measurement: Measurement, h: Tensor, method: str) -> Tensor:
        """Return the PSNR (B,) of images decoded with coefficients or taps h that are known."""
        variant, models = method_variant(method.removeprefix("blind-")), self.bundle.for_shape(measurement.image_shape)
        measurement, h = combined(measurement, h)
        posterior = sample(
            variant.method,
            measurement,
            Channel(channel_prior(self.layout), h),
            Models(models.codec, models.denoiser),
            torch.Generator().manual_seed(self.seed),
            settings=sized_settings(variant.settings, measurement.image_shape),
        )
        return self._psnr_db(posterior.x, measurement.image_ids)

    def _decoded(self, decoder: BatchDecoder, measured: MeasuredFrames, variant: Variant) -> Tensor:
        images = decoder.decode(measured, variant, torch.Generator().manual_seed(self.seed))
        shown = torch.stack([torch.from_numpy(image.image) for image in images])
        return self._psnr_db(shown, [image.id for image in images])

    def _psnr_db(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        return psnr_db(images, torch.stack([self.originals[image_id] for image_id in ids]))


def _untracked(frame: SyncedFrame) -> SyncedFrame:
    """Return a frame as it came, at all antennas."""
    others = tuple(replace(other, grid=other.untracked_grid) for other in frame.others)
    return replace(frame, grid=frame.untracked_grid, others=others)


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="fashion")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--side", type=int, default=256, help="pixels per side of photographs")
    parser.add_argument("--methods", nargs="+", default=["jscc"])
    parser.add_argument("--dopplers-hz", nargs="+", type=float, default=[0.0, 50.0, 100.0, 200.0])
    parser.add_argument("--pilot-every", type=int, help="of so many data symbols one is a pilot; default: none is")
    parser.add_argument("--csnr-db", type=float, default=10.0, help="of each antenna")
    parser.add_argument("--antennas", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/doppler.json"))
    given = parser.parse_args()
    bundle, layout = load_bundle(given.bundle), moving_layout(given.bundle, given.pilot_every)
    originals = held_out(bundle, given.images, given.side)
    rows = measure(
        bundle, originals, layout, given.methods,
        dopplers_hz=given.dopplers_hz, csnr_db=given.csnr_db, seed=given.seed, antennas=given.antennas,
    )  # fmt: skip
    answer = {"bundle": bundle.name, "layout": layout.name, "csnr_db": given.csnr_db, "antennas": given.antennas}
    write_json(given.out, {**answer, "seed": given.seed, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
