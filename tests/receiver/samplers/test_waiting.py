"""The samplers' loop never waits for a GPU: nothing is read back or taken there from step to step.

It is run on tensors without values, from which nothing can be read: what a program would wait for is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.codecs.codec import Codec
from receiver.codecs.ntscc import NtsccCodec
from receiver.codecs.swinjscc import SwinjsccConfig, SwinjsccRateCodec
from receiver.priors.unet import PriorConfig
from receiver.samplers import reverse_diffusion, reverse_steps
from receiver.samplers.diffusion import StepRule
from receiver.samplers.guidance import Confirmed, ConfirmingGuidance, MeasurementGuidance
from receiver.samplers.nuisance import NuisanceEstimate
from sdr.layout import load_layout
from tests.receiver.codecs.public import some_channels, some_rates, tiny_ntscc, tiny_swinjscc
from tests.receiver.simulated import make_measurement

SHAPE = (3, 128, 64)
PRIOR = PriorConfig(SHAPE, 1, "epsilon", True, model_channels=32, channel_mult=(1, 2), norm_groups=8)


class NoWaiting(TorchDispatchMode):
    """Refuses copies between devices, and values that a program reads."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, *(kwargs or {}).values(), out) if isinstance(value, Tensor)]
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} is waited for.")
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        if len(devices) > 1:
            raise AssertionError(f"{func} takes values from {' to '.join(sorted(devices))}.")
        return out
