"""Measure what decoding loses where noise is not white, against a receiver that knows the noise of every cell.

    python -m lab.benchmarks.uneven_noise --methods jscc --out benchmarks/uneven-noise/photo-jscc.json
    python -m lab.benchmarks.uneven_noise --bundle fashion --images 64 --kinds white jam \\
        --out benchmarks/uneven-noise/fashion.json
    python -m lab.benchmarks.uneven_noise --prefix --methods blind-jscc --images 13 \\
        --out benchmarks/uneven-noise/photo-prefix.json
    python -m lab.benchmarks.uneven_noise --side 128 --images 8 --methods hifi:steps=8 blind:steps=8 --kinds burst \\
        --out benchmarks/uneven-noise/photo-128-burst.json

Images go over 8-tap block fading at a CSNR in white noise, with ten carriers (two bands of five) 20 dB noisier, and
with a burst 20 dB above the noise over two data symbols of each frame. The same frames are decoded with the noise as it
was drawn ("knows"), as the receiver measures it ("measured"), and with one variance for each frame ("one variance").
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import mean_and_error
from lab.training.photographs import middle_squares
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.codecs.codec import Codec
from receiver.decode import BatchDecoder, MeasuredFrames
from receiver.images.fashion_mnist import load_fashion_mnist, sample_indices
from receiver.images.files import load_images
from receiver.measurement.collect import measure_frames
from receiver.measurement.noise import CellNoise, measure_noise
from receiver.samplers.variants import method_variant
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from receiver.sync.prefix import find_frames_by_prefix
from sdr.air.chain import Impairments
from sdr.air.impairments import noise_var_for_csnr
from sdr.files import write_json
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from transmitter.encode import encode_images

#: Jammed carriers' excess over the noise, and a burst's, as a power ratio: 20 dB in all.
_EXCESS = 99.0
_JAMMED, _BANDS = 10, (-61, 40)
#: Symbols that a burst strikes, and the first of them, where there are so many.
_STRUCK, _FIRST_STRUCK = 2, 5
#: Symbols of noise whose mean power is taken for the jammed carriers' true one: 2 % standard error.
_TRUTH_SYMBOLS = 2500
_LEAD_SAMPLES = 1000
#: Frames decoded together.
_BATCH_FRAMES = 4

NoiseOf = Callable[[SyncedFrame, FrameLayout], CellNoise]


@dataclass(frozen=True)
class UnevenRow:
    """PSNR of one method in one noise.

    Attributes:
        noise: kind of noise.
        method: that decoded.
        receiver: what it knew of the noise.
        n: images, each with its own noise and its frame's channel.
        psnr_db: mean.
        delta_db: mean difference to the receiver that knows, image by image.
        delta_error_db: its standard error.
        accepted: share of images that were accepted.
    """

    noise: str
    method: str
    receiver: str
    n: int
    psnr_db: float
    delta_db: float
    delta_error_db: float
    accepted: float


def noise_chain(kind: str, layout: FrameLayout, csnr_db: float) -> Impairments:
    """Return noise alone: "white", "jam" or "burst"."""
    noise_var, spacing_hz = noise_var_for_csnr(layout, csnr_db), layout.carrier_spacing_hz
    chain = Impairments(noise_var=noise_var)
    if kind == "jam":
        width = _JAMMED // len(_BANDS)
        return replace(
            chain,
            jam_power=noise_var * _EXCESS * _JAMMED / layout.fft_size,
            jam_hz=tuple(band * spacing_hz for band in _BANDS),
            jam_width_hz=width * spacing_hz,
        )
    if kind == "burst":
        first = layout.first_data_symbol + _first_struck(layout)
        return replace(
            chain,
            burst_power=noise_var * _EXCESS,
            burst_samples=_STRUCK * layout.symbol_samples,
            burst_every_samples=layout.frame_samples,
            burst_first_sample=_LEAD_SAMPLES + first * layout.symbol_samples,
        )
    return chain


def _first_struck(layout: FrameLayout) -> int:
    return min(_FIRST_STRUCK, max(layout.data_symbols - _STRUCK, 0))


def true_noise(kind: str, layout: FrameLayout, csnr_db: float) -> CellNoise:
    """Return the noise of every cell as it is drawn."""
    chain = noise_chain(kind, layout, csnr_db)
    power = np.full(layout.fft_size, chain.noise_var)
    if kind == "jam":
        silence = np.zeros(_TRUTH_SYMBOLS * layout.symbol_samples, np.complex64)
        heard = chain.apply(silence, layout.rate_sps, np.random.default_rng(1)).samples
        cells = heard.reshape(-1, layout.symbol_samples)[:, : layout.fft_size]
        power = np.mean(np.abs(np.fft.fft(cells, norm="ortho")) ** 2, axis=0)
    data, pilots = np.tile(power, (layout.data_symbols, 1)), np.tile(power, (layout.pilot_symbols, 1))
    if kind == "burst":
        first = _first_struck(layout)
        data[first : first + _STRUCK] += chain.burst_power
    level = float(1 / np.mean(1 / power))
    return CellNoise(level, data / level, pilots / level)


def record(kind: str, sent: NDArray[np.complex64], layout: FrameLayout, csnr_db: float, seed: int) -> Recording:
    """Return a transmission that begins with a frame, over fading that stays for a frame, in a kind of noise."""
    fading = Impairments(taps=8, block_samples=layout.frame_samples)
    faded = fading.apply(sent, layout.rate_sps, np.random.default_rng([seed, 1])).samples
    heard = np.concatenate([np.zeros(_LEAD_SAMPLES, np.complex64), faded, np.zeros(_LEAD_SAMPLES, np.complex64)])
    chain = noise_chain(kind, layout, csnr_db)
    return Recording(chain.apply(heard, layout.rate_sps, np.random.default_rng([seed, 2])).samples)


def measure(
    bundle: Bundle,
    originals: Mapping[str, Tensor],
    layout: FrameLayout,
    methods: Sequence[str],
    *,
    kinds: Sequence[str] = ("white", "jam", "burst"),
    csnr_db: float = 10.0,
    seed: int = 0,
    prefix: bool = False,
) -> list[UnevenRow]:
    """Decode images through every kind of noise with every method and receiver.

    Args:
        bundle: models.
        originals: images (C, H, W) of one size by id.
        layout: of the frames.
        methods: names.
        kinds: of noise.
        csnr_db: CSNR of the carriers that nothing disturbs.
        seed: of everything random.
        prefix: whether frames are found by their prefix alone, told what was sent.
    """
    images = torch.stack(list(originals.values()))
    channels, height, width = images.shape[1:]
    codec = bundle.for_shape((channels, height, width)).codec
    contents = encode_images(list(originals), images, codec, layout, csnr_db).frames
    sent, headers = modulate_stream(contents, layout, 0), [content.header for content in contents]
    decoder, rows = BatchDecoder(bundle), []
    for kind in kinds:
        heard = record(kind, sent, layout, csnr_db, seed)
        found = find_frames_by_prefix(heard, layout, headers) if prefix else find_frames(heard, layout)
        frames = [frame for frame in found if frame.header is not None]
        truth = true_noise(kind, layout, csnr_db)
        receivers: dict[str, NoiseOf] = {
            "knows": lambda frame, layout, truth=truth: truth,
            "measured": measure_noise,
            "one variance": lambda frame, layout: CellNoise.even(frame.noise_var, layout),
        }
        for method in methods:
            reached = {
                receiver: _decoded(decoder, frames, layout, codec, method, noise, originals, seed)
                for receiver, noise in receivers.items()
            }
            known, _ = reached["knows"]
            for receiver, (found_db, accepted) in reached.items():
                mean_db, lost = float(found_db.mean()), mean_and_error(found_db - known)
                rows.append(UnevenRow(kind, method, receiver, known.numel(), mean_db, *lost, accepted))
                print(json.dumps(asdict(rows[-1])), flush=True)
    return rows


def _decoded(
    decoder: BatchDecoder,
    frames: Sequence[SyncedFrame],
    layout: FrameLayout,
    codec: Codec,
    method: str,
    noise: NoiseOf,
    originals: Mapping[str, Tensor],
    seed: int,
) -> tuple[Tensor, float]:
    """Return the PSNR (n,) of every image in frames, dB, and the share that was accepted."""
    found_db, accepted = [], []
    for first in range(0, len(frames), _BATCH_FRAMES):
        batch = frames[first : first + _BATCH_FRAMES]
        measured = MeasuredFrames(tuple(batch), measure_frames(batch, layout, noise=noise), codec)
        for image in decoder.decode(measured, method_variant(method), torch.Generator().manual_seed(seed)):
            found_db.append(psnr_db(torch.from_numpy(image.image)[None], originals[image.id][None]))
            accepted.append(image.accepted)
    return torch.cat(found_db), float(np.mean(accepted))


def held_out(bundle: Bundle, count: int, side: int = 256) -> dict[str, Tensor]:
    """Return held-out images by id: of Fashion-MNIST for its bundle, else middle squares of its photographs."""
    if bundle.accepted_shape[1:] == (32, 32):
        images, labels = load_fashion_mnist("test")
        picked = sample_indices(labels, count, torch.Generator().manual_seed(0))
        return {f"t{index:05d}": images[index] for index in picked}
    names, photographs = load_images(bundle.samples, bundle.accepted_shape)
    return dict(zip(names[:count], middle_squares(photographs[:count], side), strict=True))


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="photo")
    parser.add_argument("--images", type=int, default=13)
    parser.add_argument("--side", type=int, default=256, help="pixels per side of photographs")
    parser.add_argument("--methods", nargs="+", default=["jscc", "hifi", "blind"])
    parser.add_argument("--kinds", nargs="+", default=["white", "jam", "burst"], choices=["white", "jam", "burst"])
    parser.add_argument("--csnr-db", type=float, default=10.0)
    parser.add_argument("--prefix", action="store_true", help="layouts without pilots, frames found by their prefix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/uneven-noise.json"))
    given = parser.parse_args()
    bundle = load_bundle(given.bundle)
    photo = given.bundle.startswith("photo")
    layout = load_layout(("photo-blind" if photo else "blind") if given.prefix else ("photo" if photo else "paper"))
    originals = held_out(bundle, given.images, given.side)
    rows = measure(
        bundle, originals, layout, given.methods,
        kinds=given.kinds, csnr_db=given.csnr_db, seed=given.seed, prefix=given.prefix,
    )  # fmt: skip
    answer = {"bundle": bundle.name, "layout": layout.name, "csnr_db": given.csnr_db, "seed": given.seed}
    write_json(given.out, {**answer, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
