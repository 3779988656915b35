"""Measure what a calibration is worth: the same recordings decoded without and with the profile of their radios.

    python -m lab.benchmarks.calibrated_link --images 512 --out runs/calibration
    python -m lab.benchmarks.calibrated_link --images 512 --radio pluto --air antennas --out runs/antennas

The air has an amplifier in saturation, an unbalanced receiver mixer and a delay profile unlike the receiver's default.
The profile is measured on another transmission over the same air (other taps, other noise); the decoder gets the
recording and, in one of two runs, that profile. Every image is decoded in both runs, so their differences are paired;
intervals are 95 % of a bootstrap over frames, as the images of a frame share a channel.

`--radio pluto` calibrates and records an emulated Pluto with two receivers through the driver of a real one. Taps of
its first antenna are those of `--air`, the second one hears `SECOND_PATH`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calibration.session import CalibrationPlan, measure_link
from lab.evaluation.metrics import psnr_db
from lab.evaluation.realism import Realism, load_realism
from lab.evaluation.summary import SUCCESS_PSNR_DB
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.fashion_mnist import load_fashion_mnist, sample_indices
from sdr.air.chain import parse_impairments
from sdr.air.impairments import noise_var_for_csnr
from sdr.calibration_profile import CalibrationProfile, save_profile
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
from sdr.files import write_json
from sdr.layout import FrameLayout, load_layout
from sdr.radios.open import open_radio
from sdr.radios.pluto import TX_SCALE
from sdr.recordings.recording import Recording
from transmitter.encode import Transmission, encode_images

#: Airs by name, as options of a sim: radio.
AIRS = {
    "amplifier": "pa_saturation=0.15,pa_smoothness=2,image_rejection_db=15,taps=3,decay=1",
    "echoes": "pa_saturation=0.2,pa_smoothness=2,image_rejection_db=15,taps=10,decay=20",
    "antennas": "cfo_hz=900,antenna_image_rejection_db=15:18,antenna_dc=0.01:0.02,antenna_gain_db=0:-4,"
    "taps=10,decay=20",
}
#: Taps, their decay and the delay of the second antenna of a Pluto, samples.
SECOND_PATH = (4, 1.0, 2)
#: CSNR of a calibration.
CALIBRATION_CSNR_DB = 25.0
CALIBRATION_FRAMES = 300
PARTS = ("frequency", "channel", "delay", "frontend")
#: Rounds of the bootstrap.
ROUNDS = 1000


def paired(without: Tensor, with_: Tensor, originals: Tensor, frames: Tensor, realism: Realism) -> dict[str, object]:
    """Return the scores of both runs and of their difference, with 95 % intervals over frames.

    Args:
        without: (n, C, H, W) images decoded without the profile.
        with_: (n, C, H, W) images decoded with it.
        originals: (n, C, H, W) images sent.
        frames: (n,) frame that each image was in.
        realism: the distance and its reference.
    """
    generator = torch.Generator().manual_seed(0)
    sets = (without, with_)
    psnr = [psnr_db(images, originals) for images in sets]
    success = [(values >= SUCCESS_PSNR_DB).double() for values in psnr]
    moments = [realism.moments(images, "feature") for images in sets]
    compare = realism.comparison("feature")
    _, member = frames.unique(return_inverse=True)
    count = int(member.max()) + 1

    def scores(weights: Tensor) -> list[list[float]]:
        share = weights / weights.sum()
        return [
            [float(share @ values.double()) for values in psnr],
            [float(share @ values) for values in success],
            [compare(*m.pooled(weights)) for m in moments],
        ]

    found = scores(torch.ones(len(without), dtype=torch.float64))
    draws = []
    for _ in range(ROUNDS):
        picks = torch.randint(count, (count,), generator=generator)
        draws.append(scores(torch.bincount(picks, minlength=count).double()[member]))
    drawn = np.array(draws)  # (rounds, scores, 2)
    compared: dict[str, object] = {"images": len(without), "frames": count}
    for index, name in enumerate(("psnr_db", "success_17db", "realism")):
        change = drawn[:, index, 1] - drawn[:, index, 0]
        compared[name] = {
            "without": found[index][0],
            "with": found[index][1],
            "change": found[index][1] - found[index][0],
            "standard_error": float(change.std(ddof=1)),
            "low": float(np.quantile(change, 0.025)),
            "high": float(np.quantile(change, 0.975)),
        }
    return compared


def through_sim(air: str, sent: Transmission, csnr_db: float) -> tuple[CalibrationProfile, Recording]:
    """Return the profile of a simulated radio, and what it recorded in another draw of the same air."""
    layout = sent.layout
    radio = f"sim:{air},block_samples={layout.frame_samples}"
    with open_radio(f"{radio},csnr_db={CALIBRATION_CSNR_DB},seed=101", layout=layout) as device:
        profile = measure_link(device, device, layout, CalibrationPlan(PARTS, CALIBRATION_FRAMES))
    with open_radio(f"{radio},csnr_db={csnr_db},seed=7", layout=layout) as device:
        device.transmit(sent.samples())
        return profile, device.receive()


def through_pluto(air: str, sent: Transmission, csnr_db: float) -> tuple[CalibrationProfile, Recording]:
    """Return the profile of an emulated Pluto with two receivers, which hears itself, and what it recorded."""
    layout, samples = sent.layout, sent.samples(0)
    with pluto_of_two(air, layout) as uri:
        with open_radio(f"{uri},tx_gain_db=0", layout=layout) as device:
            profile = measure_link(device, device, layout, CalibrationPlan(PARTS, CALIBRATION_FRAMES))
        with open_radio(f"{uri},tx_gain_db={csnr_db - CALIBRATION_CSNR_DB}", layout=layout) as device:
            device.transmit(samples, cyclic=True)
            return profile, device.receive(samples.size + layout.frame_samples)


@contextmanager
def pluto_of_two(air: str, layout: FrameLayout) -> Iterator[str]:
    """Emulate a Pluto with two receivers: yield its URI; sending with 0 dB has `CALIBRATION_CSNR_DB`."""
    chain = parse_impairments(air, layout)[0]
    # Full scale of the driver is half of the converter's.
    full_scale = TX_SCALE / TX_FULL_SCALE
    noise_var = noise_var_for_csnr(layout, CALIBRATION_CSNR_DB) * full_scale**2
    rest = replace(chain, taps=0, pa_saturation=chain.pa_saturation * full_scale)
    path = AirPath(taps=chain.taps, decay=chain.decay, redraw_samples=layout.frame_samples)
    heard_by_all = Air(path, noise_var, seed=7, impairments=rest)
    taps, decay, delay = SECOND_PATH
    with EmulatedPluto(heard_by_all, "pluto", rx=2) as device:
        second = replace(path, taps=taps, decay=decay, delay_samples=delay)
        heard_by_all.connect("pluto", "pluto", second, antenna=1)
        yield f"pluto:{device.uri},rx=2,rx_gain_db=6"


THROUGH = {"sim": through_sim, "pluto": through_pluto}


def run(
    out: Path, num_images: int, csnr_db: float, methods: list[str], air: str, layout_name: str, radio: str = "sim"
) -> dict[str, object]:
    """Calibrate, send, decode twice and score.

    Args:
        out: folder to write profile.toml and result.json into.
        num_images: held-out images.
        csnr_db: channel SNR, dB.
        methods: to decode by.
        air: options of a sim: radio.
        layout_name: frame layout, a name or a file.
        radio: of `THROUGH`.

    Returns:
        what result.json holds.
    """
    layout, bundle = load_layout(layout_name), load_bundle()
    images, labels = load_fashion_mnist("test")
    picked = sample_indices(labels, num_images, torch.Generator().manual_seed(0))
    ids = [f"t{index:05d}" for index in picked]
    sent = encode_images(ids, images[picked], bundle.codec, layout, csnr_db)
    profile, recording = THROUGH[radio](air, sent, csnr_db)
    out.mkdir(parents=True, exist_ok=True)
    save_profile(profile, out / "profile.toml")
    truth = dict(zip(ids, images[picked], strict=True))
    by_method: dict[str, object] = {}
    result = {
        "radio": radio,
        "antennas": profile.num_antennas,
        "air": air,
        "csnr_db": csnr_db,
        "images": num_images,
        "profile": profile.digest,
        "methods": by_method,
    }
    for method in methods:
        decoded, seconds = {}, {}
        for name, calibration in (("without", None), ("with", profile)):
            began = time.perf_counter()
            found = decode_recording(
                recording, layout, bundle, [method], DecodeSettings(seed=1, calibration=calibration)
            )
            decoded[name] = {image.id: image for image in found.images}
            seconds[name] = (time.perf_counter() - began) / num_images
        both = [i for i in ids if i in decoded["without"] and i in decoded["with"]]
        shown = {n: torch.stack([torch.from_numpy(d[i].image) for i in both]) for n, d in decoded.items()}
        scores = paired(
            shown["without"],
            shown["with"],
            torch.stack([truth[i] for i in both]),
            torch.tensor([decoded["with"][i].frame_number for i in both]),
            load_realism(bundle.path),
        )
        by_method[method] = {**scores, "seconds_per_image": seconds}
        print(method, json.dumps(by_method[method]), flush=True)
        write_json(out / "result.json", result)
    return result


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--csnr-db", type=float, default=20.0)
    parser.add_argument("--method", action="append", dest="methods")
    parser.add_argument("--air", default="echoes", help=f"{', '.join(AIRS)}, or options of a sim: radio")
    parser.add_argument("--layout", default="paper")
    parser.add_argument("--radio", default="sim", choices=sorted(THROUGH))
    given = parser.parse_args()
    torch.set_num_threads(1)
    air = str(AIRS.get(given.air, given.air))
    run(
        given.out,
        given.images,
        given.csnr_db,
        given.methods or ["jscc", "hifi", "blind"],
        air,
        given.layout,
        given.radio,
    )


if __name__ == "__main__":
    main()
