"""Find frames by their cyclic prefix alone, with one antenna or several, and decode them blindly.

    python -m lab.benchmarks.prefix_frames --out benchmarks/prefix-frames.json

Frames of layout `blind`, without pilots, each over 8 taps of its own at every antenna, with a carrier offset of 300 Hz;
CSNR is that of one antenna. First one image a frame: how many frames are found and taken for the right one, how far
their place and their carrier offset are off. Then four images a frame, decoded by `blind` from the same recording,
synchronised by the prefix and by preamble and header.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import mean_and_error
from lab.experiments.link import Reception, send
from lab.experiments.plan import Condition, Sweep, held_out_images, sweep_layout
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.sync.prefix import find_frames_by_prefix
from sdr.files import write_json
from sdr.framing import pack_frames
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.symbols import Symbols

_CFO_HZ = 300.0
_SHARES = (1, 5, 50, 95, 99)


@dataclass(frozen=True)
class FoundRow:
    """What the prefix finds. Errors are over all frames found.

    Attributes:
        antennas: of the receiver.
        csnr_db: mean channel SNR of each.
        sent: frames.
        found: of them.
        right: found, and taken for the right one.
        late_samples: 1, 5, 50, 95 and 99 % of the first path's place less the true one.
        cfo_std_hz: standard deviation of the carrier offset's error.
        stated_cfo_std_hz: median of its stated standard error.
    """

    antennas: int
    csnr_db: float
    sent: int
    found: int
    right: int
    late_samples: tuple[float, ...]
    cfo_std_hz: float
    stated_cfo_std_hz: float


@dataclass(frozen=True)
class DecodedRow:
    """Images decoded by `blind`.

    Attributes:
        antennas: of the receiver.
        csnr_db: mean channel SNR of each.
        synchronised: "prefix" or "preamble".
        n: images sent.
        decoded: of them.
        psnr_db: mean of the decoded ones.
        psnr_two_errors_db: two standard errors of it.
        below_17_db: images below 17 dB or not decoded.
    """

    antennas: int
    csnr_db: float
    synchronised: str
    n: int
    decoded: int
    psnr_db: float
    psnr_two_errors_db: float
    below_17_db: int


@dataclass(frozen=True, eq=False)
class Sent:
    """What was sent, and what was received of it.

    Attributes:
        reception: of the receiver.
        layout: of the frames.
        headers: of the frames, in order.
        sweep: what chose the images.
    """

    reception: Reception
    layout: FrameLayout
    headers: list[FrameHeader]
    sweep: Sweep

    @property
    def starts(self) -> np.ndarray:
        """True first sample of each frame."""
        return self.layout.gap_samples + self.layout.frame_samples * (1 + np.arange(len(self.headers)))


def sent(count: int, csnr_db: float, per_frame: int = 4, antennas: int = 1) -> Sent:
    """Send held-out images, and state the headers of their frames.

    Args:
        count: images.
        csnr_db: mean channel SNR of each antenna.
        per_frame: images of a frame.
        antennas: of the receiver.
    """
    bundle = load_bundle()
    sweep = Sweep("prefix", (csnr_db,), ("blind",), num_images=count, images_per_frame=per_frame, layout="blind")
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    blank = np.ones((count, bundle.codec.num_symbols), np.complex64)
    stated = Symbols(blank, bundle.codec.digest, tuple(ids), bundle.image_shape, csnr_db)
    headers = [frame.header for frame in pack_frames(stated, layout, csnr_db)]
    # A whole frame of silence first: taps are drawn anew every frame, by the receiver's samples.
    channel = f"taps=8,decay=4,cfo_hz={_CFO_HZ},delay_samples={layout.frame_samples}"
    several = f",rx={antennas}" if antennas > 1 else ""
    heard = send(sweep, bundle.codec, layout, ids, images, Condition("", channel + several, csnr_db))
    return Sent(heard, layout, headers, sweep)


def find(count: int, csnr_db: float, antennas: int) -> FoundRow:
    """Find frames of one image each."""
    given = sent(count, csnr_db, 1, antennas)
    frames = find_frames_by_prefix(given.reception.recording, given.layout, given.headers)
    first_path = np.array([frame.start + frame.advance for frame in frames])
    late = first_path - given.starts[:, None]
    nearest = late[np.abs(late).argmin(axis=0), np.arange(len(frames))]
    taken_for = [given.headers.index(frame.header) for frame in frames if frame.header is not None]
    offsets = np.array([frame.cfo_hz - _CFO_HZ for frame in frames])
    return FoundRow(
        antennas,
        csnr_db,
        count,
        len(frames),
        int(np.sum(np.abs(late[taken_for, np.arange(len(frames))]) <= given.layout.cp_samples)),
        tuple(np.percentile(nearest, _SHARES).tolist()),
        round(float(offsets.std()), 1),
        round(float(np.median([frame.cfo_std_hz for frame in frames])), 1),
    )


def decode(count: int, csnr_db: float, antennas: int, steps: int) -> list[DecodedRow]:
    """Decode frames of four images both ways, by `blind` of so many steps."""
    given, bundle = sent(count, csnr_db, 4, antennas), load_bundle()
    originals = dict(zip(*held_out_images(given.sweep, bundle.image_shape), strict=True))
    rows = []
    for way, headers in (("prefix", given.headers), ("preamble", None)):
        settings = DecodeSettings(steps=steps)
        result = decode_recording(given.reception.recording, given.layout, bundle, ["blind"], settings, headers=headers)
        values = [
            float(psnr_db(torch.from_numpy(image.image[None]), originals[image.id][None])) for image in result.images
        ]
        mean, error = mean_and_error(values)
        below = count - sum(value >= 17 for value in values)
        rows.append(DecodedRow(antennas, csnr_db, way, count, len(values), round(mean, 3), round(2 * error, 3), below))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antennas", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--csnrs-db", nargs="+", type=float, default=[10.0, 5.0, 0.0])
    parser.add_argument("--frames", type=int, default=256, help="of one image, to be found")
    parser.add_argument("--images", type=int, default=64, help="to be decoded, at 5 dB or more")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/prefix-frames.json"))
    given = parser.parse_args(argv)
    rows: list[FoundRow | DecodedRow] = []
    for csnr_db in given.csnrs_db:
        for antennas in given.antennas:
            rows.append(find(given.frames, csnr_db, antennas))
            print(json.dumps(asdict(rows[-1])), flush=True)
            if csnr_db >= 5:
                for row in decode(given.images, csnr_db, antennas, given.steps):
                    rows.append(row)
                    print(json.dumps(asdict(row)), flush=True)
    write_json(given.out, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
