"""5G transport blocks on symbols: what arrives and what does not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from receiver.separation.channel_code import (
    ChannelCode,
    bits_to_bytes,
    bytes_to_bits,
    channel_code,
    import_sionna,
    spread_order,
)
from receiver.separation.schemes import FIXED_SCHEME, SCHEMES, Scheme, find_scheme
from sdr.errors import ConfigError, InputError


def received(code: ChannelCode, csnr_db: float, blocks: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    bits = torch.randint(0, 2, (blocks, code.num_bits), generator=generator)
    z = code.encode(bits)
    noise_var = 10 ** (-csnr_db / 10)
    noise = torch.view_as_complex(torch.randn((*z.shape, 2), generator=generator)) * (noise_var / 2) ** 0.5
    decoded, right = code.decode(z + noise, torch.full(z.shape, noise_var))
    return bits, decoded, right


@pytest.mark.parametrize("scheme", SCHEMES, ids=[scheme.name for scheme in SCHEMES])
def test_blocks_arrive_above_capacity_and_are_lost_below(scheme: Scheme) -> None:
    code = ChannelCode(scheme, 128)
    assert code.num_bits % 8 == 0 and 0.7 < code.num_bits / (128 * scheme.efficiency) <= 1.05
    shannon_db = 10 * np.log10(2**scheme.efficiency - 1)
    bits, decoded, right = received(code, shannon_db + 5)
    assert right.all() and torch.equal(decoded.long(), bits)
    _, _, right = received(code, shannon_db - 2)
    assert not right.any(), "the checksum finds every lost block"


@pytest.mark.parametrize("scheme", SCHEMES[:3], ids=[scheme.name for scheme in SCHEMES[:3]])
def test_low_rates_fill_many_symbols_too(scheme: Scheme) -> None:
    """Where the standard would repeat bits, a block is several; one of them lost is all lost."""
    code = ChannelCode(scheme, 8192)
    assert 0.95 < code.num_bits / (8192 * scheme.efficiency) <= 1.02
    bits, decoded, right = received(code, float(10 * np.log10(2**scheme.efficiency - 1)) + 2, blocks=2)
    assert right.all() and torch.equal(decoded.long(), bits)
    z = code.encode(bits)
    inverse = np.argsort(spread_order(8192))
    z[0, inverse[:4096]] = 0
    _, right = code.decode(z, torch.full(z.shape, 0.1))
    assert right.tolist() == [False, True]


def test_symbols_have_unit_power_and_are_spread() -> None:
    code = channel_code(FIXED_SCHEME, 300)
    z = code.encode(torch.randint(0, 2, (2, code.num_bits), generator=torch.Generator().manual_seed(0)))
    assert z.shape == (2, 300) and z.dtype == torch.complex64
    assert torch.allclose(z.abs().square().mean(dim=1), torch.ones(2), atol=1e-5)
    assert channel_code(FIXED_SCHEME, 300) is code


@pytest.mark.parametrize("count", [1, 2, 7, 64, 4096, 8191])
def test_neighbours_are_sent_far_apart(count: int) -> None:
    order = spread_order(count)
    assert sorted(order.tolist()) == list(range(count))
    assert count < 8 or np.abs(np.diff(order)).min() > count // 4


def test_bytes_become_bits_and_come_back() -> None:
    bits = bytes_to_bits(b"\x80\x01", 27)
    assert bits.tolist()[:16] == [1, *[0] * 14, 1] and not bits[16:].any()
    assert bits_to_bytes(bits) == b"\x80\x01\x00"


def test_what_is_impossible_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="1 symbols hold no transport block of 16qam-490"):
        ChannelCode(FIXED_SCHEME, 1)
    with pytest.raises(ConfigError, match="did you mean '16qam-490'"):
        find_scheme("16qam-49")
    monkeypatch.setitem(sys.modules, "sionna.phy", None)
    with pytest.raises(ConfigError, match=r"\[baselines\]"):
        import_sionna()
