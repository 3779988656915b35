"""A step of the samplers never waits for a GPU: nothing is read back from it, and nothing is taken there.

The loop is run on tensors without values (device "meta"), of which nothing can be read.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from receiver.codecs.adjscc import AdjsccConfig
from receiver.codecs.codec import Codec
from receiver.codecs.ntscc import NtsccAtRates
from receiver.codecs.swinjscc import SwinjsccCodec
from receiver.measurement.model import Measurement
from receiver.networks.fast_unet import FastUNet
from receiver.priors.unet import PriorConfig
from receiver.samplers import diffusion, reverse_diffusion, reverse_steps
from receiver.samplers.diffusion import StepRule
from receiver.samplers.guidance import Confirmed, ConfirmingGuidance
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from sdr.layout import load_layout
from tests.receiver.codecs.public import some_channels, some_rates, tiny_ntscc, tiny_swinjscc
from tests.receiver.simulated import gaussian, make_measurement

SHAPE = (3, 128, 64)
PRIOR = PriorConfig(SHAPE, 1, "epsilon", learned_sigma=True, channel_mult=(1, 2), norm_groups=8)


class NoWaiting(TorchDispatchMode):
    """Refuses what a GPU would be waited for: reading a number, counting what is true, copies between devices."""

    WAITED_FOR = frozenset({"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::masked_select"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name() not in self.WAITED_FOR, f"{func} is waited for"
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, out) if isinstance(value, Tensor) and value.ndim]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{func} copies between {' and '.join(sorted(devices))}"
        return out


def adjscc() -> Codec:
    return AdjsccConfig(SHAPE, 2, width=16).codec(AdjsccConfig(SHAPE, 2, width=16).network())


def swinjscc() -> Codec:
    return SwinjsccCodec(*tiny_swinjscc("both"), some_channels()).for_shape(SHAPE)


def ntscc() -> Codec:
    return NtsccAtRates(*tiny_ntscc(compat=True), some_rates()).for_shape(SHAPE)


def without_values(measurement: Measurement) -> Measurement:
    found = copy.copy(measurement)
    for name, value in vars(measurement).items():
        if isinstance(value, Tensor):
            object.__setattr__(found, name, value.to("meta"))
    return found


@pytest.mark.parametrize(("make", "fast"), [(adjscc, False), (adjscc, True), (swinjscc, False), (ntscc, False)])
def test_no_step_of_hifi_is_waited_for(make, fast, monkeypatch):
    codec = copy.deepcopy(make())
    h = torch.ones(1, 3, dtype=torch.complex64)
    measurement = make_measurement(gaussian((1, codec.num_symbols), 0), h, 0.1, load_layout("photo"), 1)
    measurement, h, codec = without_values(measurement), h.to("meta"), codec.to("meta")
    unet = PRIOR.network().to("meta").requires_grad_(False)
    denoiser = PRIOR.denoiser(FastUNet(unet, torch.bfloat16) if fast else unet)
    x_d = torch.zeros(1, *SHAPE, device="meta")
    nuisance = NuisanceEstimate.begin(measurement, NuisancePrior())
    guidance = ConfirmingGuidance(codec, Confirmed(h, nuisance, x_d), 0.3, 0.3)
    # Neither autocast nor generators know a device without values.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(diffusion, "standard_normal", lambda shape, *_: torch.randn(shape, device="meta"))
    steps = reverse_steps(torch.tensor([200]), 1).to("meta")

    def run() -> Tensor:
        rule = StepRule(clip=True, learned_variance=True)
        return reverse_diffusion(denoiser, guidance, x_d, steps, generator=torch.Generator(), rule=rule).x

    run()  # tables are taken to a device once
    with NoWaiting():
        assert run().shape == (1, *SHAPE)


WAITS = {
    "read": lambda: float(torch.ones(2).sum()),
    "counted": lambda: torch.ones(3, device="meta")[torch.ones(3, dtype=torch.bool, device="meta")],
    "sorted out": lambda: torch.ones(3).unique(),
    "taken there": lambda: torch.ones(3).to("meta"),
}


@pytest.mark.parametrize("what", WAITS)
def test_waiting_is_noticed(what):
    with pytest.raises((AssertionError, RuntimeError)), NoWaiting():
        WAITS[what]()
