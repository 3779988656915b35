"""5G transport blocks on complex symbols: CRC, segmentation, LDPC, rate matching, interleaving, QAM, and back.

The code is Sionna's implementation of 3GPP TS 38.212 (`sionna-no-rt`), imported where it is first used.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.separation.schemes import Scheme
from sdr.errors import ConfigError, InputError

#: Iterations of the belief propagation.
ITERATIONS = 20
#: Information bits up to which the standard has its base graph 2 for rates from 1/4 to 2/3.
_MOST_BITS_UNREPEATED = 3824
#: The weakest cells are taken to be this noisy at most, which keeps their soft bits finite.
_MOST_NOISE = 1e6


def import_sionna() -> tuple[ModuleType, ModuleType]:
    """Return Sionna's modules of 5G transport blocks and of QAM.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from sionna.phy import mapping, nr
    except ImportError as error:
        raise ConfigError(
            f"LDPC needs the package sionna-no-rt, which can't be imported ({error}). "
            "Install the extra 'baselines': pip install -e '.[baselines]'."
        ) from error
    return nr, mapping


class ChannelCode:
    """Transport blocks that fill a number of symbols.

    What is called a block here is one transport block, or several that are sent and lost together: between rates of 1/4
    and 1/3 the standard repeats coded bits from 3824 information bits on, which Sionna does not, so that larger blocks
    are sent in parts.

    Args:
        scheme: modulation and code rate.
        num_symbols: K.

    Raises:
        InputError: so few symbols hold no block.
    """

    def __init__(self, scheme: Scheme, num_symbols: int) -> None:
        self.scheme, self.num_symbols = scheme, num_symbols
        nr, mapping = import_sionna()
        self._parts = num_parts(scheme, num_symbols)
        coded = num_symbols // self._parts * scheme.bits_per_symbol
        sizes: dict[str, Any] = {"num_coded_bits": coded, "num_layers": 1}
        try:
            found = nr.calculate_tb_size(
                modulation_order=scheme.bits_per_symbol, target_coderate=scheme.code_rate, **sizes
            )
            #: Information bits of a block, a multiple of 8.
            self.num_bits = int(found[0]) * self._parts
            self._encoder = nr.TBEncoder(int(found[0]), coded, scheme.code_rate, scheme.bits_per_symbol)
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"{num_symbols} symbols hold no transport block of {scheme.name} ({error}). "
                "Send larger images or choose another scheme."
            ) from error
        self._constellation = mapping.Constellation("qam", scheme.bits_per_symbol)
        self._map = mapping.Mapper(constellation=self._constellation)
        self._order = torch.from_numpy(spread_order(num_symbols))

    @cached_property
    def _demap(self) -> Any:
        return import_sionna()[1].Demapper("app", constellation=self._constellation)

    @cached_property
    def _decoder(self) -> Any:
        return import_sionna()[0].TBDecoder(self._encoder, num_bp_iter=ITERATIONS)

    @property
    def num_bytes(self) -> int:
        """Whole bytes of a block."""
        return self.num_bits // 8

    @torch.no_grad()
    def encode(self, bits: Tensor) -> Tensor:
        """Encode blocks.

        Args:
            bits: (B, num_bits) zeros and ones.

        Returns:
            (B, K) complex64 of unit mean power each.
        """
        z = self._map(self._encoder(bits.float().reshape(len(bits) * self._parts, -1)))
        z = z.reshape(len(bits), -1)[:, self._order]
        # A block's own mean power differs from the constellation's by the draw of its bits; a receiver's estimate of
        # the channel bears the difference, some hundredths of a dB.
        return (z / z.abs().square().mean(dim=1, keepdim=True).sqrt()).to(torch.complex64)

    @torch.no_grad()
    def decode(self, received: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
        """Decode blocks.

        Args:
            received: (B, K) complex, the symbols and noise.
            noise_var: (B, K) linear noise power of each.

        Returns:
            (B, num_bits) uint8, and (B,) bool: whether the checksum was right.
        """
        in_order = torch.empty_like(self._order)
        in_order[self._order] = torch.arange(self.num_symbols)
        noise = noise_var[:, in_order].float().clamp(max=_MOST_NOISE)
        soft = self._demap(received[:, in_order].to(torch.complex64), noise)
        bits, right = self._decoder(soft.reshape(len(received) * self._parts, -1))
        return bits.to(torch.uint8).reshape(len(received), -1), right.reshape(len(received), -1).bool().all(dim=1)


@lru_cache(maxsize=8)
def channel_code(scheme: Scheme, num_symbols: int) -> ChannelCode:
    """Return the code of a scheme and a number of symbols, made once."""
    return ChannelCode(scheme, num_symbols)


def num_parts(scheme: Scheme, num_symbols: int) -> int:
    """Return the number of transport blocks of equal size for K symbols, see `ChannelCode`.

    >>> num_parts(Scheme("qpsk", 308), 4096), num_parts(Scheme("qpsk", 308), 8192), num_parts(Scheme("qpsk", 449), 8192)
    (1, 2, 1)
    """
    bits = num_symbols * scheme.bits_per_symbol * scheme.code_rate
    parts = math.ceil(bits / _MOST_BITS_UNREPEATED) if 1 / 4 < scheme.code_rate <= 1 / 3 else 1
    while num_symbols % parts:
        parts += 1
    return parts


def spread_order(num_symbols: int) -> NDArray[np.int64]:
    """Return the order in which the symbols of a block are sent: neighbours end up far apart, whatever their number.

    So every code block of a transport block meets every frame of its image.

    >>> spread_order(8).tolist()
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    step = max(1, round(num_symbols * (5**0.5 - 1) / 2))
    while math.gcd(step, num_symbols) != 1:
        step += 1
    return np.arange(num_symbols, dtype=np.int64) * step % num_symbols


def bytes_to_bits(data: bytes, num_bits: int) -> Tensor:
    """Return the bits of `data` as uint8 (num_bits,), filled up with zeros."""
    bits = np.zeros(num_bits, dtype=np.uint8)
    given = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    bits[: given.size] = given
    return torch.from_numpy(bits)


def bits_to_bytes(bits: Tensor) -> bytes:
    """Return the whole bytes of uint8 bits (n,)."""
    values = bits.cpu().numpy().astype(np.uint8)
    return np.packbits(values[: values.size // 8 * 8]).tobytes()
