"""Measure whether draws are draws of the posterior: their residual, what their spread covers, and what their mean is.

    python -m lab.benchmarks.honesty --methods guided bp land hifi --out benchmarks/honesty

Held-out images of Fashion-MNIST go over white noise, one a frame, and every method draws each several times. For a draw
of the posterior

- the normalised residual is 1 in the mean, as for the image that was sent: below 1 noise is explained as image;
- the original's rank among R draws is uniform, pixel by pixel, so that it lies from the k-th least to the k-th largest
  of them in a share (R + 1 - 2 k) / (R + 1) of all cases;
- the mean of R draws has the least squared error, which their variance tells.

Pixels are rounded to 8 bits as the originals are, and ranks among equal ones are drawn. Errors are standard errors over
images. --out gets honesty.json and coverage.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.benchmarks.sampler import measure_with_taps, send_held_out
from lab.evaluation.metrics import psnr_db
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.bundles.side_models import load_confidence, load_mixture
from receiver.channel.prior import channel_prior
from receiver.measurement.model import Measurement
from receiver.samplers import METHODS, Channel, Models, Posterior, sample
from receiver.samplers.variants import Variant, method_variant
from sdr.errors import ConfigError, OtaError
from sdr.files import write_json
from sdr.outputs import finished_folder

#: A pixel is unsure where its draws' standard deviation is above this: a step of 8 bits.
UNSURE = 1 / 255


@dataclass(frozen=True)
class Share:
    """How many pixels lie in a central interval of their draws.

    Attributes:
        expected: share of the interval for draws of the posterior.
        found: share of the unsure pixels that lie in it, a mean over images.
        se: its standard error.
        found_of_all: share of all pixels.
    """

    expected: float
    found: float
    se: float
    found_of_all: float


@dataclass(frozen=True)
class HonestyRow:
    """One method at one channel SNR.

    Attributes:
        method: as `receiver.samplers.variants.method_variant` takes it.
        csnr_db: channel SNR.
        images: N.
        draws: R of each.
        residual: normalised, of a draw; 1 is honest.
        residual_se: its standard error.
        decoder_psnr_db: mean PSNR of the plain decoder, with the pilots' taps or without pilots as the method.
        draw_psnr_db: of the first draw.
        mean_psnr_db: of the mean of the draws.
        gain_db: of the mean of the draws over the plain decoder, image by image.
        gain_se_db: its standard error.
        told_over_error: rms error that the draws' variance tells of their mean, over its rms error; 1 is honest.
        unsure: share of the pixels whose draws' standard deviation is above a step of 8 bits.
        coverage: from the narrowest interval to the widest.
    """

    method: str
    csnr_db: float
    images: int
    draws: int
    residual: float
    residual_se: float
    decoder_psnr_db: float
    draw_psnr_db: float
    mean_psnr_db: float
    gain_db: float
    gain_se_db: float
    told_over_error: float
    unsure: float
    coverage: tuple[Share, ...]


def ranks(draws: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rank 0..R, (N, P), of true pixels (N, P) among draws (R, N, P), in 8 bits, equal ones in any order."""
    drawn, true = (values.mul(255).round() for values in (draws, truth))
    below, equal = (drawn < true).sum(dim=0), (drawn == true).sum(dim=0)
    return below + (torch.rand(true.shape, generator=generator) * (equal + 1)).long()


def coverage(draws: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Share, ...]:
    """Return how often pixels (N, P) in [0, 1] lie within each central interval of their draws (R, N, P), R >= 2."""
    count = len(draws)
    rank = ranks(draws, truth, generator)
    unsure = (draws.std(dim=0) > UNSURE).double()
    shares = []
    for edge in range(count // 2, 0, -1):
        inside = ((rank >= edge) & (rank <= count - edge)).double()
        by_image = (inside * unsure).sum(dim=1) / unsure.sum(dim=1).clamp(min=1)
        expected = (count + 1 - 2 * edge) / (count + 1)
        shares.append(Share(expected, *_mean(by_image), float(inside.mean())))
    return tuple(shares)


def measure(
    bundle: Bundle,
    methods: Sequence[str],
    count: int,
    draws: int,
    csnr_db: float = 10.0,
    seed: int = 0,
    at_once: int = 128,
) -> list[HonestyRow]:
    """Draw `count` held-out images `draws` times each by every method.

    Args:
        bundle: for images of one size.
        methods: see `receiver.samplers.variants.method_variant`.
        count: images, at least 2.
        draws: of each, at least 2.
        csnr_db: channel SNR of white noise.
        seed: of images, noise and samplers.
        at_once: draws that are made in one batch.

    Raises:
        ConfigError: a method that draws nothing, or too few images or draws for an error.
    """
    variants = [method_variant(method) for method in methods]
    for variant in variants:
        if variant.method not in METHODS or not METHODS[variant.method].needs_denoiser:
            raise ConfigError(f"{variant.label} draws nothing from a posterior; name a sampler such as hifi or land.")
    if count < 2 or draws < 2:
        raise ConfigError(f"Found {count} images and {draws} draws; at least 2 of each are needed.")
    frames, layout, originals = send_held_out(bundle, count, csnr_db, seed)
    step = max(1, at_once // draws)
    measured = [measure_with_taps(frames[first : first + step], layout) for first in range(0, len(frames), step)]
    truth = torch.stack([originals[name] for measurement, _ in measured for name in measurement.image_ids])
    rows = []
    for variant in variants:
        parts = [_drawn(bundle, variant, *batch, draws, seed + index) for index, batch in enumerate(measured)]
        x = torch.cat([posterior.x.unflatten(0, (draws, -1)) for posterior, _, _ in parts], dim=1)
        decoded, residual = torch.cat([part for _, part, _ in parts]), torch.cat([part for _, _, part in parts])
        rows.append(_row(variant.label, csnr_db, x, decoded, residual, truth, seed))
    return rows


def _drawn(
    bundle: Bundle, variant: Variant, measurement: Measurement, h: Tensor, draws: int, seed: int
) -> tuple[Posterior, Tensor, Tensor]:
    """Return the draws of images, the plain decoder's answers (B, C, H, W), and the draws' mean residual (B,)."""
    models = Models(
        bundle.codec,
        bundle.required_denoiser,
        mixture=load_mixture(bundle.path, bundle.codec) if variant.blind else None,
        error_net=load_confidence(bundle.path, bundle.codec),
    )
    channel = Channel(channel_prior(measurement.layout), h)
    generator = torch.Generator().manual_seed(seed)
    plain = sample("blind-jscc" if variant.blind else "jscc", measurement, channel, models, generator)
    posterior = sample(
        variant.method, measurement, channel, models, generator, settings=variant.settings, draws=draws
    )  # fmt: skip
    z = bundle.codec.encode(posterior.x, posterior.measurement.csnr_db)
    residual = posterior.measurement.residual(z, posterior.h).unflatten(0, (draws, -1)).mean(dim=0)
    return posterior, plain.x, residual


def _row(
    label: str, csnr_db: float, x: Tensor, decoded: Tensor, residual: Tensor, truth: Tensor, seed: int
) -> HonestyRow:
    """Score draws x (R, N, C, H, W) and the plain decoder's answers, given the residuals (N,) and the originals."""
    count, mean = len(x), x.mean(dim=0)
    gain, gain_se = _mean(psnr_db(mean, truth) - psnr_db(decoded, truth))
    variance = x.var(dim=0).mean()
    # The original and R draws are alike: its squared distance from their mean is (1 + 1 / R) of the variance.
    told = (variance * (1 + 1 / count)).sqrt() / (mean - truth).square().mean().sqrt()
    drawn, true = x.flatten(2), truth.flatten(1)
    return HonestyRow(
        label,
        csnr_db,
        len(truth),
        count,
        *_mean(residual),
        float(psnr_db(decoded, truth).mean()),
        float(psnr_db(x[0], truth).mean()),
        float(psnr_db(mean, truth).mean()),
        gain,
        gain_se,
        float(told),
        float((drawn.std(dim=0) > UNSURE).float().mean()),
        coverage(drawn, true, torch.Generator().manual_seed(seed)),
    )


def _mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values (N,) and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def write_figure(rows: Sequence[HonestyRow], path: Path) -> None:
    """Draw the share of unsure pixels in each central interval against an honest one, one standard error each."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="grey", lw=1, label="draws of the posterior")
    for row in rows:
        expected, found, errors = zip(*((one.expected, one.found, one.se) for one in row.coverage), strict=True)
        axes.errorbar(expected, found, errors, marker="o", ms=4, capsize=3, label=row.method)
    title = f"{rows[0].csnr_db:g} dB, {rows[0].images} images, {rows[0].draws} draws of each"
    axes.set(xlabel="share of the interval", ylabel="share of the pixels in it", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line, measure, and write a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["guided", "bp", "land", "hifi"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--csnr-db", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/honesty"))
    parser.add_argument("--force", action="store_true", help="write over what --out holds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with finished_folder(given.out, given.force) as folder:
            bundle = load_bundle("fashion")
            rows = measure(bundle, given.methods, given.images, given.draws, given.csnr_db, given.seed)
            answer = {"bundle": bundle.name, "bundle_digest": bundle.digest, "seed": given.seed}
            write_json(folder / "honesty.json", {**answer, "rows": [asdict(row) for row in rows]})
            write_figure(rows, folder / "coverage.png")
    except OtaError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
