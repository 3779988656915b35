"""Measure what a second receiving antenna gains, against a receiver that knows the channels.

    python -m lab.benchmarks.antennas --out benchmarks/antennas/fashion.json
    python -m lab.benchmarks.antennas --methods guided blind-jscc --images 128
    python -m lab.benchmarks.antennas --radio pluto --images 64 --out benchmarks/antennas/pluto.json

Every image has a frame of its own, every frame and antenna 8 taps of its own. An image is out where it is not decoded,
or with a PSNR below 17 dB. The bound is the same method on the same noise and images with timing, carrier, noise and
all channels known, the antennas combined by maximum ratio. Some images are below 17 dB without any fading: how many the
plain decoder leaves there in white noise alone, at the CSNR of one antenna, is `out_white_noise`.

`--radio pluto` records an emulated Pluto with two receivers, through the driver of real ones: its channels are not
known, and both numbers of antennas see the same samples.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.benchmarks.uneven_noise import held_out
from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import wilson_interval
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.bundles.side_models import load_confidence
from receiver.channel.prior import channel_prior
from receiver.decode import decode_recording
from receiver.measurement.collect import measure_frames
from receiver.measurement.noise import CellNoise
from receiver.samplers import Channel, Models, sample
from receiver.samplers.antennas import KNOWING, as_one_antenna
from receiver.samplers.variants import method_variant
from receiver.sync.frame import SyncedFrame
from sdr.air.chain import Impairments
from sdr.air.impairments import noise_var_for_csnr
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
from sdr.files import write_json
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, load_layout
from sdr.modem import demodulate
from sdr.radios.open import open_radio
from sdr.radios.pluto import TX_SCALE
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings
from sdr.symbols import Symbols
from transmitter.encode import Transmission

OUTAGE_PSNR_DB = 17.0
_CFO_HZ = 300.0
#: Frames of one recording: images are sent and decoded in parts of so many.
_PART = 128


@dataclass(frozen=True)
class AntennaRow:
    """Images of one method at a number of antennas.

    Attributes:
        method: that decoded.
        antennas: that received.
        n: images, each with its own channels.
        decoded: images whose header was read.
        out: images below `OUTAGE_PSNR_DB`, or not decoded.
        out_low: 2.5 % point of their share (Wilson).
        out_high: 97.5 % point.
        out_known: images below it where all channels are known; None: they are not.
        psnr_db: mean of decoded images.
        behind_known_db: mean of what they miss of the bound, image by image; None likewise.
        behind_known_error_db: its standard error; None likewise.
    """

    method: str
    antennas: int
    n: int
    decoded: int
    out: int
    out_low: float
    out_high: float
    out_known: int | None
    psnr_db: float
    behind_known_db: float | None
    behind_known_error_db: float | None


@dataclass(frozen=True)
class Heard:
    """Frames at several antennas, and the truth about them.

    Attributes:
        recording: of all antennas.
        taps: (A, F, L) complex128, of each antenna in each frame, the carrier's phase at its start taken in.
        starts: (F,) first sample of each frame.
        noise_var: per sample.
    """

    recording: Recording
    taps: NDArray[np.complex128]
    starts: NDArray[np.int64]
    noise_var: float


def hear(sent: Transmission, csnr_db: float, antennas: int, seed: int) -> Heard:
    """Return frames over fading that is independent from frame to frame and antenna to antenna."""
    layout = sent.layout
    step, noise_var = layout.frame_samples, noise_var_for_csnr(layout, csnr_db)
    chain = Impairments(taps=8, block_samples=step, cfo_hz=_CFO_HZ, noise_var=noise_var)
    samples = np.concatenate([sent.samples(step), np.zeros(step, np.complex64)])
    heard = [chain.apply(samples, layout.rate_sps, np.random.default_rng([seed, each])) for each in range(antennas)]
    starts = step * (1 + np.arange(len(sent.frames)))
    turns = np.exp(2j * np.pi * _CFO_HZ / layout.rate_sps * starts)
    # Taps are drawn once every frame; the first ones are those of the silence before.
    taps = [each.fading.taps[1 : 1 + starts.size] * turns[:, None] for each in heard if each.fading is not None]
    first, *others = (each.samples for each in heard)
    recording = Recording(first, RadioSettings(rate_sps=layout.rate_sps), others=tuple(others))
    return Heard(recording, np.stack(taps), starts, noise_var)


def hear_by_pluto(sent: Transmission, csnr_db: float, seed: int) -> Recording:
    """Return the frames as an emulated Pluto with two receivers, which hears itself, records them."""
    layout, samples = sent.layout, sent.samples(0)
    # Full scale of the driver is half of the converter's.
    noise_var = noise_var_for_csnr(layout, csnr_db) * (TX_SCALE / TX_FULL_SCALE) ** 2
    air = Air(AirPath(taps=8, redraw_samples=layout.frame_samples), noise_var, seed)
    settings = RadioSettings(rate_sps=layout.rate_sps, tx_gain_db=0.0, rx_gain_db=6.0)
    with EmulatedPluto(air, rx=2, ppm=1.0) as device, open_radio(f"pluto:{device.uri},rx=2", settings, layout) as radio:
        radio.transmit(samples, cyclic=True)
        # As long as a period and a frame, so that every frame is in it once from end to end.
        return radio.receive(samples.size + layout.frame_samples)


def known_frames(heard: Heard, contents: Sequence[FrameContent], layout: FrameLayout) -> list[SyncedFrame]:
    """Return the frames as a receiver would have them that knows timing, carrier and levels."""
    bins, first = layout.active_bins, layout.first_pilot_symbol
    frames = []
    for index, (content, start) in enumerate(zip(contents, heard.starts.tolist(), strict=True)):
        antennas = []
        for samples, taps in zip(heard.recording.antennas, heard.taps[:, index] * layout.amplitude, strict=True):
            grid = demodulate(samples, start, layout, layout.num_symbols, 0, _CFO_HZ)
            response = np.fft.fft(taps, n=layout.fft_size)[bins]
            antennas.append(
                SyncedFrame(
                    grid=grid[first:], header=content.header, start=start, advance=0, cfo_hz=_CFO_HZ, cfo_std_hz=0.0,
                    metric=1.0, noise_var=heard.noise_var, noise_var_std=0.0,
                    signal_power=float(np.mean(np.abs(response) ** 2)), preamble_grid=grid[:2],
                    header_grid=grid[2:first], known_taps=taps.astype(np.complex64),
                )
            )  # fmt: skip
        frames.append(replace(antennas[0], others=tuple(antennas[1:])))
    return frames


def decode_known(
    heard: Heard, contents: Sequence[FrameContent], bundle: Bundle, layout: FrameLayout, method: str, seed: int
) -> Tensor:
    """Return the images (n, C, H, W) that a method decodes where all channels are known."""
    frames = known_frames(heard, contents, layout)
    measurement = measure_frames(frames, layout, noise=lambda frame, layout: CellNoise.even(frame.noise_var, layout))
    rows = np.moveaxis(heard.taps * layout.amplitude, 0, 1).reshape(-1, heard.taps.shape[-1])
    h = torch.from_numpy(rows).to(torch.complex64) / measurement.scale[:, None]
    models = Models(bundle.codec, bundle.denoiser, error_net=load_confidence(bundle.path, bundle.codec, "cpu"))
    known, generator = method_variant(KNOWING.get(method, method)), torch.Generator().manual_seed(seed)
    channel = Channel(channel_prior(layout), h)
    name, measurement, channel = as_one_antenna(
        known.method, measurement, channel, models, known.settings, generator
    )  # fmt: skip
    return sample(name, measurement, channel, models, generator, settings=known.settings).x


def measure(
    bundle: Bundle,
    originals: Mapping[str, Tensor],
    layout: FrameLayout,
    methods: Sequence[str],
    *,
    antennas: Sequence[int] = (1, 2),
    csnr_db: float = 5.0,
    seed: int = 0,
    radio: str = "sim",
) -> list[AntennaRow]:
    """Decode images with every method at every number of antennas; the first antennas are always the same.

    Args:
        bundle: models.
        originals: images (C, H, W) of one size by id.
        layout: of the frames.
        methods: names.
        antennas: numbers of them.
        csnr_db: mean CSNR of an antenna.
        seed: of everything random.
        radio: "sim", or "pluto" for an emulated one, with one antenna or two.
    """
    ids = list(originals)
    parts = [ids[first : first + _PART] for first in range(0, len(ids), _PART)]
    found = {(method, count): ([], []) for method in methods for count in antennas}
    for index, part in enumerate(parts):
        images = torch.stack([originals[each] for each in part])
        with torch.no_grad():
            z = bundle.codec.encode(images, torch.full((len(part),), csnr_db)).numpy()
        symbols = [
            Symbols(z[place : place + 1], bundle.codec.digest, (name,), bundle.codec.image_shape, csnr_db)
            for place, name in enumerate(part)
        ]
        sent = Transmission.of(symbols, layout)
        part_seed = seed * 10_000 + index
        both = hear_by_pluto(sent, csnr_db, part_seed) if radio == "pluto" else None
        for method, count in found:
            if both is not None:
                recording = replace(both, others=both.others[: count - 1])
            else:
                heard = hear(sent, csnr_db, count, part_seed)
                recording = heard.recording
                known = psnr_db(decode_known(heard, sent.frames, bundle, layout, method, seed), images)
                found[method, count][1].append(known)
            decoded = decode_recording(recording, layout, bundle, [method])
            answers = {image.id: torch.from_numpy(image.image) for image in decoded.images}
            reached = [
                float(psnr_db(answers[name][None], originals[name][None])) if name in answers else math.nan
                for name in part
            ]
            found[method, count][0].append(torch.tensor(reached))
        print(f"{index + 1} of {len(parts)} parts", flush=True)
    rows = []
    for (method, count), (reached, known) in found.items():
        known_db = torch.cat(known) if known else None
        rows.append(_row(method, count, torch.cat(reached), known_db))
        print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


@torch.no_grad()
def out_in_white_noise(bundle: Bundle, images: Tensor, csnr_db: float, seed: int) -> int:
    """Return how many images (n, C, H, W) the plain decoder leaves below `OUTAGE_PSNR_DB` in white noise alone."""
    generator, out = torch.Generator().manual_seed(seed), 0
    for part in images.split(_PART):
        told = torch.full((len(part),), csnr_db)
        z = bundle.codec.encode(part, told)
        noise = torch.randn(z.shape, dtype=z.dtype, generator=generator) * 10 ** (-csnr_db / 20)
        out += int((psnr_db(bundle.codec.decode(z + noise, told).clamp(0, 1), part) < OUTAGE_PSNR_DB).sum())
    return out


def _row(method: str, antennas: int, reached: Tensor, known: Tensor | None) -> AntennaRow:
    """Sum up PSNRs (n,), NaN where nothing was decoded, and those of known channels if there are any."""
    decoded = ~reached.isnan()
    out = int((~(reached >= OUTAGE_PSNR_DB)).sum())
    low, high = wilson_interval(out, reached.numel())
    counts = method, antennas, reached.numel(), int(decoded.sum()), out, low, high
    mean = float(reached[decoded].mean())
    if known is None:
        return AntennaRow(*counts, None, mean, None, None)
    behind = (known - reached)[decoded]
    error = float(behind.std()) / math.sqrt(behind.numel())
    return AntennaRow(*counts, int((known < OUTAGE_PSNR_DB).sum()), mean, float(behind.mean()), error)


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="fashion")
    parser.add_argument("--layout", default="paper")
    parser.add_argument("--radio", default="sim", choices=["sim", "pluto"])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--methods", nargs="+", default=["jscc"])
    parser.add_argument("--antennas", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--csnr-db", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/antennas.json"))
    given = parser.parse_args()
    bundle, layout = load_bundle(given.bundle), load_layout(given.layout)
    originals = held_out(bundle, given.images)
    rows = measure(
        bundle, originals, layout, given.methods, antennas=given.antennas, csnr_db=given.csnr_db, seed=given.seed,
        radio=given.radio,
    )  # fmt: skip
    answer = {"bundle": bundle.name, "layout": layout.name, "csnr_db": given.csnr_db, "seed": given.seed}
    floor = out_in_white_noise(bundle, torch.stack(list(originals.values())), given.csnr_db, given.seed)
    answer |= {"radio": given.radio, "out_white_noise": floor}
    write_json(given.out, {**answer, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
