"""Count the headers that are read where noise is not white, and measure carrier offset and timing there.

    python -m lab.benchmarks.uneven_headers --out benchmarks/uneven-noise/headers.json
    python -m lab.benchmarks.uneven_headers --against benchmarks/uneven-noise/headers-one-variance.json

Frames go over white noise alone or over 8-tap block fading, with noise that is

    white    the same everywhere
    jam      20 dB stronger on ten carriers (two bands of five)
    band     30 dB stronger on a band of ten carriers, 4 % of them
    burst    20 dB stronger during two of the header's symbols

at a CSNR in the white part. The bound reads the same headers with timing, carrier offset, channel and the noise of
every cell known. `--against` takes results of the same frames and counts those read here and not there, and the
reverse.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.benchmarks.uneven_noise import noise_chain
from lab.evaluation.statistics import wilson_interval
from receiver.sync.preamble import find_frames
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_cfo
from sdr.files import write_json
from sdr.framing import pack_frames
from sdr.header import decode_headers
from sdr.layout import FrameLayout, load_layout
from sdr.modem import demodulate, modulate_stream
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols

KINDS, CHANNELS = ("white", "jam", "band", "burst"), ("awgn", "rayleigh8")

#: Carriers of the jammed band, its middle, and its excess over the noise as a power ratio: 30 dB in all.
_BAND, _BAND_MIDDLE, _BAND_EXCESS = 10, 40, 999.0
#: Header symbols that a burst strikes, the first of them, and its excess: 20 dB in all.
_STRUCK, _FIRST_STRUCK, _BURST_EXCESS = 2, 3, 99.0
_LEAD_SAMPLES = 1000
_FRAMES_PER_CAPTURE = 40
#: Symbols of noise whose mean power is taken for the true one.
_TRUTH_SYMBOLS = 2000
_MAX_CFO_HZ = 60e3
#: What names a point.
_POINT = ("noise", "channel", "csnr_db", "n")


@dataclass(frozen=True)
class HeaderRow:
    """Headers of one kind of noise, channel and CSNR.

    Attributes:
        noise: kind of noise.
        channel: "awgn" or "rayleigh8".
        csnr_db: of the carriers and symbols that nothing disturbs.
        n: frames sent.
        found: of them.
        headers: read.
        low: lower end of the 95 % interval of the share of headers read.
        high: upper end of it.
        bound: headers read with everything known.
        cfo_rmse_hz: of frames with a header, None where there are none.
        timing_rmse_samples: of their first path.
        read: which frames' headers were read, a bit each, the first frame the highest, in hexadecimal digits.
        gained: headers read that the results compared with lack.
        lost: the reverse.
    """

    noise: str
    channel: str
    csnr_db: float
    n: int
    found: int
    headers: int
    low: float
    high: float
    bound: int
    cfo_rmse_hz: float | None
    timing_rmse_samples: float | None
    read: str
    gained: int | None = None
    lost: int | None = None


@dataclass(frozen=True, eq=False)
class Capture:
    """Frames as received, and what is true of them.

    Attributes:
        samples: complex64.
        starts: (F,) sample at which each frame begins.
        responses: (F, N) channel on every carrier.
        noise: (header symbols, N) noise power of every cell.
        cfo_hz: carrier offset.
    """

    samples: NDArray[np.complex64]
    starts: NDArray[np.int64]
    responses: NDArray[np.complex128]
    noise: NDArray[np.float64]
    cfo_hz: float


def header_noise_chain(kind: str, layout: FrameLayout, csnr_db: float) -> Impairments:
    """Return the noise alone of a kind."""
    if kind == "band":
        white, spacing_hz = noise_chain("white", layout, csnr_db), layout.carrier_spacing_hz
        return replace(
            white,
            jam_power=white.noise_var * _BAND_EXCESS * _BAND / layout.fft_size,
            jam_hz=(_BAND_MIDDLE * spacing_hz,),
            jam_width_hz=_BAND * spacing_hz,
        )
    if kind == "burst":
        white = noise_chain("white", layout, csnr_db)
        first = layout.first_header_symbol + _FIRST_STRUCK
        return replace(
            white,
            burst_power=white.noise_var * _BURST_EXCESS,
            burst_samples=_STRUCK * layout.symbol_samples,
            burst_every_samples=layout.frame_samples,
            burst_first_sample=_LEAD_SAMPLES + first * layout.symbol_samples,
        )
    return noise_chain(kind, layout, csnr_db)


def capture(
    kind: str, channel: str, layout: FrameLayout, csnr_db: float, seed: Sequence[int], count: int = _FRAMES_PER_CAPTURE
) -> Capture:
    """Return frames full of random symbols in a kind of noise, behind a carrier offset of their own."""
    rng = np.random.default_rng([*seed, 0])
    z = rng.standard_normal((count, layout.capacity, 2)).view(np.complex128)[..., 0]
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    symbols = Symbols(z.astype(np.complex64), "00c0ffee", tuple(f"i{i}" for i in range(count)), (1, 32, 32), 10.0)
    sent = modulate_stream(pack_frames(symbols, layout), layout, 0)
    frames, responses = sent.size // layout.frame_samples, np.ones((count, layout.fft_size), np.complex128)
    if channel == "rayleigh8":
        faded = Impairments(taps=8, block_samples=layout.frame_samples).apply(sent, layout.rate_sps, rng)
        assert faded.fading is not None
        sent, responses = faded.samples, np.fft.fft(faded.fading.taps[:frames], layout.fft_size)
    edge, cfo_hz = np.zeros(_LEAD_SAMPLES, np.complex64), float(rng.uniform(-_MAX_CFO_HZ, _MAX_CFO_HZ))
    chain = replace(header_noise_chain(kind, layout, csnr_db), cfo_hz=cfo_hz)
    samples = chain.apply(np.concatenate([edge, sent, edge]), layout.rate_sps, rng).samples
    starts = _LEAD_SAMPLES + layout.frame_samples * np.arange(frames)
    return Capture(samples, starts, responses, _true_noise(kind, layout, csnr_db, cfo_hz), cfo_hz)


def _true_noise(kind: str, layout: FrameLayout, csnr_db: float, cfo_hz: float) -> NDArray[np.float64]:
    """Return the noise power (header symbols, N) of header cells as it is drawn."""
    chain = header_noise_chain(kind, layout, csnr_db)
    power = np.full((layout.header_symbols, layout.fft_size), chain.noise_var)
    if chain.jam_power:
        silence = np.zeros(_TRUTH_SYMBOLS * layout.symbol_samples, np.complex64)
        heard = chain.apply(silence, layout.rate_sps, np.random.default_rng(1)).samples
        cells = apply_cfo(heard, -cfo_hz, layout.rate_sps).reshape(-1, layout.symbol_samples)[:, : layout.fft_size]
        power[:] = np.mean(np.abs(np.fft.fft(cells, norm="ortho")) ** 2, axis=0)
    if chain.has_bursts:
        power[_FIRST_STRUCK : _FIRST_STRUCK + _STRUCK] += chain.burst_power
    return power


def known_headers(heard: Capture, layout: FrameLayout) -> NDArray[np.bool_]:
    """Return which headers (F,) can be read with everything known but them."""
    soft = []
    for start, response in zip(heard.starts, heard.responses, strict=True):
        grid = demodulate(
            heard.samples, int(start), layout, layout.header_symbols, layout.first_header_symbol, heard.cfo_hz
        )  # fmt: skip
        turned = grid * np.exp(-2j * np.pi * ((heard.cfo_hz * start / layout.rate_sps) % 1.0))
        soft.append(((response.conj() * turned).real / heard.noise)[:, layout.active_bins])
    headers, _ = decode_headers(np.array(soft), layout)
    return np.array([header is not None for header in headers])


def measure_point(
    kind: str, channel: str, layout: FrameLayout, csnr_db: float, frames: int, seed: int, index: int
) -> HeaderRow:
    """Count the headers of one kind of noise, channel and CSNR."""
    read, found, bound, cfo, late = np.zeros(0, dtype=bool), 0, 0, [], []
    for number in range(-(-frames // _FRAMES_PER_CAPTURE)):
        heard = capture(kind, channel, layout, csnr_db, (seed, index, number))
        bound += int(known_headers(heard, layout).sum())
        each, seen = np.zeros(heard.starts.size, dtype=bool), np.zeros(heard.starts.size, dtype=bool)
        for frame in find_frames(Recording(heard.samples), layout):
            away = frame.start + frame.advance - heard.starts
            row = int(np.abs(away).argmin())
            if abs(away[row]) > layout.cp_samples:
                continue
            seen[row] = True
            if frame.header is not None:
                each[row] = True
                cfo.append(frame.cfo_hz - heard.cfo_hz)
                single_path = frame.start + frame.arrival_samples - heard.starts[row]
                late.append(single_path if channel == "awgn" else away[row])
        found += int(seen.sum())
        read = np.concatenate([read, each])
    headers = int(read.sum())
    low, high = wilson_interval(headers, read.size)
    mask = np.packbits(read).tobytes().hex()
    return HeaderRow(
        kind, channel, csnr_db, read.size, found, headers, low, high, bound, _rms(cfo), _rms(late), mask
    )  # fmt: skip


def _rms(errors: Sequence[float]) -> float | None:
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else None


def compared(row: HeaderRow, others: Sequence[dict[str, Any]]) -> HeaderRow:
    """Return a row with what other results of the same frames lack, and the reverse."""
    same = [other for other in others if all(other[key] == getattr(row, key) for key in _POINT)]
    if not same:
        return row
    here, there = (np.unpackbits(np.frombuffer(bytes.fromhex(read), np.uint8)) for read in (row.read, same[0]["read"]))
    return replace(row, gained=int(np.sum(here > there)), lost=int(np.sum(there > here)))


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="paper")
    parser.add_argument("--frames", type=int, default=400, help="per point")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--channels", nargs="+", default=list(CHANNELS), choices=CHANNELS)
    parser.add_argument("--csnrs-db", nargs="+", type=float, default=[-3.0, 0.0, 3.0, 6.0, 10.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--against", type=Path, help="results of the same frames to compare with")
    parser.add_argument("--out", type=Path, default=Path("runs/uneven-headers.json"))
    given = parser.parse_args()
    layout, rows = load_layout(given.layout), []
    others = json.loads(given.against.read_text())["rows"] if given.against else []
    for kind in given.kinds:
        for channel in given.channels:
            for csnr_db in given.csnrs_db:
                index = 100 * KINDS.index(kind) + 50 * CHANNELS.index(channel) + round(csnr_db) + 10
                row = measure_point(kind, channel, layout, csnr_db, given.frames, given.seed, index)
                rows.append(compared(row, others))
                print(json.dumps(asdict(replace(rows[-1], read=""))), flush=True)
    answer = {"layout": layout.name, "seed": given.seed, "rows": [asdict(row) for row in rows]}
    write_json(given.out, answer)


if __name__ == "__main__":
    main()
