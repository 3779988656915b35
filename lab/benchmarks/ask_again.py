"""Measure what asking for symbols again gains over sending everything twice, at equal channel uses.

    python -m lab.benchmarks.ask_again --bundle fashion --seeds 8 --out benchmarks/ask-again/fashion.json
    python -m lab.benchmarks.ask_again --bundle photo --seeds 2 --out benchmarks/ask-again/photo.json

All held-out images of a bundle go over 8-tap block fading, every frame of every transmission through taps and noise of
its own. A policy asks some rounds for a share of all symbols, or for all symbols of the worst images. `flat` is the
bound: everything sent once with twice the power over a channel that does not fade. A symbol's squared error is a convex
function of the SNR that its receptions have together, and however receptions are placed, two for each symbol have
twice the SNR on average; no placement does better than all symbols having that.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lab.evaluation.outcomes import image_psnr_db
from lab.evaluation.statistics import mean_and_error
from lab.training.photographs import middle_squares
from receiver.again import AskingReceiver
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings
from receiver.images.files import load_images
from receiver.results import DecodeResult
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.files import write_json
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from sdr.repeat_request import RepeatRequest
from transmitter.again import Repeater
from transmitter.encode import Transmission, encode_images

#: PSNR below which an image counts as failed.
OUTAGE_PSNR_DB = 17.0
_SIDE, _LEAD_SAMPLES = 256, 1000


@dataclass(frozen=True)
class Policy:
    """How a receiver asks.

    Attributes:
        name: of the policy.
        rounds: of asking.
        share: of all symbols, that a round asks for.
        whole_images: whether all symbols of the worst images are asked for.
    """

    name: str
    rounds: int
    share: float = 1.0
    whole_images: bool = False


TWICE = Policy("everything twice", 1)
POLICIES = (
    TWICE,
    Policy("worst images, 2 x 50 %", 2, 0.5, whole_images=True),
    Policy("symbols, 2 x 50 %", 2, 0.5),
    Policy("symbols, 4 x 25 %", 4, 0.25),
)
ONCE, FLAT = "once", "flat"


@dataclass(frozen=True)
class AskedPoint:
    """What a policy came to after a round, over one draw of all channels.

    Attributes:
        policy: its name.
        seed: of channels and noise.
        round: 0 for the first transmission.
        channel_uses: symbols sent so far, over those of the first transmission.
        psnr_db: of every image.
        request_bytes: length of the last request as JSON.
    """

    policy: str
    seed: int
    round: int
    channel_uses: float
    psnr_db: tuple[float, ...]
    request_bytes: int


@dataclass(frozen=True, eq=False)
class Setting:
    """What is sent, and how noisy the air is.

    Attributes:
        bundle: the models.
        layout: of the frames.
        images: (n, C, H, W).
        transmission: the images encoded.
        method: that decodes.
        csnr_db: channel SNR.
    """

    bundle: Bundle
    layout: FrameLayout
    images: torch.Tensor
    transmission: Transmission
    method: str
    csnr_db: float

    @classmethod
    def of(cls, name: str, count: int | None, method: str, csnr_db: float) -> Setting:
        """Return the setting of a shipped bundle's first `count` held-out images, all by default."""
        bundle = load_bundle(name)
        _, images = load_images(bundle.samples, bundle.accepted_shape)
        if name != "fashion":
            images = middle_squares(images, _SIDE)
        images = torch.stack(list(images)[:count])
        layout = load_layout("paper" if name == "fashion" else "photo")
        codec = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).codec
        ids = [f"i{index}" for index in range(len(images))]
        return cls(bundle, layout, images, encode_images(ids, images, codec, layout, csnr_db), method, csnr_db)

    def received(self, frames: Sequence[FrameContent], seed: Sequence[int], *, flat: bool = False) -> Recording:
        """Return what arrives of frames; with `flat`, twice the power and no fading."""
        rng = np.random.default_rng(seed)
        sent = modulate_stream(frames, self.layout, 0)
        if not flat:
            fading = Impairments(taps=8, block_samples=self.layout.frame_samples)
            sent = fading.apply(sent, self.layout.rate_sps, rng).samples
        quiet = np.zeros(_LEAD_SAMPLES, np.complex64)
        noise_var = noise_var_for_csnr(self.layout, self.csnr_db) / (2 if flat else 1)
        return Recording(apply_awgn(np.concatenate([quiet, sent, quiet]), noise_var, rng))

    def psnr_db(self, result: DecodeResult) -> tuple[float, ...]:
        """Return the PSNR of every image; one that was not decoded is taken to be grey."""
        decoded = {image.id: torch.from_numpy(image.image) for image in result.images}
        return tuple(
            image_psnr_db(decoded.get(f"i{index}", torch.full_like(image, 0.5)), image)
            for index, image in enumerate(self.images)
        )


def measure(setting: Setting, seed: int) -> list[AskedPoint]:
    """Return what every policy comes to over one draw of the first transmission's channels."""
    points = []
    for flat in (True, False):
        receiver = AskingReceiver(setting.layout, setting.bundle, [setting.method], DecodeSettings(seed=seed))
        receiver.hear(setting.received(setting.transmission.frames, [seed, 0], flat=flat))
        psnr_db = setting.psnr_db(receiver.result)
        points.append(AskedPoint(FLAT if flat else ONCE, seed, 0, 2.0 if flat else 1.0, psnr_db, 0))
    for index, policy in enumerate(POLICIES):
        points += follow(setting, policy, copy.copy(receiver), [seed, index])
    return points


def follow(setting: Setting, policy: Policy, receiver: AskingReceiver, seed: Sequence[int]) -> list[AskedPoint]:
    """Return what a policy comes to, round by round.

    Args:
        setting: what was sent.
        policy: that asks.
        receiver: that has heard the first transmission.
        seed: of what comes behind it, its first number that of the draw.
    """
    repeater, points = Repeater(setting.transmission), []
    first = repeater.channel_uses
    for number in range(1, policy.rounds + 1):
        request = receiver.ask(policy.share, whole_images=policy.whole_images).to_json()
        frames = repeater.answer(RepeatRequest.from_json(request))
        receiver.hear(setting.received(frames, [*seed, number]))
        uses, psnr_db = repeater.channel_uses / first, setting.psnr_db(receiver.result)
        points.append(AskedPoint(policy.name, seed[0], number, uses, psnr_db, len(request)))
    return points


def summarise(points: Sequence[AskedPoint]) -> list[dict[str, object]]:
    """Return a row for each policy and round: means, the differences to `TWICE` with standard errors over seeds.

    `delta_se_images_db` is the standard error over images, of each of which the mean over seeds is taken.
    """
    reference = _by_seed(points, TWICE.name, TWICE.rounds)
    rows = []
    for policy, number in dict.fromkeys((point.policy, point.round) for point in points):
        own = _by_seed(points, policy, number)
        psnr_db = np.array([point.psnr_db for point in own.values()])
        row: dict[str, object] = {
            "policy": policy,
            "round": number,
            "seeds": len(own),
            "images": psnr_db.shape[1],
            "channel_uses": float(np.mean([point.channel_uses for point in own.values()])),
            "psnr_db": float(psnr_db.mean()),
            "outage": float(np.mean(psnr_db < OUTAGE_PSNR_DB)),
            "request_bytes": float(np.mean([point.request_bytes for point in own.values()])),
        }
        shared = [seed for seed in own if seed in reference]
        if shared:
            pairs = np.array([np.array(own[seed].psnr_db) - reference[seed].psnr_db for seed in shared])
            low = np.array(
                [_outage(own[seed].psnr_db) - _outage(reference[seed].psnr_db) for seed in shared], dtype=float
            )
            row["delta_db"], row["delta_se_db"] = mean_and_error(pairs.mean(axis=1))
            _, row["delta_se_images_db"] = mean_and_error(pairs.mean(axis=0))
            row["outage_delta"], row["outage_delta_se"] = mean_and_error(low)
        rows.append(row)
    return rows


def _by_seed(points: Sequence[AskedPoint], policy: str, number: int) -> dict[int, AskedPoint]:
    return {point.seed: point for point in points if (point.policy, point.round) == (policy, number)}


def _outage(psnr_db: Sequence[float]) -> float:
    return float(np.mean(np.array(psnr_db) < OUTAGE_PSNR_DB))


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="fashion", choices=["fashion", "photo", "photo24"])
    parser.add_argument("--images", type=int)
    parser.add_argument("--method", default="jscc")
    parser.add_argument("--csnr-db", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/ask-again.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.of(given.bundle, given.images, given.method, given.csnr_db)
    points: list[AskedPoint] = []
    rows: list[dict[str, object]] = []
    answer = {key: value for key, value in vars(given).items() if key != "out"}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        points += measure(setting, seed)
        rows = summarise(points)
        write_json(given.out, {**answer, "summary": rows, "points": [asdict(point) for point in points]})
        print(
            json.dumps({"seed": seed, **{f"{r['policy']}/{r['round']}": r.get("delta_db") for r in rows}}), flush=True
        )
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
