"""Send images by an image codec and 5G LDPC, on as many symbols as the JSCC codec would use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.separation.chain import Chain, encode_image
from receiver.separation.methods import SeparationMethod
from receiver.separation.schemes import FIXED_SCHEME, SCHEMES, Scheme, find_scheme
from receiver.separation.sources.source import TooLargeError
from sdr.documents import from_table, read_document
from sdr.errors import ConfigError
from sdr.progress import Progress, silent
from sdr.symbols import Symbols
from transmitter.encode import Transmission

if TYPE_CHECKING:
    from torch import Tensor

    from receiver.codecs.codec import Codec
    from sdr.layout import FrameLayout

#: Symbols of the blocks that the table is measured with.
MEASURED_SYMBOLS = 4096
#: The table that is shipped.
SCHEME_TABLE = Path(__file__).with_name("scheme_table.toml")


@dataclass(frozen=True)
class TableRow:
    """A scheme and the channel SNRs from which it is used.

    Attributes:
        scheme: its name.
        white_noise_db: over white noise, dB.
        fading_db: over fading, dB, the mean channel SNR.
    """

    scheme: str
    white_noise_db: float
    fading_db: float

    def __post_init__(self) -> None:
        find_scheme(self.scheme)
        if not (math.isfinite(self.white_noise_db) and math.isfinite(self.fading_db)):
            raise ConfigError(f"{self.scheme}: its channel SNRs must be finite.")


@dataclass(frozen=True)
class SchemeTable:
    """Schemes by channel SNR.

    Attributes:
        rows: at least one.
    """

    rows: tuple[TableRow, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ConfigError("A table of schemes needs at least one row.")

    def choose(self, csnr_db: float, fading: bool, num_symbols: int = MEASURED_SYMBOLS) -> Scheme:
        """Return the scheme of most bits whose blocks arrive at a channel SNR; the most robust one where none does.

        Args:
            csnr_db: channel SNR, dB.
            fading: over fading rather than white noise.
            num_symbols: of a block; those shorter than the table's need a margin.
        """
        csnr_db -= short_block_margin_db(num_symbols)
        schemes = {row.scheme: row.fading_db if fading else row.white_noise_db for row in self.rows}
        usable = [scheme for scheme in SCHEMES if schemes.get(scheme.name, math.inf) <= csnr_db]
        robust = min((find_scheme(name) for name in schemes), key=lambda scheme: scheme.efficiency)
        return max(usable, key=lambda scheme: scheme.efficiency, default=robust)


@lru_cache(maxsize=4)
def load_table(path: Path = SCHEME_TABLE) -> SchemeTable:
    """Read a table of schemes.

    Raises:
        ConfigError: it is missing, or says something impossible.
    """
    return from_table(SchemeTable, read_document(path, what="table of schemes"), str(path))


def short_block_margin_db(num_symbols: int) -> float:
    """Return by how much more a block of so few symbols needs at a loss of 1e-3 than one of the table's, dB.

    By the normal approximation (Polyanskiy et al. 2010): a rate of sqrt(V / K) Q^-1(1e-3) less, V = (log2 e)^2, which
    is right at high channel SNRs, where a bit costs 3 dB.

    >>> round(short_block_margin_db(256), 2), short_block_margin_db(8192)
    (0.63, 0.0)
    """
    lost_bits = 3.09 * math.log2(math.e) * (num_symbols**-0.5 - MEASURED_SYMBOLS**-0.5)
    return max(0.0, 10 * math.log10(2) * lost_bits)


def choose_chain(method: SeparationMethod, csnr_db: float, fading: bool, num_symbols: int = MEASURED_SYMBOLS) -> Chain:
    """Return the chain that a method sends blocks of so many symbols with at a channel SNR, dB."""
    scheme = FIXED_SCHEME if method.choice == "fixed" else load_table().choose(csnr_db, fading, num_symbols)
    return Chain(method.source, scheme, method.choice)


def encode_separately(
    ids: Sequence[str],
    images: Sequence[Tensor] | Tensor,
    method: SeparationMethod,
    codec: Codec,
    layout: FrameLayout,
    csnr_db: float,
    *,
    fading: bool = False,
    progress: Progress = silent,
) -> Transmission:
    """Encode images by an image codec and 5G LDPC; the headers' codec digest says by which chain.

    Args:
        ids: of the images.
        images: (C, H, W) each.
        method: image codec, and how the scheme is chosen.
        codec: the JSCC codec whose number of symbols they take.
        layout: of the frames, with pilots.
        csnr_db: channel SNR that the scheme is chosen for, dB.
        fading: it is chosen for fading, not for white noise.
        progress: called as images are encoded.

    Raises:
        TooLargeError: an image does not fit.
        ConfigError: a codec is not installed, or the layout has no pilots.
    """
    import torch

    if layout.pilot_symbols == 0:
        raise ConfigError(
            f"Layout '{layout.name}' has no pilots, which an image codec and LDPC need. Use a layout with pilots."
        )
    symbols: list[Symbols] = []
    done = 0
    for shape, group in itertools.groupby(range(len(images)), key=lambda index: tuple(images[index].shape)):
        members = list(group)
        fitting = codec.for_shape((shape[0], shape[1], shape[2]))
        chain = choose_chain(method, csnr_db, fading, fitting.num_symbols)
        z = []
        for index in members:
            try:
                z.append(encode_image(chain, images[index], fitting.num_symbols))
            except TooLargeError as error:
                raise TooLargeError(f"{ids[index]}: {error}") from error
            done += 1
            progress(f"encode ({chain.source}, {chain.scheme.name})", done, len(images))
        chosen = tuple(ids[index] for index in members)
        symbols.append(Symbols(torch.stack(z).numpy(), chain.digest, chosen, fitting.image_shape, csnr_db))
    return Transmission.of(symbols, layout)
