"""Define frame layouts: the numerology of a waveform and all the sequences that derive from its seed.

A frame is, in time order: preamble A, preamble B, header symbols, pilot symbols, data symbols, a gap of zeros. All
OFDM symbols have the same cyclic prefix and use unitary transforms. Carriers are signed indices, -N/2 .. N/2 - 1;
signed carrier k sits in bin k % N of a grid in FFT order.

Every sequence comes from the raw 64-bit output of PCG64 and integer arithmetic. NumPy promises that a bit generator's
raw stream never changes (NEP 19) but makes no such promise for `Generator.permutation` or `Generator.integers`, and a
transmitter under NumPy 1.24 has to agree with a receiver under NumPy 2.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.carriers import MAX_FFT_SIZE, from_ranges, to_ranges
from sdr.convolutional_code import TAIL_BITS
from sdr.documents import from_table, read_document
from sdr.errors import LayoutError, did_you_mean
from sdr.files import write_json

LAYOUTS_DIR = Path(__file__).parent / "layouts"
"""Folder of the shipped layouts."""

ID_BYTES = 8
"""Bytes reserved in the header for one image id."""

HEADER_FIXED_BYTES = 34
"""Bytes of a header without the image ids, CRC included (`sdr.header` lists them)."""

MAX_FRAME_CELLS = 1 << 24

# Stream numbers keep the sequences of one seed independent of each other.
_STREAMS = {
    "preamble_a": 1,
    "preamble_b": 2,
    "pilots": 3,
    "interleaver": 4,
    "scrambler": 5,
    "tracking": 6,
    "header_cells": 7,
    "header_bits": 8,
    "repeated_pilots": 9,
}

_QPSK = (np.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j]) / math.sqrt(2)).astype(np.complex64)

_LIMITS: dict[str, tuple[int, int]] = {
    "fft_size": (16, MAX_FFT_SIZE),
    "cp_samples": (0, MAX_FFT_SIZE - 1),
    "data_symbols": (1, 4096),
    "pilot_symbols": (0, 256),
    "header_symbols": (1, 4096),
    "image_slots": (1, 64),
    "gap_samples": (0, 10_000_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class FrameLayout:
    """One waveform, agreed on by both ends; checks itself before anything is allocated.

    Args:
        name: label, 1..64 characters of [A-Za-z0-9._-]; not part of the digest.
        fft_size: N, a power of two in 16..65536.
        cp_samples: cyclic prefix in samples, 0..N-1.
        rate_sps: complex samples per second.
        active: signed indices of the occupied carriers, ascending.
        data_symbols: S, OFDM symbols that carry images.
        pilot_symbols: P, OFDM symbols known to the receiver; 0 for pilot-free layouts.
        header_symbols: OFDM symbols of the header.
        image_slots: greatest number of images in a frame.
        gap_samples: zeros after each frame.
        seed: seed of every pseudo-random sequence.
        backoff_db: the mean power of an occupied sample lies this far below full scale, 0..60 dB.
        clip_ratio: magnitude limit in units of the rms, or None for no clipping but full scale.
        tracking: signed indices of active carriers that carry known symbols inside the data symbols.
        pilot_every: of so many data symbols the last one is a pilot symbol instead, or None for pilots in front only;
            with data_symbols = 20 and pilot_every = 5 a pilot follows every 4 symbols that carry images.

    Raises:
        LayoutError: a field is of the wrong type, out of range, or doesn't fit the others.

    >>> layout = load_layout("paper")
    >>> layout.num_active, layout.capacity, layout.frame_samples == layout.num_symbols * 266 + layout.gap_samples
    (256, 256, True)
    """

    name: str
    fft_size: int
    cp_samples: int
    rate_sps: float
    active: tuple[int, ...]
    data_symbols: int
    pilot_symbols: int
    header_symbols: int
    image_slots: int
    gap_samples: int
    seed: int
    backoff_db: float = 14.0
    clip_ratio: float | None = None
    tracking: tuple[int, ...] = ()
    pilot_every: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise LayoutError(f"layout name must be 1..64 characters of A-Z a-z 0-9 . _ -, found {self.name!r:.80}")
        for field, (low, high) in _LIMITS.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise LayoutError(f"layout field {field} must be a whole number, found {value!r:.80}")
            if not low <= value <= high:
                raise LayoutError(f"layout field {field} = {value!r:.40} is outside {low}..{high}")
            object.__setattr__(self, field, int(value))
        if self.fft_size & (self.fft_size - 1):
            raise LayoutError(f"layout field fft_size = {self.fft_size} is not a power of two")
        if self.cp_samples >= self.fft_size:
            raise LayoutError(f"cp_samples = {self.cp_samples} must be less than fft_size = {self.fft_size}")
        self._check_real("rate_sps", 1.0, 1e12)
        self._check_real("backoff_db", 0.0, 60.0)
        if self.clip_ratio is not None:
            self._check_real("clip_ratio", 0.1, 100.0)
        for field in ("active", "tracking"):
            self._check_carriers(field)
        if not set(self.tracking) <= set(self.active):
            stray = sorted(set(self.tracking) - set(self.active))[0]
            raise LayoutError(f"tracking carrier {stray} is not among the active carriers; add it there or drop it")
        if sum(carrier % 2 == 0 for carrier in self.active) < 2:
            raise LayoutError("preamble A needs at least 2 active carriers with an even index; add some to 'active'")
        if self.pilot_every is not None:
            if isinstance(self.pilot_every, bool) or not isinstance(self.pilot_every, int):
                raise LayoutError(f"layout field pilot_every must be a whole number, found {self.pilot_every!r:.80}")
            if not 2 <= self.pilot_every <= self.data_symbols:
                raise LayoutError(
                    f"layout field pilot_every = {self.pilot_every} is outside 2..{self.data_symbols} (data_symbols)"
                )
        if len(self.tracking) == len(self.active):
            raise LayoutError("every active carrier is a tracking carrier, which leaves none for data")
        if self.num_symbols * self.fft_size > MAX_FRAME_CELLS:
            raise LayoutError(
                f"a frame of {self.num_symbols} symbols of {self.fft_size} carriers exceeds {MAX_FRAME_CELLS} cells; "
                "use fewer symbols"
            )
        cells = self.header_symbols * self.num_active
        if cells < self.header_coded_bits:
            raise LayoutError(
                f"the header needs {self.header_coded_bits} cells for {self.image_slots} image slots, but "
                f"header_symbols = {self.header_symbols} gives {cells}; raise it to "
                f"{-(-self.header_coded_bits // self.num_active)} or lower image_slots"
            )

    def _check_real(self, field: str, low: float, high: float) -> None:
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LayoutError(f"layout field {field} must be a number, found {value!r:.80}")
        if not low <= value <= high:  # NaN fails this too; whole numbers beyond the range of float pass through it
            raise LayoutError(f"layout field {field} = {value!r:.40} is outside {low:g}..{high:g}")
        object.__setattr__(self, field, float(value))

    def _check_carriers(self, field: str) -> None:
        carriers = getattr(self, field)
        if not isinstance(carriers, (tuple, list)) or len(carriers) > self.fft_size:
            raise LayoutError(f"layout field {field} must be a list of at most {self.fft_size} carrier indices")
        for carrier in carriers:
            if isinstance(carrier, bool) or not isinstance(carrier, (int, np.integer)):
                raise LayoutError(f"layout field {field} must hold whole numbers, found {carrier!r:.80}")
            if not -self.fft_size // 2 <= carrier < self.fft_size // 2:
                raise LayoutError(
                    f"{field} carrier {carrier!r:.40} is outside {-self.fft_size // 2}..{self.fft_size // 2 - 1} "
                    f"for fft_size = {self.fft_size}"
                )
        ordered = tuple(sorted(int(carrier) for carrier in carriers))
        if len(set(ordered)) != len(ordered):
            raise LayoutError(f"layout field {field} names a carrier twice")
        object.__setattr__(self, field, ordered)

    # Sizes

    @property
    def num_active(self) -> int:
        """Occupied carriers."""
        return len(self.active)

    @property
    def num_symbols(self) -> int:
        """OFDM symbols of a frame: two preambles, header, pilots, data."""
        return 2 + self.header_symbols + self.pilot_symbols + self.data_symbols

    @property
    def first_header_symbol(self) -> int:
        """Index of the first header symbol."""
        return 2

    @property
    def first_pilot_symbol(self) -> int:
        """Index of the first pilot symbol (of the first data symbol where there are no pilots)."""
        return 2 + self.header_symbols

    @property
    def first_data_symbol(self) -> int:
        """Index of the first data symbol."""
        return 2 + self.header_symbols + self.pilot_symbols

    @property
    def symbol_samples(self) -> int:
        """Samples of one OFDM symbol with its cyclic prefix."""
        return self.fft_size + self.cp_samples

    @property
    def frame_samples(self) -> int:
        """Samples of a frame with its gap: the distance from one frame to the next."""
        return self.num_symbols * self.symbol_samples + self.gap_samples

    @property
    def capacity(self) -> int:
        """Complex symbols that the data part of a frame holds."""
        return self.payload_rows.size * (self.num_active - len(self.tracking))

    @property
    def header_bytes(self) -> int:
        """Bytes of the header, CRC included."""
        return HEADER_FIXED_BYTES + ID_BYTES * self.image_slots

    @property
    def header_coded_bits(self) -> int:
        """Bits of the header after the rate-1/2 code, before repetition."""
        return 2 * (8 * self.header_bytes + TAIL_BITS)

    @property
    def carrier_spacing_hz(self) -> float:
        """Distance between neighbouring carriers."""
        return self.rate_sps / self.fft_size

    # Levels

    @property
    def rms(self) -> float:
        """Root mean square of an occupied sample, full scale 1."""
        return 10.0 ** (-self.backoff_db / 20.0)

    @property
    def amplitude(self) -> float:
        """Factor from grid cells of unit power to the time samples' scale (unitary transform)."""
        return self.rms * math.sqrt(self.fft_size / self.num_active)

    @property
    def magnitude_limit(self) -> float:
        """Greatest magnitude of a transmitted sample: `clip_ratio * rms` where set, and never above full scale."""
        return 1.0 if self.clip_ratio is None else min(1.0, self.clip_ratio * self.rms)

    @cached_property
    def digest(self) -> str:
        """Digest of the waveform, 8 hex digits; every field but the name counts."""
        content = {key: value for key, value in _as_document(self).items() if key != "name"}
        text = json.dumps({"waveform": 1, **content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    # Carriers

    @cached_property
    def active_bins(self) -> NDArray[np.int64]:
        """(num_active,) FFT bins of the active carriers, in the order of the signed index."""
        return _frozen(np.array(self.active, dtype=np.int64) % self.fft_size)

    @cached_property
    def data_carriers(self) -> NDArray[np.int64]:
        """(num_active - len(tracking),) signed indices of the carriers that carry data, ascending."""
        tracking = set(self.tracking)
        return _frozen(np.array([carrier for carrier in self.active if carrier not in tracking], dtype=np.int64))

    @cached_property
    def data_bins(self) -> NDArray[np.int64]:
        """FFT bins of `data_carriers`."""
        return _frozen(self.data_carriers % self.fft_size)

    @cached_property
    def tracking_bins(self) -> NDArray[np.int64]:
        """(len(tracking),) FFT bins of the tracking carriers, ascending signed index."""
        return _frozen(np.array(self.tracking, dtype=np.int64) % self.fft_size)

    # Repeated pilots

    @cached_property
    def pilot_rows(self) -> NDArray[np.int64]:
        """Data symbols, counted from 0, that are pilots instead."""
        rows = np.arange(self.data_symbols)
        return _frozen(rows[:0] if self.pilot_every is None else rows[self.pilot_every - 1 :: self.pilot_every])

    @cached_property
    def payload_rows(self) -> NDArray[np.int64]:
        """Data symbols, counted from 0, that carry images."""
        return _frozen(np.setdiff1d(np.arange(self.data_symbols), self.pilot_rows))

    # Sequences

    def _raw(self, stream: str, count: int) -> NDArray[np.uint64]:
        """Return (count,) raw 64-bit words of one of the seed's streams."""
        return np.random.PCG64(np.random.SeedSequence([self.seed, _STREAMS[stream]])).random_raw(count)

    def _qpsk(self, stream: str, count: int) -> NDArray[np.complex64]:
        """Return (count,) unit-modulus QPSK symbols of one of the seed's streams."""
        return _QPSK[(self._raw(stream, count) >> np.uint64(62)).astype(np.int64)]

    @cached_property
    def preamble_a(self) -> NDArray[np.complex64]:
        """(N,) grid of preamble A: even active carriers only, so that its two halves in time are equal.

        Mean power per active carrier is 1, hence about 2 on the occupied ones; odd carriers hold noise only.
        """
        grid = np.zeros(self.fft_size, dtype=np.complex64)
        even = self.active_bins[self.active_bins % 2 == 0]
        grid[even] = self._qpsk("preamble_a", even.size) * np.float32(math.sqrt(self.num_active / even.size))
        return _frozen(grid)

    @cached_property
    def preamble_b(self) -> NDArray[np.complex64]:
        """(N,) grid of preamble B: unit-modulus QPSK on every active carrier."""
        grid = np.zeros(self.fft_size, dtype=np.complex64)
        grid[self.active_bins] = self._qpsk("preamble_b", self.num_active)
        return _frozen(grid)

    @cached_property
    def pilots(self) -> NDArray[np.complex64]:
        """(P, N) grid of the pilot symbols: unit-modulus QPSK on every active carrier."""
        grid = np.zeros((self.pilot_symbols, self.fft_size), dtype=np.complex64)
        values = self._qpsk("pilots", self.pilot_symbols * self.num_active)
        grid[:, self.active_bins] = values.reshape(self.pilot_symbols, self.num_active)
        return _frozen(grid)

    @cached_property
    def tracking_symbols(self) -> NDArray[np.complex64]:
        """(S, len(tracking)) unit-modulus symbols on the tracking carriers of each data symbol."""
        values = self._qpsk("tracking", self.data_symbols * len(self.tracking))
        return _frozen(values.reshape(self.data_symbols, len(self.tracking)))

    @cached_property
    def repeated_pilots(self) -> NDArray[np.complex64]:
        """(R, num_active - len(tracking)) unit-modulus symbols on the data carriers of `pilot_rows`."""
        values = self._qpsk("repeated_pilots", self.pilot_rows.size * self.data_bins.size)
        return _frozen(values.reshape(self.pilot_rows.size, self.data_bins.size))

    @cached_property
    def interleaver(self) -> NDArray[np.int64]:
        """(capacity,) payload element i travels in data cell interleaver[i].

        Data cells are counted symbol by symbol, those that are pilots left out, and, within a symbol, by ascending
        data carrier.
        """
        return _frozen(np.argsort(self._raw("interleaver", self.capacity), kind="stable").astype(np.int64))

    @cached_property
    def scrambler(self) -> NDArray[np.complex64]:
        """(capacity,) unit-modulus factor of each data cell."""
        return _frozen(self._qpsk("scrambler", self.capacity))

    @cached_property
    def cell_index(self) -> NDArray[np.int64]:
        """(capacity,) flat index into the (S, N) data grid of payload element i."""
        symbol, column = np.divmod(self.interleaver, self.data_bins.size)
        return _frozen(self.payload_rows[symbol] * self.fft_size + self.data_bins[column])

    @cached_property
    def cell_scramble(self) -> NDArray[np.complex64]:
        """(capacity,) factor that payload element i is multiplied with on its way into the grid."""
        return _frozen(self.scrambler[self.interleaver])

    @cached_property
    def header_cell_bits(self) -> NDArray[np.int64]:
        """(header_symbols * num_active,) index of the coded header bit that each header cell carries.

        The codeword is repeated cyclically; every repetition is interleaved anew, so that no bit meets the same
        carrier each time.
        """
        cells, bits = self.header_symbols * self.num_active, self.header_coded_bits
        repeats = -(-cells // bits)
        keys = self._raw("header_cells", repeats * bits).reshape(repeats, bits)
        return _frozen(np.argsort(keys, axis=1, kind="stable").reshape(-1)[:cells].astype(np.int64))

    @cached_property
    def header_scrambler(self) -> NDArray[np.float32]:
        """(header_symbols, num_active) signs, +1 or -1, of the header cells."""
        raw = self._raw("header_bits", self.header_symbols * self.num_active) >> np.uint64(63)
        return _frozen((1.0 - 2.0 * raw.astype(np.float32)).reshape(self.header_symbols, self.num_active))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only, as everyone who holds the layout shares it, and return it."""
    array.setflags(write=False)
    return array


def _as_document(layout: FrameLayout) -> dict[str, Any]:
    """Return the layout as it stands in a file: plain values, carriers as ranges, no key without a value."""
    document = {field.name: getattr(layout, field.name) for field in fields(layout)}
    document["active"] = to_ranges(layout.active)
    document["tracking"] = to_ranges(layout.tracking)
    return {key: value for key, value in document.items() if value is not None}


def layout_from_document(document: Mapping[str, Any], source: str = "layout") -> FrameLayout:
    """Build a layout from the parsed content of a layout file.

    Args:
        document: mapping of field names to plain values; `active` and `tracking` are lists of carriers or of
            [first, last] pairs, both included.
        source: where it came from, for the message.

    Raises:
        LayoutError: an unknown or missing key, or a value that `FrameLayout` refuses.
    """
    table = dict(document)
    for field in ("active", "tracking"):
        if field in table:
            table[field] = from_ranges(table[field], f"{source}: layout field {field}")
    return from_table(FrameLayout, table, source, LayoutError)


def shipped_layouts() -> tuple[str, ...]:
    """Return the names of the layouts that come with the package.

    >>> shipped_layouts()
    ('air', 'blind', 'paper', 'photo', 'photo-blind')
    """
    return tuple(sorted(path.stem for path in LAYOUTS_DIR.glob("*.toml")))


def load_layout(name_or_path: str | os.PathLike[str]) -> FrameLayout:
    """Load a shipped layout by name, or any layout from a TOML or JSON file.

    Args:
        name_or_path: a name of `shipped_layouts()`, or a path that ends in .toml or .json.

    Raises:
        LayoutError: no such layout, an unreadable file, or a layout that contradicts itself.

    >>> load_layout("air").num_active
    200
    """
    text = os.fspath(name_or_path)
    shipped = shipped_layouts()
    path = LAYOUTS_DIR / f"{text}.toml" if text in shipped else Path(text)
    if path.suffix not in (".toml", ".json"):
        raise LayoutError(
            f"no layout is called '{text}'; {did_you_mean(text, shipped)} (or give a .toml or .json file)"
        )
    return layout_from_document(read_document(path, LayoutError, "layout file"), str(path))


def save_layout(layout: FrameLayout, path: str | os.PathLike[str]) -> Path:
    """Write a layout as JSON, under its final name only when it is complete.

    Args:
        path: file to write; must end in .json.

    Returns:
        The path written.

    Raises:
        LayoutError: the path doesn't end in .json or can't be written.
    """
    target = Path(path)
    if target.suffix != ".json":
        raise LayoutError(f"a layout is saved as JSON, but '{target.name}' doesn't end in .json")
    try:
        write_json(target, _as_document(layout))
    except OSError as error:
        raise LayoutError(f"layout file {target} can't be written: {error.strerror}") from None
    return target
