"""Know the types that samples are stored in, by the names that SigMF gives them, and convert them."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError


@dataclass(frozen=True)
class SampleType:
    """How a sample lies in a file.

    Attributes:
        component: NumPy type of one component.
        quadrature: whether a sample has an in-phase and a quadrature component; real samples have the first alone.
        full_scale: value that becomes 1.
        middle: value that becomes 0.
    """

    component: str
    quadrature: bool
    full_scale: float
    middle: float

    @property
    def sample_bytes(self) -> int:
        """Size of a sample."""
        return np.dtype(self.component).itemsize * (2 if self.quadrature else 1)

    def to_complex(self, content: bytes, full_scale: float | None = None) -> NDArray[np.complex64]:
        """Return whole samples as complex64 at full scale 1, the quadrature of real ones 0.

        What single precision can't hold becomes infinite, which no recording takes.

        Args:
            content: a whole number of samples.
            full_scale: value that becomes 1, None: the type's own.
        """
        stored = np.frombuffer(content, dtype=self.component)
        # 32-bit integers and double precision are scaled before they are rounded, once.
        precise = np.float64 if stored.dtype.itemsize > 2 and self.component[1:] != "f4" else np.float32
        scale = self.full_scale if full_scale is None else full_scale
        with np.errstate(over="ignore"):
            values = stored.astype(precise)
            if self.middle:
                values -= precise(self.middle)
            if scale != 1.0:
                values /= precise(scale)
            parts = values.astype(np.float32, copy=False)
        return parts.view(np.complex64) if self.quadrature else parts.astype(np.complex64)


_INTEGERS = tuple(itertools.product("iu", (2, 4)))


def _types() -> dict[str, SampleType]:
    """Return all types; names without byte order are little-endian, and the only ones of single bytes."""
    found = {}
    for kind, (form, size) in itertools.product("cr", (("f", 4), ("f", 8), ("i", 1), ("u", 1), *_INTEGERS)):
        half = 2.0 ** (8 * size - 1)
        full_scale, middle = (1.0, 0.0) if form == "f" else (half, half if form == "u" else 0.0)
        name = f"{kind}{form}{8 * size}"
        for order, mark in (("_le", "<"), ("_be", ">")) if size > 1 else (("", "|"),):
            found[name + order] = SampleType(f"{mark}{form}{size}", kind == "c", full_scale, middle)
    return found


DATATYPES: dict[str, SampleType] = _types()
"""SigMF's datatypes: integers have their largest magnitude as full scale, unsigned ones half of their range as zero."""

RAW_TYPES: dict[str, SampleType] = {name.removesuffix("_le"): kind for name, kind in DATATYPES.items()} | DATATYPES
"""Types of raw files, where little-endian need not be said. `uhd_rx_cfile` writes cf32 (ci16 with -s), `iio_readdev`
writes ci16 whose full scale is 2048 for a Pluto's 12-bit converter, `hackrf_transfer` writes ci8, `rtl_sdr` cu8."""

NAMED_TYPES = "c or r (complex or real), then f32, f64, i8, u8, i16, u16, i32 or u32, then _le or _be but for 8 bits"
"""What messages say of the types that there are."""


def datatype(name: object, known: dict[str, SampleType]) -> SampleType:
    """Return a type by its name.

    Raises:
        RecordingError: there is none; what there is is named, and nothing similar guessed, which would be read wrongly.

    >>> datatype("cu8", DATATYPES).sample_bytes
    2
    """
    if not isinstance(name, str) or name not in known:
        raise RecordingError(f"there is no sample type {name!r:.60}; the types are {NAMED_TYPES}, as in cf32_le")
    return known[name]
