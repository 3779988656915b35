"""Measure what it brings to tell a photograph codec's decoder the CSNR of every symbol, photograph by photograph.

    python -m lab.benchmarks.symbol_csnr --bundle photo24 --out runs/symbol-csnr.json
    python -m lab.benchmarks.symbol_csnr --bundle photo24 --against FOLDER --out runs/symbol-csnr.json

Photographs go through the simulated radio and the whole receiver, over white noise and over fading, and are decoded
with one CSNR for an image and with one for every symbol, or by two bundles whose encoders are the same: over the same
channels with the same noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lab.benchmarks.photo import PILOT_LAYOUT, Trial, load_photographs, received
from lab.evaluation.statistics import mean_and_error
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.codecs.local import LocalCodec
from sdr.errors import ConfigError, OtaError
from sdr.files import write_json


@dataclass(frozen=True)
class ToldRow:
    """PSNR of one method over one channel.

    Attributes:
        channel: "awgn" or "fading".
        csnr_db: channel SNR, dB.
        method: that decoded.
        photographs: compared.
        repetitions: channels that each was sent over; they are averaged.
        before_psnr_db: mean over photographs, one CSNR told for an image, or by the bundle that is compared with.
        psnr_db: mean over photographs by the bundle.
        gain_db: the mean difference, photograph by photograph.
        gain_se_db: its standard error over photographs.
    """

    channel: str
    csnr_db: float
    method: str
    photographs: int
    repetitions: int
    before_psnr_db: float
    psnr_db: float
    gain_db: float
    gain_se_db: float


def measure(bundles: tuple[Bundle, Bundle], ids: Sequence[str], images: Tensor, trial: Trial) -> ToldRow:
    """Send photographs by two bundles over the same channels, and decode them.

    Args:
        bundles: the one compared with, and the other.
        ids: n names.
        images: (n, 3, H, W).
        trial: channel, method and repetitions.
    """
    before, after = (received(bundle, ids, images, trial).psnr_db for bundle in bundles)
    means = [
        torch.tensor([[sum(values[name]) / len(values[name]) for values in (before, after)]])
        for name in ids
        if before[name] and len(before[name]) == len(after[name])
    ]
    both = torch.cat(means)
    gain = both[:, 1] - both[:, 0]
    return ToldRow(
        trial.channel, trial.csnr_db, trial.method, len(both), trial.repetitions,
        float(both[:, 0].mean()), float(both[:, 1].mean()),
        *mean_and_error(gain),
    )  # fmt: skip


def without_covariance(name: str) -> Bundle:
    """Load a bundle without the covariance of its codec's features.

    Raises:
        ConfigError: it has none.
    """
    bundle = load_bundle(name)
    if not isinstance(bundle.codec, LocalCodec) or bundle.codec.covariance is None:
        raise ConfigError(f"Bundle {name} has no covariance.safetensors. Make it with `ota train covariance`.")
    bundle.codec.covariance = None
    return bundle


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="photo24")
    parser.add_argument("--against", help="bundle compared with; default: the same without the covariance")
    parser.add_argument("--methods", nargs="+", default=["jscc", "bp"])
    parser.add_argument("--csnr-db", nargs="+", type=float, default=[0.0, 10.0])
    parser.add_argument("--repetitions", type=int, default=3, help="channels over fading; one over white noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/symbol-csnr.json"))
    given = parser.parse_args()
    try:
        against = without_covariance(given.bundle) if given.against is None else load_bundle(given.against)
        bundles = against, load_bundle(given.bundle)
    except OtaError as error:
        parser.exit(2, f"{error}\n")
    ids, images = load_photographs(bundles[1].samples, bundles[1])
    rows = []
    for csnr_db in given.csnr_db:
        for method in given.methods:
            for channel, repetitions in (("awgn", 1), ("fading", given.repetitions)):
                trial = Trial(channel, PILOT_LAYOUT, method, csnr_db, repetitions, given.seed)
                rows.append(measure(bundles, ids, images, trial))
                print(json.dumps(asdict(rows[-1])), flush=True)
    digests = {"codec": bundles[1].codec.digest, "against": bundles[0].codec.digest}
    answer = {"bundle": bundles[1].name, **digests, "seed": given.seed}
    write_json(given.out, {**answer, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
