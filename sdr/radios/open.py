"""Open the radio that a URI names; the only module that knows every driver.

A driver is a module of its own with a `DRIVER` (see `sdr.radios.base.Driver`); a line of `DRIVERS` makes it known.
"""

import importlib
from dataclasses import replace

from sdr.errors import InputError, RadioError, did_you_mean
from sdr.layout import FrameLayout
from sdr.radios.address import RadioAddress, parse_uri
from sdr.radios.base import Driver, Radio
from sdr.settings import RadioSettings

DRIVERS = {
    "file": "sdr.radios.file",
    "pluto": "sdr.radios.pluto",
    "sim": "sdr.radios.simulated",
    "soapy": "sdr.radios.soapy",
    "uhd": "sdr.radios.usrp",
    "zmq": "sdr.radios.zmq_radio",
}
"""Modules by URI scheme; imported only where such a radio is asked for."""

SCHEMES = tuple(DRIVERS)
"""Schemes that a radio URI may start with."""


def check_uri(uri: str) -> RadioAddress:
    """Return the parts of a radio URI after its driver has read them, without opening anything.

    Raises:
        RadioError: an unknown scheme or option, or a value that can't be read.
    """
    address = parse_uri(uri)
    driver = _find_driver(uri, address)
    try:
        driver.parse(address.rest)
    except InputError as error:
        raise RadioError(f"radio '{uri}': {error}") from None
    return address


def open_radio(uri: str, settings: RadioSettings | None = None, layout: FrameLayout | None = None) -> Radio:
    """Open the radio that a URI names.

    Args:
        uri: as `sdr.radios.address` lists them.
        settings: how to set the radio; the layout's rate and defaults unless given. Its `uri` is replaced by `uri`.
        layout: layout that will travel over the radio; captures carry its digest.

    Raises:
        RadioError: the URI is wrong, or the radio can't be opened.

    >>> import numpy as np
    >>> with open_radio("sim:delay_samples=2") as radio:
    ...     radio.transmit(np.full(2, 0.5, np.complex64))
    ...     radio.receive(5).samples.real
    array([0. , 0. , 0.5, 0.5, 0. ], dtype=float32)
    """
    address = parse_uri(uri)
    driver = _find_driver(uri, address)
    if settings is None:
        settings = RadioSettings(rate_sps=layout.rate_sps) if layout else RadioSettings()
    try:
        return driver.open(address.rest, replace(settings, uri=uri), layout)
    except InputError as error:
        raise RadioError(f"radio '{uri}': {error}") from None


def _find_driver(uri: str, address: RadioAddress) -> Driver:
    if address.scheme not in DRIVERS:
        hint = did_you_mean(address.scheme or address.rest, DRIVERS)
        raise RadioError(f"radio '{uri}' has no known scheme before the colon; {hint} (as in sim:csnr_db=10)")
    return importlib.import_module(DRIVERS[address.scheme]).DRIVER
