"""Measure what a prior makes of originals that it is told almost: how real its images can be, whatever the code.

    python -m lab.benchmarks.prior_limit --levels 100 200 --evaluations 1 40 --out runs/prior-limit.json
    python -m lab.benchmarks.prior_limit --bundle BUNDLE --images FOLDER

Images are diffused to a level, and the prior draws them again by ancestral steps; with one evaluation it gives its one
denoised estimate. No code, channel or measurement is involved. A sampler with this prior that is told no more of an
image than the level tells (see the PSNR of one evaluation) can't be expected to draw images nearer to the originals by
LPIPS or DISTS. Errors are standard errors over images. Metrics that need networks are there after `make metrics`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lab.benchmarks.photo import load_photographs
from lab.evaluation.perceptual.registry import values_by_metric
from lab.evaluation.statistics import mean_and_error
from receiver.bundles.bundle import load_bundle
from receiver.priors.denoiser import Denoiser
from receiver.samplers.diffusion import diffuse, from_image, reverse_steps, step_down, to_image
from sdr.errors import ConfigError, OtaError
from sdr.files import write_json


@dataclass(frozen=True)
class LimitRow:
    """One level and number of evaluations.

    Attributes:
        level: diffusion step of 1000 that the originals were diffused to.
        evaluations: of the prior.
        images: number of them.
        metrics: means over images, by `IMAGE_METRICS` whose files are there.
        metrics_se: their standard errors.
    """

    level: int
    evaluations: int
    images: int
    metrics: Mapping[str, float]
    metrics_se: Mapping[str, float]


@torch.no_grad()
def drawn_again(denoiser: Denoiser, image: Tensor, level: int, evaluations: int, generator: torch.Generator) -> Tensor:
    """Diffuse images (B, C, H, W) in [0, 1] and return what the prior draws from there.

    Args:
        denoiser: the prior.
        image: originals.
        level: diffusion step of 1000.
        evaluations: ancestral steps down to clean images, the last of which adds no noise.
        generator: of all noise.

    Raises:
        ConfigError: the level is not in 1..1000, or there are no steps.
    """
    if not 1 <= level <= 1000:
        raise ConfigError(f"Found level {level}; give 1 to 1000.")
    schedule = denoiser.schedule
    first = torch.full((len(image),), max(1, level * schedule.num_steps // 1000))
    steps = reverse_steps(first, evaluations)
    x_t = diffuse(schedule, from_image(image), steps[0], generator)
    for t, s in itertools.pairwise(steps):
        x_t = step_down(schedule, x_t, denoiser(x_t, t), (t, s), 1.0, generator)
    return to_image(x_t).clamp(0, 1)


def measure(denoiser: Denoiser, images: Tensor, level: int, evaluations: int, seed: int) -> LimitRow:
    """Draw images (n, C, H, W) again one by one and compare them with themselves; see `drawn_again`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.cat([drawn_again(denoiser, image, level, evaluations, generator) for image in images.split(1)])
    scores = {name: mean_and_error(found[~found.isnan()]) for name, found in values_by_metric(drawn, images).items()}
    metrics = {name: mean for name, (mean, _) in scores.items()}
    errors = {name: error for name, (_, error) in scores.items()}
    return LimitRow(level, evaluations, len(images), metrics, errors)


def main() -> None:
    """Parse the command line, measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="photo")
    parser.add_argument("--images", type=Path, help="folder; default: the bundle's held-out photographs")
    parser.add_argument("--levels", nargs="+", type=int, default=[100, 200])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[1, 40])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/prior-limit.json"))
    given = parser.parse_args()
    try:
        bundle = load_bundle(given.bundle)
        _, images = load_photographs(given.images or bundle.samples, bundle)
        denoiser = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3])).required_denoiser
        rows = []
        for level, evaluations in itertools.product(given.levels, given.evaluations):
            rows.append(measure(denoiser, images, level, evaluations, given.seed))
            print(json.dumps(asdict(rows[-1])), flush=True)
    except OtaError as error:
        parser.exit(2, f"{error}\n")
    write_json(given.out, {"bundle": bundle.name, "seed": given.seed, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
