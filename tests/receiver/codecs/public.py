"""The public networks in sizes that a test can run, for the tests of several files."""

from __future__ import annotations

from functools import lru_cache

import torch

from receiver.codecs.ntscc import NtsccConfig, RateMap
from receiver.codecs.swinjscc import SentChannels, SwinjsccConfig
from receiver.networks.ntscc import NTSCC, RATES
from receiver.networks.swinjscc import Adapts, SwinJSCC

SWIN_SHAPE = (3, 16, 24)
NTSCC_SHAPE = (3, 128, 64)


def _moved(network: torch.nn.Module) -> None:
    """Random values where a fresh network holds zeros, so that every part of it has an effect."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def tiny_swinjscc(adapts: Adapts) -> tuple[SwinjsccConfig, SwinJSCC]:
    """A configuration with two stages and its network."""
    config = SwinjsccConfig(adapts, 6, widths=(8, 12), depths=(2, 2), heads=(2, 3), side=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = config.network().eval()
        _moved(network)
    return config, network


@lru_cache
def tiny_ntscc(compat: bool) -> tuple[NtsccConfig, NTSCC]:
    """A configuration and a network whose transform is narrow; the rates ask for the full width of the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NTSCC(compat, N=16).eval().requires_grad_(False)
        _moved(network)
        # Standard deviations around that of the latents, so that positions ask for rates of all sizes.
        network.ntc.entropy_parameters[4].bias[: network.M] = torch.linspace(0.5, 4, network.M)
    return NtsccConfig(compat, eta=0.2, level=30.0 if compat else 0.0, width=16), network


def some_channels(seed: int = 0) -> SentChannels:
    """Six of twelve channels."""
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(seed)) < 6
    return SentChannels(chosen, 0.7)


def some_rates(seed: int = 0) -> RateMap:
    """Rates for images of `NTSCC_SHAPE`, all kinds of them."""
    index = torch.randint(len(RATES), (2, 4, 4), generator=torch.Generator().manual_seed(seed))
    index[0, 0, 0] = 0
    return RateMap(index, 1.3)
