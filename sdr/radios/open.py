"""Open the radio that a URI names; the only module that knows every driver."""

from dataclasses import replace

from sdr.air.chain import Impairments
from sdr.errors import InputError, RadioError
from sdr.layout import FrameLayout
from sdr.radios.address import SIM_ARGUMENTS, parse_uri
from sdr.radios.base import Radio
from sdr.radios.file import FileRadio
from sdr.radios.simulated import SimulatedRadio
from sdr.radios.zmq_radio import ZmqRadio
from sdr.settings import RadioSettings


def open_radio(uri: str, settings: RadioSettings | None = None, layout: FrameLayout | None = None) -> Radio:
    """Open the radio that a URI names.

    Args:
        uri: see the module's documentation.
        settings: how to set it; the layout's rate and defaults otherwise. `settings.uri` is replaced by `uri`.
        layout: layout that will travel over it; captures carry its digest.

    Raises:
        RadioError: the URI is wrong, or the radio can't be opened.

    >>> import numpy as np
    >>> with open_radio("sim:delay_samples=2") as radio:
    ...     radio.transmit(np.full(2, 0.5, np.complex64))
    ...     radio.receive(5).samples.real
    array([0. , 0. , 0.5, 0.5, 0. ], dtype=float32)
    """
    address = parse_uri(uri)
    if settings is None:
        settings = RadioSettings(rate_sps=layout.rate_sps) if layout else RadioSettings()
    settings = replace(settings, uri=uri)
    if address.scheme == "pluto":
        from sdr.radios.pluto import PlutoRadio  # its driver is optional, and slow to load

        return PlutoRadio(address.rest, settings, layout)
    if address.scheme == "uhd":
        from sdr.radios.usrp import UsrpRadio  # starts a process; only whoever asks for one needs it

        return UsrpRadio(address.rest, settings, layout)
    try:
        if address.scheme == "sim":
            # What the radio has no argument of its own for.
            others = {key for key in address.options if key not in SIM_ARGUMENTS}
            own = {key: value for key, value in address.options.items() if key in SIM_ARGUMENTS}
            chain = Impairments(**{key: address.options[key] for key in others})
            return SimulatedRadio(settings, layout, **own, impairments=chain)
        if address.scheme == "file":
            return FileRadio(settings, layout, address.rest)
        return ZmqRadio(settings, layout, **address.options)
    except InputError as error:
        raise RadioError(f"radio '{uri}': {error}") from None
