"""How well photographs of any size come through: with pilots, and blindly, over fading with noise.

Every photograph is sent several times, each time over a channel of its own, through the whole receiver. Values are
averaged per photograph first, so that the error bars are over photographs, which is what a stranger's photograph is
drawn from, and not over repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lab.evaluation.channel_truth import channel_distance
from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db
from lab.evaluation.realism import load_realism, noise_null
from lab.evaluation.statistics import wilson_interval
from lab.evaluation.summary import CHANNEL_FOUND
from lab.experiments.link import send
from lab.experiments.plan import Sweep
from lab.training.channel import FADING
from receiver.bundles.bundle import Bundle
from receiver.codecs.codec import Codec
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_image_folder, save_image
from sdr.errors import ConfigError, InputError
from sdr.header import image_id_from_stem
from sdr.layout import load_layout
from sdr.progress import Progress
from transmitter.refine import encode_refined

#: What is measured: layout and method. The blind one gets no pilots at all.
RECEIVERS = (("photo", "jscc"), ("photo-blind", "blind-jscc"))
#: One-shot estimates that a prior must reach before it counts: PSNR in dB by step.
PRIOR_GATES_DB = {60: 28.0, 110: 25.5}


@dataclass(frozen=True)
class PhotoRow:
    """One method at one channel SNR.

    Attributes:
        channel: "awgn" or "fading". layout, method: what sent and decoded.
        photographs, frames: sample sizes; missing: photographs times repetitions that were not decoded.
        psnr_db, ms_ssim: means over photographs, with standard errors over photographs.
        sharpness: energy of the Laplacian over that of the original, 1 for a right one, less for a blurred one (the
            patch distance tells noise from photographs, but hardly tells blurred ones).
        realism: patch distance of the first repetition's images; realism_null: of the pilot decoder's with noise of as
            large an error (None for it itself).
        channel_found: share of frames with d_h < 0.1, with its 95 % interval; None over white noise.
        seconds: per photograph.
    """

    channel: str
    layout: str
    method: str
    csnr_db: float
    photographs: int
    frames: int
    missing: int
    psnr_db: float
    psnr_se_db: float
    ms_ssim: float
    ms_ssim_se: float
    sharpness: float
    sharpness_se: float
    realism: float
    realism_se: float
    realism_null: float | None
    channel_distance: float | None
    channel_found: float | None
    channel_found_low: float | None
    channel_found_high: float | None
    seconds: float


@torch.no_grad()
def mean_power(codec: Codec, images: Tensor, csnr_db: float) -> float:
    """Share of the symbols' power that is their constant mean, over all blocks of photographs (n, 3, H, W), as sent."""
    bound = codec.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    sent = torch.cat([bound.encode(image[None], csnr_db)[:, bound.words.places] for image in images])
    return float(sent.mean(dim=(0, 1)).abs().square().mean())


def measure(
    bundle: Bundle,
    ids: Sequence[str],
    images: Tensor,
    layout_name: str,
    method: str,
    *,
    channel: str,
    csnr_db: float,
    repetitions: int,
    seed: int,
    z: Tensor | None = None,
    plain: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[PhotoRow, Tensor]:
    """Send every photograph (n, 3, H, W) `repetitions` times and decode it.

    Args:
        ids: n names. channel: "awgn" or "fading".
        z: (n, K) symbols, where they are not to be as encoded. plain: the pilot decoder's images, for the noise null.

    Returns:
        the row, and the images (n, 3, H, W) of the first repetition that arrived (grey where none did).

    Raises:
        InputError: photographs too small for MS-SSIM, or none arrived.
    """
    if min(images.shape[2:]) < MS_SSIM_MIN_SIDE:
        raise InputError(f"Photographs must have sides of {MS_SSIM_MIN_SIDE} pixels here, got {images.shape[2:]}.")
    layout = load_layout(layout_name)
    models = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    sweep = Sweep(
        "photo",
        (csnr_db,),
        (method,),
        channel=FADING if channel == "fading" else "",
        layout=layout_name,
    )
    (condition,) = sweep.all_conditions
    psnr: dict[str, list[float]] = {name: [] for name in ids}
    similarity: dict[str, list[float]] = {name: [] for name in ids}
    sharpness: dict[str, list[float]] = {name: [] for name in ids}
    distances: list[float] = []
    seconds: list[float] = []
    first: dict[str, Tensor] = {}
    truth = dict(zip(ids, images, strict=True))
    for repetition in range(repetitions):
        if progress is not None:
            progress(f"{channel} {csnr_db:g} dB, {method}", repetition, repetitions)
        sent = send(replace(sweep, seed=seed + repetition), models.codec, layout, ids, images, condition, z=z)
        result = decode_recording(sent.recording, layout, models, [method], DecodeSettings(seed=seed + repetition))
        frames = {frame.start: frame for frame in result.synced}
        for image in result.images:
            if image.id not in truth:
                continue
            decoded = torch.from_numpy(image.image)
            first.setdefault(image.id, decoded)
            pair = decoded[None], truth[image.id][None]
            psnr[image.id].append(float(psnr_db(*pair)))
            similarity[image.id].append(float(ms_ssim(*pair)))
            sharpness[image.id].append(laplacian_energy(decoded) / laplacian_energy(truth[image.id]))
            seconds.append(image.seconds)
            if sent.truth is not None:
                distances.append(channel_distance(image.taps, frames[image.start_sample], sent.truth, layout))
    arrived = [name for name in ids if psnr[name]]
    if len(arrived) < 2:
        raise InputError(f"{len(arrived)} of {len(ids)} photographs arrived at {csnr_db:g} dB. Raise the channel SNR.")
    pictures = torch.stack([first.get(name, torch.full_like(truth[name], 0.5)) for name in ids])
    realism = load_realism(bundle.path)
    score = realism.score(pictures, torch.Generator().manual_seed(seed))
    null = None
    if plain is not None:
        null = realism(noise_null(plain, images, pictures, torch.Generator().manual_seed(seed)))
    found = sum(distance < CHANNEL_FOUND for distance in distances)
    low, high = wilson_interval(found, len(distances)) if distances else (None, None)

    def over_photographs(values: Mapping[str, list[float]]) -> tuple[float, float]:
        means = torch.tensor([sum(values[name]) / len(values[name]) for name in arrived])
        return float(means.mean()), float(means.std() / math.sqrt(len(means)))

    psnr_mean, psnr_se = over_photographs(psnr)
    ssim_mean, ssim_se = over_photographs(similarity)
    sharp_mean, sharp_se = over_photographs(sharpness)
    row = PhotoRow(
        channel=channel,
        layout=layout_name,
        method=method,
        csnr_db=csnr_db,
        photographs=len(ids),
        frames=len(seconds),
        missing=len(ids) * repetitions - len(seconds),
        psnr_db=psnr_mean,
        psnr_se_db=psnr_se,
        ms_ssim=ssim_mean,
        ms_ssim_se=ssim_se,
        sharpness=sharp_mean,
        sharpness_se=sharp_se,
        realism=score.value,
        realism_se=score.std_error,
        realism_null=null,
        channel_distance=sum(distances) / len(distances) if distances else None,
        channel_found=found / len(distances) if distances else None,
        channel_found_low=low,
        channel_found_high=high,
        seconds=sum(seconds) / len(seconds),
    )
    return row, pictures


def laplacian_energy(image: Tensor) -> float:
    """Mean square of the 5-point Laplacian of (C, H, W)."""
    inner = image[:, 1:-1, 1:-1]
    around = image[:, :-2, 1:-1] + image[:, 2:, 1:-1] + image[:, 1:-1, :-2] + image[:, 1:-1, 2:]
    return float((around - 4 * inner).square().mean())


@dataclass(frozen=True)
class PhotoResult:
    """Attributes: rows; pictures by method (n, 3, H, W) at the highest SNR over fading; mean_power of the symbols."""

    rows: list[PhotoRow]
    pictures: dict[str, Tensor]
    mean_power: float


def run(
    bundle: Bundle,
    ids: Sequence[str],
    images: Tensor,
    *,
    csnr_db: Sequence[float],
    repetitions: int,
    seed: int,
    refine_steps: int = 0,
    progress: Progress | None = None,
    finished: Callable[[PhotoRow], None] = lambda row: None,
) -> PhotoResult:
    """White noise with pilots, fading with and without pilots. `finished` is called with each row when it is there."""
    rows: list[PhotoRow] = []
    pictures: dict[str, Tensor] = {}

    def add(row: PhotoRow) -> None:
        rows.append(row)
        finished(row)

    codec = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).codec
    for told in csnr_db:
        z = encode_refined(codec, images, told, refine_steps)
        common = {"csnr_db": told, "seed": seed, "z": z, "progress": progress}
        add(measure(bundle, ids, images, "photo", "jscc", channel="awgn", repetitions=1, **common)[0])
        plain: Tensor | None = None
        for layout, method in RECEIVERS:
            row, found = measure(
                bundle, ids, images, layout, method, channel="fading", repetitions=repetitions, plain=plain, **common
            )
            plain = found if plain is None else plain
            add(row)
            if told == max(csnr_db):
                pictures[method] = found
    return PhotoResult(rows, pictures, mean_power(bundle.codec, images, max(csnr_db)))


def one_shot(bundle: Bundle, images: Tensor, seed: int) -> dict[int, dict[str, float]]:
    """What the prior's x0_hat reaches on photographs (n, 3, H, W), and what it must, by step."""
    denoiser = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).required_denoiser
    generator = torch.Generator().manual_seed(seed)
    reached = {}
    for step, needed_db in PRIOR_GATES_DB.items():
        t = torch.full((1,), step)
        values = []
        for image in images.split(1):
            x_t = denoiser.schedule.diffuse(2 * image - 1, t, torch.randn(image.shape, generator=generator))
            with torch.no_grad():
                values.append(psnr_db(((denoiser(x_t, t) + 1) / 2).clamp(0, 1), image))
        found = torch.cat(values)
        error = float(found.std() / math.sqrt(len(found)))
        reached[step] = {"psnr_db": float(found.mean()), "psnr_se_db": error, "needed_db": needed_db}
    return reached


def load_photographs(folder: Path, bundle: Bundle) -> tuple[list[str], Tensor]:
    """Ids and photographs (n, 3, H, W) of a folder, all of one size.

    Raises:
        InputError: they differ in size. ConfigError: the bundle is not for any size.
    """
    if not bundle.any_size:
        raise ConfigError(f"Bundle '{bundle.name}' takes one size of images only. Give one for photographs.")
    stems, images = load_image_folder(folder, bundle.accepted_shape)
    return [image_id_from_stem(stem) for stem in stems], images


def write_grid(path: Path, originals: Tensor, pictures: Mapping[str, Tensor]) -> None:
    """A row per photograph: the original, then each method's picture."""
    columns = [originals, *pictures.values()]
    rows = [torch.cat([column[index] for column in columns], dim=2) for index in range(len(originals))]
    save_image(path, torch.cat(rows, dim=1))
