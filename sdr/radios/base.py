"""Define what a radio is: a context manager that sends and captures samples.

Full scale is 1.0 on our side of every radio: `transmit` refuses samples of a magnitude above 1, `receive` returns
components in -1..1.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.recordings.health import RecordingHealth, measure_health, worst_health
from sdr.recordings.recording import MAX_SAMPLES, Recording, utc_now
from sdr.settings import RadioSettings

DEFAULT_CENTER_HZ = 2.45e9
"""Carrier of a radio that nobody tuned: the 2.4 GHz ISM band."""

_PEAK_TOLERANCE = 1e-5

R = TypeVar("R", bound="Radio")


class BrokenCapture(RadioError):
    """A capture broke off.

    Args:
        message: why.
        recording: what had arrived, marked as partial.
    """

    def __init__(self, message: str, recording: Recording) -> None:
        super().__init__(message)
        self.recording = recording


@dataclass(frozen=True)
class RadioCapabilities:
    """Abilities of a radio. Asking for what it can't do is a `RadioError` that says so.

    Args:
        transmit: it can send.
        receive: it can capture.
        cyclic: it can repeat a burst until the next one.
        finite: it knows by itself where the signal ends, so `receive()` needs no number of samples.
        has_time: its captures carry hardware time.
        antennas: that it captures at once; those of a file show when it is read.
    """

    transmit: bool = True
    receive: bool = True
    cyclic: bool = False
    finite: bool = False
    has_time: bool = False
    antennas: int = 1


@runtime_checkable
class Radio(Protocol):
    """A radio: a context manager that sends and captures samples."""

    @property
    def settings(self) -> RadioSettings:
        """Settings of the radio."""
        ...

    @property
    def capabilities(self) -> RadioCapabilities:
        """Abilities of the radio."""
        ...

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Send complex64 (n,) samples of magnitude at most 1; `cyclic` repeats them until the next call or close."""
        ...

    def receive(self, num_samples: int | None = None) -> Recording:
        """Capture `num_samples`, or all there is where the radio is `finite`."""
        ...

    def close(self) -> None:
        """Let go of the device; a second call does nothing."""
        ...

    def __enter__(self: R) -> R: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Streams(Protocol):
    """A radio that receives without end."""

    def stream(self, block_samples: int) -> Iterator[NDArray[np.complex64]]:
        """Yield contiguous blocks of complex64 (block_samples,), or (A, block_samples) of A antennas."""
        ...


RX_SETTINGS = ("center_hz", "rx_gain_db")
"""Fields of `RadioSettings` that a receiver can be set by, while a transmission goes on."""


@runtime_checkable
class Tunes(Protocol):
    """A radio whose receiver can be set while a transmission goes on."""

    def rx_limits(self) -> dict[str, tuple[float, float]]:
        """Return the least and the greatest value of each of `RX_SETTINGS`, as it is tuned now."""
        ...

    def tune_receiver(self, center_hz: float, rx_gain_db: float) -> None:
        """Set carrier and gain of the receiver; no stream may be open. The transmitter is left as it is."""
        ...


@dataclass(frozen=True)
class Driver:
    """The way to open the radios of one URI scheme.

    Args:
        parse: reads what follows the colon, opening nothing; raises RadioError or InputError where it is wrong.
        open: opens the radio, given what follows the colon, its settings and the layout that will travel over it.
    """

    parse: Callable[[str], object]
    open: Callable[[str, RadioSettings, FrameLayout | None], Radio]


class TuningOptions(Protocol):
    """Options of a URI that stand for fields of `RadioSettings`; None where the URI doesn't name them."""

    @property
    def center_hz(self) -> float | None: ...

    @property
    def bandwidth_hz(self) -> float | None: ...

    @property
    def tx_gain_db(self) -> float | None: ...

    @property
    def rx_gain_db(self) -> float | None: ...


def tuned(settings: RadioSettings, options: TuningOptions) -> RadioSettings:
    """Return settings in which a URI's options win, and a carrier is set where there was none."""
    fields = ("center_hz", "bandwidth_hz", "tx_gain_db", "rx_gain_db")
    named = {field: value for field in fields if (value := getattr(options, field)) is not None}
    settings = replace(settings, **named)
    return settings if settings.center_hz else replace(settings, center_hz=DEFAULT_CENTER_HZ)


def record_blocks(radio: Radio, num_samples: int, block_samples: int = 1 << 20) -> Generator[Recording, None, None]:
    """Yield `num_samples` samples in blocks that follow each other without a gap, or whose health says so.

    Raises:
        RadioError: the radio ends by itself, can't stream, or fails.
    """
    left = num_samples
    if not isinstance(radio, Streams):
        if radio.capabilities.finite:
            raise RadioError(f"radio '{radio.settings.uri}' can't stream: its samples have an end; import it instead")
        # What a ZMQ radio gives next follows what it gave last.
        while left:
            yield radio.receive(min(left, block_samples))
            left -= min(left, block_samples)
        return
    lost = 0
    with contextlib.closing(radio.stream(block_samples)) as stream:  # type: ignore[type-var]  # all are generators
        while left:
            first, *others = np.atleast_2d(next(stream))[:, :left]
            overflows = getattr(radio, "overflows", lambda: 0)()
            health = worst_health([measure_health(each, overflows=overflows - lost) for each in (first, *others)])
            lost, left = overflows, left - first.size
            digest = getattr(radio, "layout_digest", "")
            yield Recording(first, radio.settings, utc_now(), digest, health, others=tuple(others))


class ContextRadio:
    """Context manager, settings and argument checks that all radios share."""

    capabilities: RadioCapabilities

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None) -> None:
        self.settings = settings
        self.layout_digest = layout.digest if layout else ""
        self._closed = False

    def __enter__(self: Any) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the device; a second call does nothing."""
        self._closed = True

    def _check_transmit(self, samples: NDArray[np.complex64], cyclic: bool) -> None:
        self._check_open()
        if cyclic and not self.capabilities.cyclic:
            raise RadioError(f"radio '{self.settings.uri}' can't repeat a burst; send it once or use sim:")
        if not isinstance(samples, np.ndarray) or samples.dtype != np.complex64 or samples.ndim != 1:
            raise RadioError("a radio sends complex64 samples of one dimension")
        if not samples.size:
            raise RadioError("there is nothing to send: 0 samples")
        peak = float(np.abs(samples).max())
        if not peak <= 1.0 + _PEAK_TOLERANCE:
            raise RadioError(f"samples must have a magnitude of at most 1 (full scale), found {peak:.4g}; scale them")

    def _check_receive(self, num_samples: int | None) -> None:
        self._check_open()
        if num_samples is None:
            if not self.capabilities.finite:
                raise RadioError(f"radio '{self.settings.uri}' never ends by itself; say how many samples to receive")
        elif isinstance(num_samples, bool) or not 1 <= num_samples <= MAX_SAMPLES:
            raise RadioError(f"a capture has 1..{MAX_SAMPLES} samples, found {num_samples}")

    def _check_open(self) -> None:
        if self._closed:
            raise RadioError(f"radio '{self.settings.uri}' is closed; open it again")

    def _broken(self, error: RadioError, samples: NDArray[np.complex64], utc: str) -> RadioError:
        """Return the error of a capture that broke off, with the samples (n,) or (A, n) that had arrived, if any."""
        if not samples.size:
            return error
        first, *others = np.atleast_2d(samples.copy())
        recording = Recording(first, self.settings, utc, self.layout_digest, partial=True, others=tuple(others))
        return BrokenCapture(str(error), recording)

    def _judged(self, samples: NDArray[np.complex64], utc: str, found: Sequence[RecordingHealth]) -> Recording:
        """Return a capture (A, n) as a recording, with what was found of each antenna."""
        others = tuple(samples[1:])
        return Recording(samples[0], self.settings, utc, self.layout_digest, worst_health(found), others=others)

    def _record(self, samples: NDArray[np.complex64], *others: NDArray[np.complex64]) -> Recording:
        return Recording(samples, self.settings, utc_now(), self.layout_digest, others=others)
