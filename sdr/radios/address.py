"""Parse radio URIs without opening anything.

- `sim:csnr_db=10,taps=8,decay=4,cfo_hz=300,delay_samples=1000.5,gain_db=-10,seed=1,block_samples=3288`: in process;
  the options are those of `sdr.air.chain.parse_impairments`, as in `sim:tdl=A,doppler_hz=5,offset_ppm=10,adc_bits=8`.
- `file:PATH`: transmits into and receives from PATH.sigmf-meta and PATH.sigmf-data.
- `zmq:rx=tcp://host:port,tx=tcp://host:port`: raw cf32 little-endian over PUSH and PULL, no tags. Both ends connect;
  `rx_bind=yes` and `tx_bind=yes` bind instead, on loopback only unless `anywhere=yes`; `timeout_s=10`.
- `pluto:ip:192.168.2.1,tx_gain_db=-20`: an ADALM-Pluto, see `sdr.radios.pluto`.
- `uhd:type=b200,rx_gain_db=20`: a USRP, see `sdr.radios.usrp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdr.air.chain import IMPAIRMENT_OPTIONS
from sdr.errors import InputError, RadioError, did_you_mean
from sdr.options import finite, parse_options


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("yes", "true", "1"):
        return True
    if text.lower() in ("no", "false", "0"):
        return False
    raise ValueError


SIM_ARGUMENTS = ("csnr_db", "taps", "decay", "cfo_hz", "delay_samples", "gain_db", "seed", "block_samples")
_SIM_OPTIONS = {key: read for key, read in IMPAIRMENT_OPTIONS.items() if key != "noise_var"}
_ZMQ_OPTIONS: dict[str, Callable[[str], Any]] = {
    "rx": str,
    "tx": str,
    "rx_bind": _yes_or_no,
    "tx_bind": _yes_or_no,
    "anywhere": _yes_or_no,
    "timeout_s": finite,
}
SCHEMES = ("file", "pluto", "sim", "uhd", "zmq")
"""Schemes that a radio URI may start with."""


@dataclass(frozen=True)
class RadioAddress:
    """A parsed radio URI.

    Args:
        scheme: one of `SCHEMES`.
        rest: all that follows the colon, as written.
        options: typed options of schemes that have some.
    """

    scheme: str
    rest: str
    options: Mapping[str, Any]


def parse_uri(uri: str) -> RadioAddress:
    """Parse a radio URI without opening anything.

    Raises:
        RadioError: an unknown scheme or option, or a value of the wrong kind.

    >>> parse_uri("sim:csnr_db=10,taps=8").options
    {'csnr_db': 10.0, 'taps': 8}
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES)
        raise RadioError(f"radio '{uri}' has no known scheme before the colon; {hint} (as in sim:csnr_db=10)")
    if scheme == "file":
        if not rest:
            raise RadioError("file: needs a path, as in file:run/tx.sigmf-meta")
        return RadioAddress(scheme, rest, {})
    if scheme in ("pluto", "uhd"):
        return RadioAddress(scheme, rest, {})
    known = _SIM_OPTIONS if scheme == "sim" else _ZMQ_OPTIONS
    try:
        options = parse_options(rest, known, f"{scheme}:", {_yes_or_no: "yes or no"})
    except InputError as error:
        raise RadioError(str(error)) from None
    return RadioAddress(scheme, rest, options)
