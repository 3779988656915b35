"""Take radio URIs apart; what a driver reads in them is in the driver's own module.

- `sim:csnr_db=10,taps=8,cfo_hz=300`: in process, see `sdr.radios.simulated`.
- `file:PATH`: a SigMF recording, see `sdr.radios.file`.
- `zmq:rx=tcp://host:port,tx=tcp://host:port`: samples over ZMQ, see `sdr.radios.zmq_radio`.
- `pluto:ip:192.168.2.1,tx_gain_db=-20`: an ADALM-Pluto, see `sdr.radios.pluto`.
- `uhd:type=b200,rx_gain_db=20`: a USRP, see `sdr.radios.usrp`.
- `soapy:driver=rtlsdr,rx_gain_db=20`: a device of SoapySDR, see `sdr.radios.soapy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sdr.air.chain import IMPAIRMENT_OPTIONS
from sdr.errors import RadioError
from sdr.options import parse_options

# A simulated air at another level or draw is the same device.
_SIM_FREE = ("seed", "csnr_db", "delay_samples", "block_samples", "gain_db")
_UHD_NAMES = ("type", "addr", "serial", "name")


@dataclass(frozen=True)
class RadioAddress:
    """A radio URI in its parts.

    Args:
        scheme: what stands before the colon; empty where there is none.
        rest: all that follows the colon, as written; the whole where there is none.
    """

    scheme: str
    rest: str

    @property
    def options(self) -> Mapping[str, str]:
        """Texts of all key=value items, as written."""
        items = (item.strip().partition("=") for item in self.rest.split(","))
        return {key: value for key, equals, value in items if equals}


def parse_uri(uri: str) -> RadioAddress:
    """Return the parts of a radio URI; `sdr.radios.open.check_uri` also checks them.

    >>> parse_uri("sim:csnr_db=10,taps=8").options
    {'csnr_db': '10', 'taps': '8'}
    """
    scheme, colon, rest = uri.partition(":")
    return RadioAddress(scheme, rest) if colon else RadioAddress("", uri)


def with_option(uri: str, key: str, value: str) -> str:
    """Return a radio URI whose option `key` has a value, whether it had one before or not.

    >>> with_option("pluto:usb:,rx_gain_db=3,tx_gain_db=-20", "rx_gain_db", "7")
    'pluto:usb:,tx_gain_db=-20,rx_gain_db=7'
    """
    kept = [item for item in uri.split(",") if not item.startswith(f"{key}=")]
    return ",".join([*kept, f"{key}={value}"])


def device_of(uri: str) -> str:
    """Return the part of a radio's URI that names the device rather than its settings.

    >>> device_of("pluto:ip:192.168.2.1,tx_gain_db=-20"), device_of("sim:taps=8,csnr_db=10")
    ('pluto:ip:192.168.2.1', 'sim:taps=8')
    """
    address = parse_uri(uri)
    if address.scheme == "sim":
        options = parse_options(address.rest, IMPAIRMENT_OPTIONS, "sim:", RadioError)
        return "sim:" + ",".join(f"{key}={options[key]}" for key in sorted(options) if key not in _SIM_FREE)
    if address.scheme == "pluto":
        return f"pluto:{address.rest.split(',')[0]}"
    if address.scheme == "uhd":
        names = [f"{key}={value}" for key, value in address.options.items() if key in _UHD_NAMES]
        return f"uhd:{','.join(sorted(names))}"
    if address.scheme == "soapy":
        settings = ("_db", "_hz", "_ppm", "_antenna", "_s")
        names = [f"{key}={value}" for key, value in address.options.items() if not key.endswith(settings)]
        return f"soapy:{','.join(sorted(names))}"
    return uri
