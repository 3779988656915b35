"""What a calibration is worth: the same recordings decoded without and with the profile of their radios.

    python -m calibration.benchmark --images 128 --out runs/calibration

The air has an amplifier in saturation, an unbalanced receiver mixer and a delay profile unlike the receiver's default.
The profile is measured on another transmission over the same air (other taps, other noise); the decoder gets the
recording and, in one of two runs, that profile.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from calibration.session import measure_link
from receiver.bundles import load_bundle
from receiver.data import load_fashion_mnist, sample_indices
from receiver.decode import decode_recording
from receiver.evaluation import summarise
from receiver.metrics import psnr_db
from sdr.calibration_profile import save_profile
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radio import open_radio
from sdr.symbols import Symbols

AIR = "pa_saturation=0.15,pa_smoothness=2,image_rejection_db=15,taps=3,decay=1"
PARTS = ("frequency", "channel", "delay", "frontend")


def run(out: Path, num_images: int, csnr_db: float, methods: list[str], air: str, layout_name: str) -> dict:
    """Calibrate, send, decode twice, score; the result is also written to `out`/result.json."""
    layout, bundle = load_layout(layout_name), load_bundle()
    radio = f"sim:{air},block_samples={layout.frame_samples}"
    with open_radio(f"{radio},csnr_db=25,seed=101", layout=layout) as air_:
        profile = measure_link(air_, air_, layout, parts=PARTS, num_frames=300)
    out.mkdir(parents=True, exist_ok=True)
    save_profile(profile, out / "profile.toml")

    images, labels = load_fashion_mnist("test")
    picked = sample_indices(labels, num_images, torch.Generator().manual_seed(0))
    originals = images[picked]
    ids = [f"t{index:05d}" for index in picked]
    with torch.no_grad():
        z = torch.cat([bundle.codec.encode(part, csnr_db) for part in originals.split(64)])
    symbols = Symbols(z.numpy(), bundle.codec.digest, tuple(ids), bundle.image_shape, csnr_db)
    with open_radio(f"{radio},csnr_db={csnr_db},seed=7", layout=layout) as air_:
        air_.transmit(modulate_stream(pack_frames(symbols, layout), layout))
        recording = air_.receive()
    truth = dict(zip(ids, originals, strict=True))
    result: dict = {"air": radio, "csnr_db": csnr_db, "images": num_images, "profile": profile.digest, "methods": {}}
    for method in methods:
        decoded = {}
        for name, calibration in (("without", None), ("with", profile)):
            found = decode_recording(recording, layout, bundle, [method], calibration=calibration, seed=1)
            decoded[name] = {image.id: torch.from_numpy(image.image) for image in found.images}
        both = [i for i in ids if i in decoded["without"] and i in decoded["with"]]
        scores = {}
        psnr = {}
        for name, kept in decoded.items():
            wanted = torch.stack([truth[i] for i in both])
            shown = torch.stack([kept[i] for i in both])
            psnr[name] = psnr_db(shown, wanted)
            count = len(both)
            summary = summarise(
                method, shown, wanted, realism=bundle.realism, plain=None, seconds=[0.0] * count,
                residuals=[1.0] * count, accepted=[True] * count, channel_distances=None, seed=0,
            )  # fmt: skip
            scores[name] = {
                "psnr_db": summary.psnr_db, "psnr_se_db": summary.psnr_se_db, "realism": summary.realism,
                "realism_se": summary.realism_se, "success_17db": summary.success_17db,
                "success_low": summary.success_low, "success_high": summary.success_high,
            }  # fmt: skip
        gain = (psnr["with"] - psnr["without"]).double().numpy()
        scores["gain_db"], scores["gain_se_db"] = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(gain.size))
        result["methods"][method] = {"images": len(both), **scores}
        print(method, json.dumps(result["methods"][method]), flush=True)
        (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--csnr-db", type=float, default=20.0)
    parser.add_argument("--method", action="append", dest="methods")
    parser.add_argument("--air", default=AIR)
    parser.add_argument("--layout", default="paper")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run(given.out, given.images, given.csnr_db, given.methods or ["jscc", "hifi", "blind"], given.air, given.layout)


if __name__ == "__main__":
    main()
