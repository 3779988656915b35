"""Measure whether draws are draws of the posterior: their residual, what their spread covers, and what their mean is.

    python -m lab.benchmarks.honesty --methods tmpd guided bp land hifi --out benchmarks/honesty
    python -m lab.benchmarks.honesty --methods tmpd --truth prior
    python -m lab.benchmarks.honesty --methods tmpd blind-tmpd --channel taps=8,decay=4

Images go over a simulated radio, one a frame, and every method draws each several times. They are held-out images of
Fashion-MNIST, or draws of the prior itself: what a method lacks then is its own fault, and what it lacks beside that
with held-out images is the prior's, which they are no draws of. For a draw of the posterior

- the normalised residual is that of the image that was sent, 1 in the mean: below it noise is explained as image;
- the original's rank among R draws is uniform, pixel by pixel, so that it lies from the k-th least to the k-th largest
  of them in a share (R + 1 - 2 k) / (R + 1) of all cases;
- the mean of R draws has the least squared error, which their variance tells.

Pixels are rounded to 8 bits as the originals are, and ranks among equal ones are drawn. Errors are standard errors over
images. --out gets honesty.json and coverage.png.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.benchmarks.sampler import measure_with_taps, send_images
from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import mean_and_error
from lab.experiments.plan import Sweep, held_out_images
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.bundles.side_models import load_confidence, load_mixture
from receiver.channel.prior import channel_prior
from receiver.measurement.model import Measurement
from receiver.priors.denoiser import Denoiser
from receiver.samplers import METHODS, Channel, Models, Posterior, sample
from receiver.samplers.diffusion import to_image
from receiver.samplers.moments import descending_steps, second_order_step
from receiver.samplers.variants import Variant, method_variant
from receiver.sync.frame import SyncedFrame
from sdr.errors import ConfigError, OtaError
from sdr.files import write_json
from sdr.layout import FrameLayout
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
        residual: normalised, of a draw; that of the image sent is honest.
        residual_se: its standard error.
        truth_residual: of the image sent, with the pilots' taps; 1 but for chance and what the receiver misjudges.
        excess_se: standard error of the difference of the two, image by image.
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
    truth_residual: float
    excess_se: float
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
        shares.append(Share(expected, *mean_and_error(by_image), float(inside.mean())))
    return tuple(shares)


@dataclass(frozen=True)
class Sent:
    """What images are sent, and how.

    Attributes:
        count: images, at least 2.
        csnr_db: channel SNR.
        channel: options of the simulated radio beside noise, such as "taps=8,decay=4".
        from_prior: they are draws of the prior, not held out.
        seed: of images, channel and samplers.
    """

    count: int
    csnr_db: float = 10.0
    channel: str = ""
    from_prior: bool = False
    seed: int = 0

    def images(self, bundle: Bundle, sweep: Sweep) -> tuple[list[str], Tensor]:
        """Return ids and images (count, C, H, W)."""
        if not self.from_prior:
            return held_out_images(sweep, bundle.image_shape)
        # Not the samplers' own random numbers: they would draw what was sent.
        generator = torch.Generator().manual_seed(self.seed + _PRIOR_SEED)
        images = prior_draws(bundle.required_denoiser, self.count, generator)
        return [f"p{index:05d}" for index in range(self.count)], images

    def frames(self, bundle: Bundle) -> tuple[list[SyncedFrame], FrameLayout, dict[str, Tensor]]:
        """Send the images; return their frames, the layout, and images by id."""
        sweep = Sweep(
            "honesty", (self.csnr_db,), ("jscc",), self.channel, self.count, images_per_frame=1, seed=self.seed
        )
        return send_images(bundle, sweep, *self.images(bundle, sweep), self.count)


#: Steps of a draw of the prior, of second order; with 250 ancestral ones a tenth of its spread was lost.
_PRIOR_STEPS = 60
#: Between the seeds of samplers and of the images that the prior draws.
_PRIOR_SEED = 1 << 20


@torch.no_grad()
def prior_draws(denoiser: Denoiser, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` draws of the prior, (count, C, H, W) in [0, 1]."""
    steps = descending_steps(torch.full((count,), 1000), _PRIOR_STEPS, denoiser.schedule)
    x_t = torch.randn(count, *denoiser.image_shape, generator=generator)
    mean = x_t
    for index, (t, s) in enumerate(itertools.pairwise(steps)):
        last, mean = mean, denoiser(x_t, t)
        levels = steps[max(index - 1, 0)], t, s
        x_t = second_order_step(denoiser.schedule, x_t, (last, mean), levels, generator)
    return to_image(x_t).clamp(0, 1)


def measure(bundle: Bundle, methods: Sequence[str], sent: Sent, draws: int, at_once: int = 128) -> list[HonestyRow]:
    """Draw images `draws` times each by every method.

    Args:
        bundle: for images of one size.
        methods: see `receiver.samplers.variants.method_variant`.
        sent: images and channel.
        draws: of each, at least 2.
        at_once: draws that are made in one batch.

    Raises:
        ConfigError: a method that draws nothing, or too few images or draws for an error.
    """
    variants = [method_variant(method) for method in methods]
    for variant in variants:
        if variant.method not in METHODS or not METHODS[variant.method].needs_denoiser:
            raise ConfigError(f"{variant.label} draws nothing from a posterior; name a sampler such as hifi or land.")
    if sent.count < 2 or draws < 2:
        raise ConfigError(f"Found {sent.count} images and {draws} draws; at least 2 of each are needed.")
    frames, layout, originals = sent.frames(bundle)
    step = max(1, at_once // draws)
    measured = [measure_with_taps(frames[first : first + step], layout) for first in range(0, len(frames), step)]
    by_batch = [torch.stack([originals[name] for name in measurement.image_ids]) for measurement, _ in measured]
    truth, honest = torch.cat(by_batch), _residuals(bundle, measured, by_batch)
    rows = []
    for variant in variants:
        parts = [_drawn(bundle, variant, *batch, draws, sent.seed + index) for index, batch in enumerate(measured)]
        x = torch.cat([posterior.x.unflatten(0, (draws, -1)) for posterior, _, _ in parts], dim=1)
        decoded, residual = torch.cat([part for _, part, _ in parts]), torch.cat([part for _, _, part in parts])
        rows.append(_row(variant.label, sent, _Scored(x, decoded, residual), truth, honest))
    return rows


@torch.no_grad()
def _residuals(bundle: Bundle, measured: Sequence[tuple[Measurement, Tensor]], truth: Sequence[Tensor]) -> Tensor:
    """Return the residuals of the images that were sent, (N,)."""
    parts = zip(measured, truth, strict=True)
    return torch.cat([one.residual(bundle.codec.encode(x, one.csnr_db), h) for (one, h), x in parts])


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


class _Scored(NamedTuple):
    """Attributes: draws x (R, N, C, H, W), the plain decoder's answers (N, C, H, W), mean residuals of draws (N,)."""

    x: Tensor
    decoded: Tensor
    residual: Tensor


def _row(label: str, sent: Sent, scored: _Scored, truth: Tensor, honest: Tensor) -> HonestyRow:
    """Score a method's draws, given the images sent (N, C, H, W) and their residuals (N,)."""
    x, decoded, residual = scored
    count, mean = len(x), x.mean(dim=0)
    gain, gain_se = mean_and_error(psnr_db(mean, truth) - psnr_db(decoded, truth))
    variance = x.var(dim=0).mean()
    # The original and R draws are alike: its squared distance from their mean is (1 + 1 / R) of the variance.
    told = (variance * (1 + 1 / count)).sqrt() / (mean - truth).square().mean().sqrt()
    drawn, true = x.flatten(2), truth.flatten(1)
    return HonestyRow(
        label,
        sent.csnr_db,
        len(truth),
        count,
        *mean_and_error(residual),
        float(honest.mean()),
        mean_and_error(residual - honest)[1],
        float(psnr_db(decoded, truth).mean()),
        float(psnr_db(x[0], truth).mean()),
        float(psnr_db(mean, truth).mean()),
        gain,
        gain_se,
        float(told),
        float((drawn.std(dim=0) > UNSURE).float().mean()),
        coverage(drawn, true, torch.Generator().manual_seed(sent.seed)),
    )


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
    parser.add_argument("--methods", nargs="+", default=["tmpd", "guided", "bp", "land", "hifi"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--csnr-db", type=float, default=10.0)
    parser.add_argument("--channel", default="", help='beside noise, as the simulated radio takes it: "taps=8,decay=4"')
    parser.add_argument("--truth", choices=["held-out", "prior"], default="held-out", help="images that are sent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/honesty"))
    parser.add_argument("--force", action="store_true", help="write over what --out holds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with finished_folder(given.out, given.force) as folder:
            bundle = load_bundle("fashion")
            sent = Sent(given.images, given.csnr_db, given.channel, given.truth == "prior", given.seed)
            rows = measure(bundle, given.methods, sent, given.draws)
            answer = {"bundle": bundle.name, "bundle_digest": bundle.digest, "sent": asdict(sent)}
            write_json(folder / "honesty.json", {**answer, "rows": [asdict(row) for row in rows]})
            write_figure(rows, folder / "coverage.png")
    except OtaError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
