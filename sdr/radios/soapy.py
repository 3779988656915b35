"""Drive whatever SoapySDR drives: `soapy:driver=rtlsdr,rx_gain_db=20` or `soapy:driver=lime,serial=00090706024F0D1A`.

What follows `soapy:` are SoapySDR's own device arguments, among which options of ours may stand, separated by commas:

- `center_hz`, `bandwidth_hz`, `tx_gain_db`, `rx_gain_db`: as in `RadioSettings`, and they win over those given.
- `rx_offset_hz`, `trim_ppm`, `tx_antenna`, `rx_antenna`, `timeout_s`: as for a USRP (`sdr.radios.usrp`).

SoapySDR lives in a process of its own (`sdr.radios.soapy_process`), in whichever interpreter has it: Debian's is built
for the system's Python.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.options import option_readers
from sdr.radios.address import split_arguments
from sdr.radios.base import Driver
from sdr.radios.uhd_host import find_python
from sdr.radios.uhd_link import UhdLink
from sdr.radios.usrp import UsrpOptions, UsrpRadio
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings

INSTALL = "apt-get install python3-soapysdr and your radio's soapysdr-module-..., or set OTA_SOAPY_PYTHON"
"""Remedy where SoapySDR is missing."""

PROCESS_FILE = Path(__file__).with_name("soapy_process.py")
"""File that the process runs."""

_OURS = (
    *("center_hz", "bandwidth_hz", "tx_gain_db", "rx_gain_db"),
    *("rx_offset_hz", "trim_ppm", "tx_antenna", "rx_antenna", "timeout_s"),
)


def find_soapy_python() -> str:
    """Return the interpreter to run SoapySDR in: this one, that of `OTA_SOAPY_PYTHON` or of GNU Radio, the system's.

    Raises:
        RadioError: none of them has `SoapySDR`.
    """
    variables = ("OTA_SOAPY_PYTHON", "OTA_GNURADIO_PYTHON")
    return find_python("SoapySDR", variables, f"no interpreter has SoapySDR's Python API (tried {{}}); {INSTALL}")


def parse_soapy(rest: str) -> tuple[str, UsrpOptions]:
    """Split what follows `soapy:` into SoapySDR's device arguments and our options.

    Raises:
        RadioError: no device is named, or an option is misspelt, given twice, or out of range.

    >>> parse_soapy("driver=rtlsdr,rx_gain_db=20,serial=1")[0]
    'driver=rtlsdr,serial=1'
    """
    known = {key: reader for key, reader in option_readers(UsrpOptions).items() if key in _OURS}
    args, ours = split_arguments(rest, known, "soapy:driver=rtlsdr")
    for item in args:
        if item.startswith("rx="):
            raise RadioError(f"soapy: a device receives with its first channel alone; leave out {item}")
    if not any(item.startswith("driver=") for item in args):
        raise RadioError("soapy: no driver is named; as in soapy:driver=rtlsdr; SoapySDRUtil --find lists devices")
    return ",".join(args), UsrpOptions(**ours)


class SoapyLink(UhdLink):
    """The process that holds one device of SoapySDR."""

    name, device, install = "SoapySDR", "radio", INSTALL

    def find_python(self) -> str:
        """Return the interpreter that has SoapySDR."""
        return find_soapy_python()

    def process_file(self) -> Path:
        """Return the file that the process runs."""
        return PROCESS_FILE

    def explain(self, message: str) -> str:
        """Return what an error of SoapySDR's means, in one line."""
        last = next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "no reason given")
        if "no match" in message or "no devices found" in message.lower():
            return (
                f"no device found for soapy:{self._args}; check its power and cable, that its module "
                "(soapysdr-module-...) is installed, and what SoapySDRUtil --find says"
            )
        return f"the radio soapy:{self._args}: SoapySDR says '{last}'"


class SoapyRadio(UsrpRadio):
    """A device of SoapySDR; a context manager. Only some have a clock of their own, and some only receive.

    Args:
        rest: what follows `soapy:` in the URI.
        settings: how to set it; the URI's options win.
        layout: layout that will travel over it.

    Raises:
        RadioError: SoapySDR or the device is missing or busy; a setting is out of range.
    """

    link_class = SoapyLink

    def __init__(self, rest: str, settings: RadioSettings, layout: FrameLayout | None = None) -> None:
        super().__init__(rest, settings, layout)
        transmits, has_time = self.about["transmits"], self.about["has_time"]
        self.capabilities = replace(self.capabilities, transmit=transmits, cyclic=transmits, has_time=has_time)

    def parse(self, rest: str) -> tuple[str, UsrpOptions]:
        """Split what follows the scheme into SoapySDR's arguments and our options."""
        return parse_soapy(rest)

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False, at_s: float | None = None) -> None:
        """Send samples, as a USRP does; where there is no clock, at once.

        Raises:
            RadioError: the device only receives, has no clock and a time is given, or as for a USRP.
        """
        if not self.capabilities.transmit:
            raise RadioError(f"radio '{self.settings.uri}' only receives; give it as --rx-radio beside one that sends")
        self._check_clock(at_s)
        super().transmit(samples, cyclic, at_s)

    def receive(self, num_samples: int | None = None, at_s: float | None = None) -> Recording:
        """Capture samples, as a USRP does; where there is no clock, at once.

        Raises:
            RadioError: it has no clock and a time is given, or as for a USRP.
        """
        self._check_clock(at_s)
        return super().receive(num_samples, at_s)

    def _check_clock(self, at_s: float | None) -> None:
        if at_s is not None and not self.capabilities.has_time:
            raise RadioError(f"radio '{self.settings.uri}' has no clock; leave the time out")


def _open_soapy(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> SoapyRadio:
    return SoapyRadio(rest, settings, layout)


DRIVER = Driver(parse_soapy, _open_soapy)
