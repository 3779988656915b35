"""Take radio URIs apart; what a driver reads in them is in the driver's own module.

- `sim:csnr_db=10,taps=8,cfo_hz=300`: in process, see `sdr.radios.simulated`.
- `file:PATH`: a SigMF recording, see `sdr.radios.file`.
- `zmq:rx=tcp://host:port,tx=tcp://host:port`: samples over ZMQ, see `sdr.radios.zmq_radio`.
- `pluto:ip:192.168.2.1,tx_gain_db=-20`: an ADALM-Pluto, see `sdr.radios.pluto`.
- `uhd:type=b200,rx_gain_db=20`: a USRP, see `sdr.radios.usrp`.
- `soapy:driver=rtlsdr,rx_gain_db=20`: a device of SoapySDR, see `sdr.radios.soapy`.
"""

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdr.air.chain import IMPAIRMENT_OPTIONS
from sdr.errors import RadioError, did_you_mean
from sdr.options import Reader, parse_options

# A simulated air at another level or draw, or heard by more antennas, is the same device.
_SIM_FREE = ("seed", "csnr_db", "delay_samples", "block_samples", "gain_db", "antenna_gain_db", "rx")
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


def split_arguments(
    rest: str, known: Mapping[str, Reader], example: str, theirs: Collection[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """Return the items of "key=value,key=value" that are a driver's own device arguments, and our options in it.

    A driver ignores what it doesn't know, so an item that looks like a misspelt option is refused.

    Args:
        rest: what follows the scheme.
        known: reader of each of our options.
        example: URI that is right, for messages.
        theirs: the driver's keys, numbered or not, which are no misspelling however they look.

    Raises:
        RadioError: an item has no key or value or is misspelt, or an option is given twice or can't be read.

    >>> split_arguments("driver=lime,gain_db=3", {"gain_db": float}, "soapy:driver=lime")
    (['driver=lime'], {'gain_db': 3.0})
    """
    scheme = example.partition(":")[0]
    args: list[str] = []
    ours: list[str] = []
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = item.partition("=")
        if key in known:
            ours.append(item)
            continue
        hint = did_you_mean(key, known)
        misspelt = key.rstrip(string.digits) not in theirs and hint.startswith("did")
        if not equals or not value.strip() or misspelt:
            raise RadioError(
                f"{scheme}: can't read '{item}'; {hint.rstrip('.?')}; everything is key=value, as in {example}"
            )
        args.append(item)
    return args, parse_options(",".join(ours), known, f"{scheme}:", RadioError)


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
        options = parse_options(address.rest, {**IMPAIRMENT_OPTIONS, "rx": int}, "sim:", RadioError)
        named = {key: options[key] for key in sorted(options) if key not in _SIM_FREE}
        words = {key: ":".join(map(str, v)) if isinstance(v, tuple) else v for key, v in named.items()}
        return "sim:" + ",".join(f"{key}={word}" for key, word in words.items())
    if address.scheme == "pluto":
        return f"pluto:{address.rest.split(',')[0]}"
    if address.scheme == "uhd":
        options = address.options.items()
        names = [f"{key}={value}" for key, value in options if key.rstrip(string.digits) in _UHD_NAMES]
        return f"uhd:{','.join(sorted(names))}"
    if address.scheme == "soapy":
        settings = ("_db", "_hz", "_ppm", "_antenna", "_s")
        names = [f"{key}={value}" for key, value in address.options.items() if not key.endswith(settings)]
        return f"soapy:{','.join(sorted(names))}"
    return uri
