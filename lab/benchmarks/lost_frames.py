"""Measure what a photograph loses that spans four frames, where one of them is lost.

    python -m lab.benchmarks.lost_frames --methods jscc --out benchmarks/lost-frames/jscc.json
    python -m lab.benchmarks.lost_frames --methods bp:steps=5 --draws 2 --out benchmarks/lost-frames/bp.json

Photographs are squares of 512x512 pixels made of four held-out ones, a frame a quarter of the rows, over 8-tap block
fading at 10 dB. Where frames arrived the decoded image is compared with the same method's from all four frames.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.statistics import mean_and_error
from lab.training.photographs import middle_squares
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_images
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.files import write_json
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from transmitter.encode import encode_images

_SIDE, _FRAMES, _LEAD_SAMPLES = 512, 4, 1000


@dataclass(frozen=True)
class LostRow:
    """One photograph that lacks one of its frames.

    Attributes:
        image: number of the photograph.
        method: that decoded.
        lost: frame that was lost.
        arrived_psnr_db: PSNR where frames arrived, of the mean of the draws where there are several.
        whole_psnr_db: PSNR there where all frames arrived.
        hole_psnr_db: PSNR where the frame was lost.
        arrived_spread: rms over pixels of the draws' standard deviation where frames arrived; None for one draw.
        hole_spread: the same where the frame was lost.
    """

    image: int
    method: str
    lost: int
    arrived_psnr_db: float
    whole_psnr_db: float
    hole_psnr_db: float
    arrived_spread: float | None = None
    hole_spread: float | None = None


def mosaics(bundle: Bundle, count: int) -> Tensor:
    """Return photographs (count, 3, 512, 512), each of four held-out ones."""
    _, photographs = load_images(bundle.samples, bundle.accepted_shape)
    squares = middle_squares(photographs, _SIDE // 2)
    picked = [squares[index % len(squares)] for index in range(4 * count)]
    rows = [torch.cat(picked[index : index + 2], dim=2) for index in range(0, 4 * count, 2)]
    return torch.stack([torch.cat(rows[index : index + 2], dim=1) for index in range(0, 2 * count, 2)])


def measure(
    bundle: Bundle, methods: Sequence[str], count: int, lost: Sequence[int], draws: int, csnr_db: float, seed: int
) -> list[LostRow]:
    """Decode every photograph with all frames, and with each of `lost` missing."""
    layout, images = load_layout("photo"), mosaics(bundle, count)
    codec = bundle.for_shape((3, _SIDE, _SIDE)).codec
    noise_var, settings, rows = noise_var_for_csnr(layout, csnr_db), DecodeSettings(draws=draws, seed=seed), []
    for index, original in enumerate(images):
        sent = modulate_stream(encode_images(["m"], original[None], codec, layout, csnr_db).frames, layout, 0)
        fading = Impairments(taps=8, block_samples=layout.frame_samples)
        faded = fading.apply(sent, layout.rate_sps, np.random.default_rng([seed, index])).samples
        quiet = np.zeros(_LEAD_SAMPLES, np.complex64)
        clean = np.concatenate([quiet, faded, quiet])

        def heard(clean: NDArray[np.complex64], index: int = index) -> Recording:
            return Recording(apply_awgn(clean, noise_var, np.random.default_rng([seed, index, 1])))

        for method in methods:
            whole = decode_recording(heard(clean), layout, bundle, [method], settings).images[0]
            for frame in lost:
                holed = clean.copy()
                first = _LEAD_SAMPLES + frame * layout.frame_samples
                holed[first : first + layout.frame_samples] = 0
                part = decode_recording(heard(holed), layout, bundle, [method], settings).images[0]
                hole = np.zeros(_SIDE, dtype=bool)
                hole[frame * _SIDE // _FRAMES : (frame + 1) * _SIDE // _FRAMES] = True
                shown, reference = (each.image if each.mean is None else each.mean for each in (part, whole))
                row = LostRow(
                    index, method, frame,
                    _psnr_db(shown, original, ~hole), _psnr_db(reference, original, ~hole),
                    _psnr_db(shown, original, hole),
                    None if part.spread is None else _rms(part.spread[:, ~hole]),
                    None if part.spread is None else _rms(part.spread[:, hole]),
                )  # fmt: skip
                rows.append(row)
                print(json.dumps(asdict(row)), flush=True)
    return rows


def _psnr_db(image: NDArray[np.float32], original: Tensor, rows: NDArray[np.bool_]) -> float:
    return -20 * math.log10(_rms((image - original.numpy())[:, rows]))


def _rms(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["jscc"])
    parser.add_argument("--lost", type=int, nargs="+", default=[0, 1, 2, 3], choices=range(_FRAMES))
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--csnr-db", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/lost-frames.json"))
    given = parser.parse_args()
    rows = measure(
        load_bundle("photo"), given.methods, given.images, given.lost, given.draws, given.csnr_db, given.seed
    )
    summary = []
    for method in given.methods:
        change = np.array([row.arrived_psnr_db - row.whole_psnr_db for row in rows if row.method == method])
        mean_db, error_db = mean_and_error(change)
        summary.append(
            {
                "method": method,
                "n": change.size,
                "arrived_delta_db": mean_db,
                "arrived_delta_error_db": error_db,
                "spread_ratios": [
                    row.hole_spread / row.arrived_spread
                    for row in rows
                    if row.method == method and row.hole_spread is not None and row.arrived_spread
                ],
            }
        )
    print(json.dumps(summary))
    answer = {"csnr_db": given.csnr_db, "seed": given.seed, "draws": given.draws, "summary": summary}
    write_json(given.out, {**answer, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
