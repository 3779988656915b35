"""Measure what a second receiving antenna gains, against a receiver that knows the channels.

    python -m lab.benchmarks.antennas --out benchmarks/antennas/fashion.json
    python -m lab.benchmarks.antennas --methods guided blind-jscc --images 128
    python -m lab.benchmarks.antennas --radio pluto --images 64 --out benchmarks/antennas/pluto.json
    python -m lab.benchmarks.antennas --radio usrp --images 64 --out benchmarks/antennas/usrp.json

Every image has a frame of its own, every frame and antenna 8 taps of its own. An image is out where it is not decoded,
or with a PSNR below 17 dB. The bound is the same method on the same noise and images with timing, carrier, noise and
all channels known, the antennas combined by maximum ratio. Some images are below 17 dB without any fading: those that
the plain decoder leaves there in white noise alone, at the CSNR of one antenna, are not the fading's, and are left out
of `out_by_fading`.

`--radio pluto` records an emulated Pluto with two receivers, `--radio usrp` two emulated N210s of one clock, through
the drivers of real ones: their channels are not known, and both numbers of antennas see the same samples.
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
from lab.evaluation.statistics import mean_and_error, wilson_interval
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
from sdr.emulated.n210_board import TX_GAIN_MAX_DB
from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
from sdr.emulated.usrp import EmulatedUsrp, joint_args
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
        out_by_fading: those of `out` that white noise alone at the CSNR of one antenna leaves above it.
        fading_share_low: 2.5 % point of their share of the images that it leaves above (Wilson).
        fading_share_high: 97.5 % point.
        out_known: images below it where all channels are known; None: they are not.
        psnr_db: mean of decoded images.
        behind_known_db: mean of what they miss of the bound, image by image; None likewise.
        behind_known_error_db: its standard error; None likewise.
        gain_db: mean of what an image gains over the first number of antennas, where both decode it; None for that one.
        gain_error_db: its standard error; None likewise.
    """

    method: str
    antennas: int
    n: int
    decoded: int
    out: int
    out_low: float
    out_high: float
    out_by_fading: int
    fading_share_low: float
    fading_share_high: float
    out_known: int | None
    psnr_db: float
    behind_known_db: float | None
    behind_known_error_db: float | None
    gain_db: float | None
    gain_error_db: float | None


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
    # Full scale of the driver is half of the converter's.
    air = _fading_air(sent.layout, csnr_db, seed, TX_SCALE / TX_FULL_SCALE)
    with EmulatedPluto(air, rx=2, ppm=1.0) as device:
        return _hear_itself(f"pluto:{device.uri},rx=2,tx_gain_db=0,rx_gain_db=6", sent)


def hear_by_usrps(sent: Transmission, csnr_db: float, seed: int) -> Recording:
    """Return the frames as two emulated N210s of one clock, of which the first sends them, record them."""
    air = _fading_air(sent.layout, csnr_db, seed, 1.0)
    with EmulatedUsrp(air, "127.0.47.1") as first, EmulatedUsrp(air, "127.0.47.2") as second:
        clock = "clock_source=external,time_source=external"
        return _hear_itself(f"uhd:{joint_args([first, second])},{clock},rx=2,tx_gain_db={TX_GAIN_MAX_DB}", sent)


DRIVEN = {"pluto": hear_by_pluto, "usrp": hear_by_usrps}
"""Emulated radios with two antennas."""


def _fading_air(layout: FrameLayout, csnr_db: float, seed: int, full_scale: float) -> Air:
    """Return an air of 8 taps that are new for every frame; its CSNR is that of full scale sent."""
    noise_var = noise_var_for_csnr(layout, csnr_db) * full_scale**2
    return Air(AirPath(taps=8, redraw_samples=layout.frame_samples), noise_var, seed)


def _hear_itself(uri: str, sent: Transmission) -> Recording:
    layout, samples = sent.layout, sent.samples(0)
    with open_radio(uri, layout=layout) as radio:
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
        radio: "sim", or one of `DRIVEN`, with one antenna or two.
    """
    ids = list(originals)
    parts = [ids[first : first + _PART] for first in range(0, len(ids), _PART)]
    found = {(method, count): ([], []) for method in methods for count in antennas}
    without_fading = psnr_in_white_noise(bundle, torch.stack(list(originals.values())), csnr_db, seed)
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
        both = DRIVEN[radio](sent, csnr_db, part_seed) if radio in DRIVEN else None
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
        before = torch.cat(found[method, antennas[0]][0]) if count != antennas[0] else None
        rows.append(_row(method, count, torch.cat(reached), known_db, before, without_fading))
        print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


@torch.no_grad()
def psnr_in_white_noise(bundle: Bundle, images: Tensor, csnr_db: float, seed: int) -> Tensor:
    """Return the PSNR (n,) of images (n, C, H, W) that the plain decoder reaches in white noise alone."""
    generator, reached = torch.Generator().manual_seed(seed), []
    for part in images.split(_PART):
        told = torch.full((len(part),), csnr_db)
        z = bundle.codec.encode(part, told)
        noise = torch.randn(z.shape, dtype=z.dtype, generator=generator) * 10 ** (-csnr_db / 20)
        reached.append(psnr_db(bundle.codec.decode(z + noise, told).clamp(0, 1), part))
    return torch.cat(reached)


def _row(
    method: str, antennas: int, reached: Tensor, known: Tensor | None, before: Tensor | None, without_fading: Tensor
) -> AntennaRow:
    """Sum up PSNRs (n,), NaN where nothing was decoded.

    They are held against known channels and fewer antennas, if there are any, and white noise alone.
    """
    decoded = ~reached.isnan()
    out, there = ~(reached >= OUTAGE_PSNR_DB), without_fading >= OUTAGE_PSNR_DB
    failed, faded = int(out.sum()), int((out & there).sum())
    counts = (
        method, antennas, reached.numel(), int(decoded.sum()), failed, *wilson_interval(failed, reached.numel()),
        faded, *wilson_interval(faded, int(there.sum())),
    )  # fmt: skip
    out_known = None if known is None else int((known < OUTAGE_PSNR_DB).sum())
    behind = (None, None) if known is None else _mean_difference(known - reached)
    gain = (None, None) if before is None else _mean_difference(reached - before)
    return AntennaRow(*counts, out_known, float(reached[decoded].mean()), *behind, *gain)


def _mean_difference(differences: Tensor) -> tuple[float, float]:
    """Return the mean of those that are numbers, and its standard error."""
    return mean_and_error(differences[~differences.isnan()])


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="fashion")
    parser.add_argument("--layout", default="paper")
    parser.add_argument("--radio", default="sim", choices=["sim", *DRIVEN])
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
    answer["radio"] = given.radio
    write_json(given.out, {**answer, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
