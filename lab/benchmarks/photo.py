"""Measure how well photographs of any size come through: with pilots, and blindly, over fading with noise.

Every photograph is sent several times, each time over a channel of its own, through the whole receiver. Values are
averaged per photograph first, so that the error bars are over photographs, which is what a stranger's photograph is
drawn from, and not over repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.evaluation.channel_truth import channel_distance
from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db
from lab.evaluation.perceptual.registry import SET_METRICS, values_by_metric
from lab.evaluation.realism import load_realism, noise_null
from lab.evaluation.statistics import mean_and_error, wilson_interval
from lab.evaluation.summary import CHANNEL_FOUND
from lab.experiments.link import send
from lab.experiments.plan import Sweep
from lab.reports.figures import new_figure
from lab.training.channel import FADING
from receiver.bundles.bundle import Bundle
from receiver.codecs.codec import Codec
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_image_folder, save_image
from receiver.samplers import METHODS
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError, InputError
from sdr.header import image_id_from_stem
from sdr.layout import load_layout
from sdr.progress import Progress, silent
from transmitter.refine import encode_refined

#: Layouts of methods with pilots and of blind ones, which get no pilots at all.
PILOT_LAYOUT, BLIND_LAYOUT = "photo", "photo-blind"
PLAIN = "jscc"
"""The method that the noise null is made from."""

METHODS_MEASURED = (PLAIN, "bp", "blind-jscc", "blind-bp")
"""Methods measured where none are named: the plain decoder and the sampler that photographs are decoded by."""
#: One-shot estimates that a prior must reach before it counts: PSNR in dB by step.
PRIOR_GATES_DB = {60: 28.0, 110: 25.5}


@dataclass(frozen=True)
class PhotoRow:
    """One method at one channel SNR.

    Attributes:
        channel: "awgn" or "fading".
        layout: of the frames sent.
        method: that decoded.
        csnr_db: channel SNR, dB.
        photographs: sent.
        frames: photographs times repetitions that were decoded.
        missing: photographs times repetitions that were not decoded.
        psnr_db: mean over photographs.
        psnr_se_db: its standard error over photographs.
        ms_ssim: mean over photographs.
        ms_ssim_se: its standard error over photographs.
        image_metrics: mean over photographs of the first repetition, by `IMAGE_METRICS` whose files are there.
        image_metrics_se: their standard errors over photographs.
        gains: by metric, what it is above that of the plain decoder's images of the same photographs, in the mean; none
            for that decoder itself.
        gains_se: their standard errors.
        fd_vgg16: distance of the first repetition's images from the originals; None without the network's file.
        residual: normalised, mean over photographs: 1 for draws of the posterior, less where noise is fitted.
        evaluations: of the prior per photograph.
        realism: patch distance of the first repetition's images.
        realism_se: its standard error.
        realism_null: of the pilot decoder's images with noise of as large an error; None for that decoder itself.
        channel_distance: mean of d_h; None where the true channel is not known.
        channel_found: share of frames with d_h < 0.1; None where the true channel is not known.
        channel_found_low: lower end of its 95 % interval.
        channel_found_high: upper end of it.
        seconds_per_image: of decoding.
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
    image_metrics: Mapping[str, float]
    image_metrics_se: Mapping[str, float]
    gains: Mapping[str, float]
    gains_se: Mapping[str, float]
    fd_vgg16: float | None
    residual: float
    evaluations: int
    realism: float
    realism_se: float
    realism_null: float | None
    channel_distance: float | None
    channel_found: float | None
    channel_found_low: float | None
    channel_found_high: float | None
    seconds_per_image: float

    def flat(self) -> dict[str, object]:
        """Return all values by name, every metric under its own."""
        row = asdict(self)
        for group, suffix in (("image_metrics", ""), ("gains", "_gain")):
            means, errors = row.pop(group), row.pop(f"{group}_se")
            row |= {f"{name}{suffix}": mean for name, mean in means.items()}
            row |= {f"{name}{suffix}_se": error for name, error in errors.items()}
        return row


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one method made of the photographs.

    Attributes:
        pictures: (n, 3, H, W) of the first repetition that arrived; grey where none did.
        values: metrics of each that arrived, by metric and id: PSNR in the mean over repetitions, others of `pictures`.
    """

    pictures: Tensor
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Trial:
    """One receiver over one channel.

    Attributes:
        channel: "awgn" or "fading".
        layout: of the frames.
        method: that decodes.
        csnr_db: channel SNR, dB.
        repetitions: channels that every photograph is sent over.
        seed: of everything random.
    """

    channel: str
    layout: str
    method: str
    csnr_db: float
    repetitions: int
    seed: int


@torch.no_grad()
def mean_power(codec: Codec, images: Tensor, csnr_db: float) -> float:
    """Return the share of the symbols' power that is their constant mean, over all blocks of (n, 3, H, W)."""
    bound = codec.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    sent = torch.cat([bound.encode(image[None], csnr_db)[:, bound.words.places] for image in images])
    return float(sent.mean(dim=(0, 1)).abs().square().mean())


@dataclass
class Collected:
    """What came of the repetitions.

    Attributes:
        psnr_db: of every photograph, by its id; repetitions that did not arrive are missing.
        ms_ssim: likewise.
        residual: likewise.
        first: the first image that arrived of every photograph, (3, H, W).
        distances: d_h of every image, where the true channel is known.
        seconds: of decoding every image.
    """

    psnr_db: dict[str, list[float]]
    ms_ssim: dict[str, list[float]]
    residual: dict[str, list[float]]
    first: dict[str, Tensor] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def received(
    bundle: Bundle,
    ids: Sequence[str],
    images: Tensor,
    trial: Trial,
    z: Tensor | None = None,
    progress: Progress = silent,
) -> Collected:
    """Send every photograph over each channel, decode it and compare it; see `measure` for the arguments."""
    layout = load_layout(trial.layout)
    models = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    channel = FADING if trial.channel == "fading" else ""
    sweep = Sweep("photo", (trial.csnr_db,), (trial.method,), channel=channel, layout=trial.layout)
    (condition,) = sweep.all_conditions
    truth = dict(zip(ids, images, strict=True))
    collected = Collected({name: [] for name in ids}, {name: [] for name in ids}, {name: [] for name in ids})
    for repetition in range(trial.repetitions):
        progress(f"{trial.channel} {trial.csnr_db:g} dB, {trial.method}", repetition, trial.repetitions)
        seed = trial.seed + repetition
        sent = send(replace(sweep, seed=seed), models.codec, layout, ids, images, condition, z=z)
        result = decode_recording(sent.recording, layout, models, [trial.method], DecodeSettings(seed=seed))
        frames = {frame.start: frame for frame in result.synced}
        for image in result.images:
            if image.id not in truth:
                continue
            decoded = torch.from_numpy(image.image)
            collected.first.setdefault(image.id, decoded)
            pair = decoded[None], truth[image.id][None]
            collected.psnr_db[image.id].append(float(psnr_db(*pair)))
            collected.ms_ssim[image.id].append(float(ms_ssim(*pair)))
            collected.residual[image.id].append(image.residual)
            collected.seconds.append(image.seconds)
            if sent.truth is not None:
                distance = channel_distance(image.taps, frames[image.start_sample], sent.truth, layout)
                collected.distances.append(distance)
    return collected


def _by_photograph(values: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the mean over repetitions for every photograph that arrived."""
    return {name: sum(own) / len(own) for name, own in values.items() if own}


def _over_photographs(values: Mapping[str, list[float]]) -> tuple[float, float]:
    """Return mean and standard error over the photographs that arrived, the repetitions of each averaged first."""
    return mean_and_error(list(_by_photograph(values).values()))


#: Metrics that `PhotoRow` has values of over all repetitions.
_OVER_REPETITIONS = ("psnr_db", "ssim", "ms_ssim")


def _perceptual(ids: Sequence[str], pictures: Tensor, originals: Tensor) -> dict[str, dict[str, float]]:
    """Return the metrics of images (n, 3, H, W) by metric and id, of those that have a value."""
    return {
        name: {own: value for own, value in zip(ids, found.tolist(), strict=True) if not math.isnan(value)}
        for name, found in values_by_metric(pictures, originals, left_out=_OVER_REPETITIONS).items()
    }


def _gains(values: Mapping[str, Mapping[str, float]], plain: Decoded | None) -> dict[str, tuple[float, float]]:
    """Return by metric how far its values are above the plain decoder's, paired, and the standard error."""
    if plain is None:
        return {}
    gains = {}
    for name, found in values.items():
        before = plain.values[name]
        gains[name] = mean_and_error([value - before[own] for own, value in found.items() if own in before])
    return gains


def measure(
    bundle: Bundle,
    ids: Sequence[str],
    images: Tensor,
    trial: Trial,
    *,
    z: Tensor | None = None,
    plain: Decoded | None = None,
    progress: Progress = silent,
) -> tuple[PhotoRow, Decoded]:
    """Send every photograph several times and decode it.

    Args:
        bundle: models for images of any size.
        ids: n names.
        images: (n, 3, H, W).
        trial: channel, receiver and repetitions.
        z: (n, K) symbols, where they are not to be as encoded.
        plain: what the plain decoder made of them, for the noise null and for paired differences.
        progress: called with the repetitions that are done.

    Returns:
        the row, and what it is of.

    Raises:
        InputError: photographs too small for MS-SSIM, or none arrived.
    """
    if min(images.shape[2:]) < MS_SSIM_MIN_SIDE:
        raise InputError(f"Photographs must have sides of {MS_SSIM_MIN_SIDE} pixels here, got {images.shape[2:]}.")
    collected = received(bundle, ids, images, trial, z, progress)
    arrived = len(collected.first)
    if arrived < 2:
        raise InputError(f"{arrived} of {len(ids)} photographs arrived at {trial.csnr_db:g} dB. Raise the channel SNR.")
    grey = torch.full_like(images[0], 0.5)
    pictures = torch.stack([collected.first.get(name, grey) for name in ids])
    realism = load_realism(bundle.path)
    score = realism.score(pictures, torch.Generator().manual_seed(trial.seed))
    null = None
    if plain is not None:
        null = realism(noise_null(plain.pictures, images, pictures, torch.Generator().manual_seed(trial.seed)))
    distances, decoded = collected.distances, len(collected.seconds)
    found = sum(distance < CHANNEL_FOUND for distance in distances)
    low, high = wilson_interval(found, len(distances)) if distances else (None, None)
    psnr, psnr_se = _over_photographs(collected.psnr_db)
    similarity, similarity_se = _over_photographs(collected.ms_ssim)
    kept = [index for index, name in enumerate(ids) if name in collected.first]
    perceptual = _perceptual([ids[index] for index in kept], pictures[kept], images[kept])
    scores = {name: mean_and_error(list(values.values())) for name, values in perceptual.items()}
    values = {"psnr_db": _by_photograph(collected.psnr_db), **perceptual}
    gains = _gains(values, plain)
    distance = SET_METRICS["fd_vgg16"]
    fd_vgg16 = None
    if distance.available:
        generator = torch.Generator().manual_seed(trial.seed)
        fd_vgg16 = distance(pictures[kept], images[kept], generator, paired=True).value
    variant = method_variant(trial.method)
    row = PhotoRow(
        channel=trial.channel,
        layout=trial.layout,
        method=trial.method,
        csnr_db=trial.csnr_db,
        photographs=len(ids),
        frames=decoded,
        missing=len(ids) * trial.repetitions - decoded,
        psnr_db=psnr,
        psnr_se_db=psnr_se,
        ms_ssim=similarity,
        ms_ssim_se=similarity_se,
        image_metrics={name: mean for name, (mean, _) in scores.items()},
        image_metrics_se={name: error for name, (_, error) in scores.items()},
        gains={name: mean for name, (mean, _) in gains.items()},
        gains_se={name: error for name, (_, error) in gains.items()},
        fd_vgg16=fd_vgg16,
        residual=_over_photographs(collected.residual)[0],
        evaluations=variant.settings.evaluations if METHODS[variant.method].needs_denoiser else 0,
        realism=score.value,
        realism_se=score.std_error,
        realism_null=null,
        channel_distance=sum(distances) / len(distances) if distances else None,
        channel_found=found / len(distances) if distances else None,
        channel_found_low=low,
        channel_found_high=high,
        seconds_per_image=sum(collected.seconds) / decoded,
    )
    return row, Decoded(pictures, values)


@dataclass(frozen=True)
class PhotoSettings:
    """What is measured of a bundle.

    Attributes:
        csnr_db: channel SNRs, dB.
        repetitions: channels that every photograph is sent over.
        seed: of everything random.
        refine_steps: in which the transmitter refines the symbols.
        methods: that decode, see `receiver.samplers.variants.method_variant`; the blind ones over fading only.
    """

    csnr_db: tuple[float, ...] = (0.0, 10.0)
    repetitions: int = 10
    seed: int = 0
    refine_steps: int = 0
    methods: tuple[str, ...] = METHODS_MEASURED


@dataclass(frozen=True, eq=False)
class PhotoResult:
    """What was measured.

    Attributes:
        rows: one per channel SNR, channel and receiver.
        pictures: (n, 3, H, W) by method, at the highest SNR over fading.
        mean_power: of the symbols, see `mean_power`.
    """

    rows: tuple[PhotoRow, ...]
    pictures: Mapping[str, Tensor]
    mean_power: float


def run(
    bundle: Bundle,
    ids: Sequence[str],
    images: Tensor,
    settings: PhotoSettings,
    *,
    progress: Progress = silent,
    finished: Callable[[PhotoRow], None] = lambda row: None,
) -> PhotoResult:
    """Measure white noise with pilots, and fading with and without pilots.

    Args:
        bundle: models for images of any size.
        ids: n names.
        images: (n, 3, H, W).
        settings: channel SNRs, repetitions and the like.
        progress: called as it goes on.
        finished: called with each row when it is there.
    """
    rows: list[PhotoRow] = []
    pictures: dict[str, Tensor] = {}
    codec = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).codec
    for csnr_db in settings.csnr_db:
        z = encode_refined(codec, images, csnr_db, settings.refine_steps)
        trials = _trials(settings, csnr_db)
        plain: dict[str, Decoded] = {}
        for trial in trials:
            row, found = measure(bundle, ids, images, trial, z=z, plain=plain.get(trial.channel), progress=progress)
            rows.append(row)
            finished(row)
            if trial.method == PLAIN:
                plain[trial.channel] = found
            if trial.channel == "fading" and csnr_db == max(settings.csnr_db):
                pictures[trial.method] = found.pictures
    return PhotoResult(tuple(rows), pictures, mean_power(bundle.codec, images, max(settings.csnr_db)))


def _trials(settings: PhotoSettings, csnr_db: float) -> list[Trial]:
    """Return what is measured at one channel SNR, the plain decoder first."""
    ordered = sorted(settings.methods, key=lambda method: method != PLAIN)
    blind = [method for method in ordered if method_variant(method).blind]
    with_pilots = [method for method in ordered if method not in blind]
    awgn = [Trial("awgn", PILOT_LAYOUT, method, csnr_db, 1, settings.seed) for method in with_pilots]
    fading = [
        Trial("fading", layout, method, csnr_db, settings.repetitions, settings.seed)
        for layout, methods in ((PILOT_LAYOUT, with_pilots), (BLIND_LAYOUT, blind))
        for method in methods
    ]
    return awgn + fading


def one_shot(bundle: Bundle, images: Tensor, seed: int) -> dict[int, dict[str, float]]:
    """Return what the prior's x0_hat reaches on photographs (n, 3, H, W), and what it must, by step."""
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
        mean, error = mean_and_error(torch.cat(values))
        reached[step] = {"psnr_db": mean, "psnr_se_db": error, "needed_db": needed_db}
    return reached


def load_photographs(folder: Path, bundle: Bundle) -> tuple[list[str], Tensor]:
    """Return ids and photographs (n, 3, H, W) of a folder, all of one size.

    Raises:
        InputError: they differ in size.
        ConfigError: the bundle is not for any size.
    """
    if not bundle.any_size:
        raise ConfigError(f"Bundle '{bundle.name}' takes one size of images only. Give one for photographs.")
    stems, images = load_image_folder(folder, bundle.accepted_shape)
    return [image_id_from_stem(stem) for stem in stems], images


def write_grid(path: Path, originals: Tensor, pictures: Mapping[str, Tensor]) -> None:
    """Write a picture with a row per photograph: the original, then each method's."""
    columns = [originals, *pictures.values()]
    rows = [torch.cat([column[index] for column in columns], dim=2) for index in range(len(originals))]
    save_image(path, torch.cat(rows, dim=1))


def trade_off_figure(rows: Sequence[PhotoRow]) -> Figure:
    """Draw detail and likeness against the PSNR gained, both beside the plain decoder's: the nearer, or the livelier.

    One column per channel and channel SNR; bars are standard errors of the paired differences.

    Args:
        rows: of several methods, the plain decoder among them.
    """
    trials = list(dict.fromkeys((row.csnr_db, row.channel) for row in rows))
    named = {"laplacian": "energy of the Laplacian", "lpips_alex": "LPIPS-alex", "lpips_vgg": "LPIPS-vgg"}
    metrics = [name for name in named if any(name in row.gains for row in rows)]
    colours = {method: f"C{index}" for index, method in enumerate(dict.fromkeys(row.method for row in rows))}
    figure = new_figure(3.6 * len(trials), 2.8 * max(1, len(metrics)))
    axes = figure.subplots(max(1, len(metrics)), len(trials), squeeze=False, sharex=True, sharey="row")
    for line, metric in zip(axes, metrics, strict=False):
        for axis, trial in zip(line, trials, strict=True):
            axis.plot(0, 0, "+", color="black", ms=10)
            for row in rows:
                if (row.csnr_db, row.channel) != trial or metric not in row.gains:
                    continue
                axis.errorbar(
                    row.gains["psnr_db"],
                    row.gains[metric],
                    xerr=row.gains_se["psnr_db"],
                    yerr=row.gains_se[metric],
                    fmt="o" if "blind" not in row.method else "s",
                    ms=4,
                    color=colours[row.method],
                    label=row.method,
                )
            axis.grid(alpha=0.3)
        line[0].set_ylabel(f"{named[metric]}, difference")
    for axis, (csnr_db, channel) in zip(axes[0], trials, strict=True):
        axis.set_title(f"{'white noise' if channel == 'awgn' else channel}, {csnr_db:g} dB", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("PSNR, difference (dB)")
    handles = dict(zip(*reversed(axes[0, -1].get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
