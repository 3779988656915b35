"""Time a HiFi-DiffCom step against its bare network, for the published ADM U-Nets at their full size.

    python -m lab.benchmarks.denoiser_speed --device cuda --out runs/denoiser-speed
    python -m lab.benchmarks.denoiser_speed --device cpu --small --out runs/denoiser-speed

Weights are random: time does not depend on them, and what half precision changes is told as a relative error of the
network, and as what it makes of the images after 13 steps, both against single precision. Every time is a median of
ten, all of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from receiver.channel.prior import channel_prior
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.measurement.model import Measurement
from receiver.networks.fast_unet import FastUNet
from receiver.networks.unet import UNetModel
from receiver.priors.schedule import Schedule
from receiver.priors.unet import PriorConfig, UNetDenoiser
from receiver.samplers import METHODS, Channel, Models, sample
from receiver.samplers.settings import MethodSettings
from sdr.errors import ConfigError
from sdr.files import write_json
from sdr.layout import load_layout

#: Medians are taken of so many, after so many that are not counted.
REPEATS = 10
WARM_UP = 3
CSNR_DB = 10.0

_ADM = {
    "image_shape": (3, 256, 256),
    "patch": 1,
    "prediction": "epsilon",
    "learned_sigma": True,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_heads": 4,
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "norm_groups": 32,
}
#: The published networks, and the like of them that a CPU runs in seconds.
NETWORKS: dict[str, PriorConfig] = {
    "ffhq-93M": PriorConfig(**_ADM, model_channels=128, num_res_blocks=1, attention_resolutions=(16,)),
    "imagenet-552M": PriorConfig(**_ADM, model_channels=256, num_res_blocks=2, attention_resolutions=(8, 16, 32)),
}
SMALL = PriorConfig(
    **{**_ADM, "image_shape": (3, 16, 16), "channel_mult": (1, 2), "num_head_channels": 16},
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(2,),
)
#: Width of the published ADJSCC, and of the one beside the small network.
CODEC_WIDTH, SMALL_CODEC_WIDTH = 256, 16
#: How a network is run: `plain` as it stands, with autocast where a type is named; `fast` as `FastUNet`.
VARIANTS: dict[str, tuple[str, torch.dtype | None]] = {
    "plain fp32": ("plain", None),
    "plain bf16": ("plain", torch.bfloat16),
    "fast fp32": ("fast", torch.float32),
    "fast bf16": ("fast", torch.bfloat16),
    "fast fp16": ("fast", torch.float16),
}


@dataclass(frozen=True)
class SpeedRow:
    """Times of one network, variant and batch.

    Attributes:
        network: name in `NETWORKS`, or "small".
        variant: name in `VARIANTS`.
        batch: images.
        forward_ms: the bare network without a gradient.
        gradient_ms: the bare network with the gradient with respect to the image.
        step_ms: a HiFi-DiffCom step.
        error: ||output - single precision|| / ||single precision|| of the network; gradient_error of its gradient.
        image_rms: root mean square difference of the sampler's images, on the scale [0, 1], from those of the plain
            network in single precision after as many steps as are timed; equal noise.
        memory_mb: largest device memory.
    """

    network: str
    variant: str
    batch: int
    forward_ms: float
    gradient_ms: float
    step_ms: float
    error: float
    gradient_error: float
    image_rms: float
    memory_mb: float


class _Autocast(nn.Module):
    """A network under autocast."""

    def __init__(self, unet: UNetModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet, self.dtype = unet, dtype
        self.in_channels, self.out_channels, self.num_classes = unet.in_channels, unet.out_channels, unet.num_classes

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.unet(x, timesteps, y).float()


def random_unet(config: PriorConfig, device: torch.device) -> UNetModel:
    """Return a network whose weights are all drawn, those that start at zero too, frozen."""
    with torch.device(device):
        unet = config.network()
    torch.manual_seed(0)
    for parameter in unet.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
        parameter.data.normal_(std=fan_in**-0.5)
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data.add_(1)
    return unet.requires_grad_(False).eval()


def median_ms(run: Callable[[], object], device: torch.device) -> float:
    """Return the median duration of `REPEATS` calls in milliseconds."""
    taken = []
    for index in range(REPEATS + WARM_UP):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end))
        else:
            began = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - began))
        if index < WARM_UP:
            taken.clear()
    return statistics.median(taken)


def network_gradient(network: nn.Module, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the network's output and the gradient of its sum of squares with respect to the image."""
    x = x.detach().requires_grad_()
    out = network(x, t)[:, :3].float()
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    return out.detach(), gradient


def received(codec: AdjsccCodec, images: Tensor) -> tuple[Measurement, Tensor]:
    """Return images as received over white noise, a frame each, and their taps."""
    layout, device = load_layout("photo"), images.device
    torch.manual_seed(2)
    with torch.no_grad():
        z = codec.encode(images, CSNR_DB)
    count, size = z.shape
    block = layout.data_symbols * layout.fft_size
    cells = np.stack([layout.cell_index[:size] + index * block for index in range(count)])
    grid = (count, layout.data_symbols, layout.fft_size)
    blank = Measurement(
        y=torch.zeros(grid, dtype=torch.complex64),
        noise_var=torch.full((count,), 10 ** (-CSNR_DB / 10)),
        cells=torch.from_numpy(cells.astype(np.int64)),
        scramble=torch.from_numpy(np.stack([layout.cell_scramble[:size]] * count)),
        layout=layout,
        previous_symbol=torch.zeros(count, layout.fft_size, dtype=torch.complex64),
        tracking_grid=torch.zeros(grid, dtype=torch.complex64),
        image_ids=tuple(map(str, range(count))),
        csnr_db=torch.full((count,), CSNR_DB),
        image_shape=codec.image_shape,
        codec_digest=codec.digest,
        pilots=torch.zeros(count, layout.pilot_symbols, layout.fft_size, dtype=torch.complex64),
        scale=torch.ones(count),
    ).to(device)
    h = torch.zeros(count, 3, dtype=torch.complex64, device=device)
    h[:, 2] = 1
    noise = torch.randn(blank.y.shape, dtype=torch.complex64, device=device) * blank.noise_var[0].sqrt()
    return blank.with_received(blank.forward(z, h) + noise), h


class _StopAfter(Exception):
    """Ends a sampler early: its steps are timed, what follows them is not."""


def sampler_steps(network: nn.Module, config: PriorConfig, codec: AdjsccCodec, images: Tensor) -> tuple[float, Tensor]:
    """Return the median duration of a HiFi-DiffCom step in milliseconds, and the images.

    The images (B, C, H, W), on the scale [-1, 1], are those that the last step believes in.
    """
    measurement, h = received(codec, images)
    last = images
    denoiser = UNetDenoiser(network, Schedule(), config.image_shape, "epsilon")  # type: ignore[arg-type]
    stamps: list[float | torch.cuda.Event] = []

    def on_step(index: int, x0_hat: Tensor) -> None:
        nonlocal last
        last = x0_hat
        if images.is_cuda:
            stamps.append(torch.cuda.Event(enable_timing=True))
            stamps[-1].record()  # type: ignore[union-attr]
        else:
            stamps.append(1e3 * time.perf_counter())
        if index == REPEATS + WARM_UP:
            raise _StopAfter

    settings: MethodSettings = METHODS["hifi"].settings
    with contextlib.suppress(_StopAfter):
        sample(
            "hifi",
            measurement,
            Channel(channel_prior(measurement.layout), h),
            Models(codec, denoiser),
            torch.Generator(images.device).manual_seed(0),
            settings=settings,
            on_step=on_step,
        )
    if images.is_cuda:
        torch.cuda.synchronize()
        taken = [one.elapsed_time(other) for one, other in itertools.pairwise(stamps)]  # type: ignore[union-attr]
    else:
        taken = [other - one for one, other in itertools.pairwise(stamps)]  # type: ignore[operator]
    return statistics.median(taken[WARM_UP:]), last


@dataclass(frozen=True, eq=False)
class Reference:
    """What the plain network in single precision gives: its output, its gradient, and the sampler's images."""

    output: Tensor
    gradient: Tensor
    images: Tensor


def measure_variant(
    network: nn.Module, config: PriorConfig, codec: AdjsccCodec, images: Tensor, reference: Reference
) -> dict[str, float]:
    """Return the fields of a `SpeedRow` that are measured."""
    device, (x, t) = images.device, steps_of(images)
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    output, gradient = network_gradient(network, x, t)
    with torch.no_grad():
        forward_ms = median_ms(lambda: network(x, t), device)
    gradient_ms = median_ms(lambda: network_gradient(network, x, t), device)
    step_ms, last = sampler_steps(network, config, codec, images)
    difference = last.clamp(-1, 1) - reference.images.clamp(-1, 1)
    return {
        "forward_ms": forward_ms,
        "gradient_ms": gradient_ms,
        "step_ms": step_ms,
        "error": float((output - reference.output).norm() / reference.output.norm()),
        "gradient_error": float((gradient - reference.gradient).norm() / reference.gradient.norm()),
        "image_rms": float(difference.square().mean().sqrt() / 2),
        "memory_mb": torch.cuda.max_memory_allocated() / 1e6 if images.is_cuda else float("nan"),
    }


def steps_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return noise of the shape of the images and steps where samplers are."""
    torch.manual_seed(1)
    return torch.randn_like(images), torch.linspace(40, 140, len(images), device=images.device).long()


def measure_network(
    name: str, config: PriorConfig, codec_width: int, device: torch.device, batches: Sequence[int]
) -> list[SpeedRow]:
    """Time all variants of one network; what the device has no memory for is left out, with a line."""
    unet = random_unet(config, device)
    codec = AdjsccCodec(AdjsccConfig(image_shape=config.image_shape, channel_num=2, width=codec_width)).to(device)
    codec.requires_grad_(False).eval()
    rows = []
    for batch in batches:
        images = torch.rand(batch, *config.image_shape, device=device)
        _, last = sampler_steps(unet, config, codec, images)
        reference = Reference(*network_gradient(unet, *steps_of(images)), last)
        for variant, (kind, dtype) in VARIANTS.items():
            if kind == "fast":
                assert dtype is not None
                network: nn.Module = FastUNet(unet, dtype)
            else:
                network = unet if dtype is None else _Autocast(unet, dtype)
            try:
                row = SpeedRow(name, variant, batch, **measure_variant(network, config, codec, images, reference))
            except torch.OutOfMemoryError as error:
                print(f"{name}, {variant}, batch {batch}: {error}", flush=True)
                continue
            rows.append(row)
            print(*(f"{v:.4g}" if isinstance(v, float) else v for v in asdict(row).values()), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write `speed.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/denoiser-speed"))
    parser.add_argument("--small", action="store_true", help="a network that a CPU runs in seconds")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here. Give --device cpu --small.")
    torch.backends.cudnn.benchmark = True
    networks = {"small": SMALL} if arguments.small else NETWORKS
    width = SMALL_CODEC_WIDTH if arguments.small else CODEC_WIDTH
    rows = []
    for name, config in networks.items():
        rows += measure_network(name, config, width, device, tuple(arguments.batch))
    about = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    content = {"device": about, "torch": torch.__version__, "repeats": REPEATS, "rows": [asdict(row) for row in rows]}
    write_json(arguments.out / "speed.json", content)
    print(json.dumps({"out": str(arguments.out / "speed.json"), "device": about}))


if __name__ == "__main__":
    main()
