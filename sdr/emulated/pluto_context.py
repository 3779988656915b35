"""Describe the devices of an emulated Pluto, their attributes and first values, as libiio's context does."""

from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

FIRMWARE = "v0.38-emulated"
"""Version of the firmware."""

XO_HZ = 40_000_000
"""Nominal frequency of the crystal."""

PHY, XADC, DAC, ADC = "iio:device0", "iio:device1", "iio:device2", "iio:device3"
DEVICE_NAMES = {PHY: "ad9361-phy", XADC: "xadc", DAC: "cf-ad9361-dds-core-lpc", ADC: "cf-ad9361-lpc"}

Key = tuple[str, str, str, str]
"""Device, kind (INPUT, OUTPUT, DEBUG, BUFFER or nothing), channel, attribute."""


@dataclass
class _Channel:
    """One channel of the context: its attributes as name -> (file name, first value)."""

    id: str
    output: bool
    name: str = ""
    scan: str = ""
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)


def _named(prefix: str, shared: str, per_channel: dict[str, str], common: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return attributes of a channel: file names start with the channel's prefix, or with that of its kind."""
    own = {name: (f"{prefix}_{name}", value) for name, value in per_channel.items()}
    return dict(sorted((own | {name: (f"{shared}_{name}", value) for name, value in common.items()}).items()))


def _oscillator(channel: str, name: str) -> _Channel:
    values = {"external": "0", "frequency": "2450000000", "frequency_available": "[325000000 1 3800000000]"}
    attributes = _named(f"out_{channel}_{name}", "", values | {"powerdown": "0"}, {})
    return _Channel(channel, True, name, "", attributes)


RATES = "[2083333 1 61440000]"
_COMMON = {
    "filter_fir_en": "0",
    "rf_bandwidth": "18000000",
    "rf_bandwidth_available": "[200000 1 56000000]",
    "sampling_frequency": "30720000",
    "sampling_frequency_available": RATES,
}
_TRACKING = {"bb_dc_offset_tracking_en": "1", "quadrature_tracking_en": "1", "rf_dc_offset_tracking_en": "1"}
_RX = {
    "gain_control_mode": "slow_attack",
    "gain_control_mode_available": "manual fast_attack slow_attack hybrid",
    "hardwaregain": "71.000000 dB",
    "hardwaregain_available": "[-3 1 71]",
    "rf_port_select": "A_BALANCED",
    "rf_port_select_available": "A_BALANCED B_BALANCED C_BALANCED",
    "rssi": "0.00 dB",
}
_TX = {
    "hardwaregain": "-10.000000 dB",
    "hardwaregain_available": "[-89.750000 0.250000 0.000000]",
    "rf_port_select": "A",
    "rf_port_select_available": "A B",
    "rssi": "0.00 dB",
}


def _tone(index: int) -> _Channel:
    name = f"TX1_{'IQ'[index // 2]}_F{index % 2 + 1}"
    values = {"frequency": "1000000", "phase": "0", "raw": "1", "sampling_frequency": "30720000", "scale": "0.0"}
    return _Channel(f"altvoltage{index}", True, name, "", _named(f"out_altvoltage{index}_{name}", "", values, {}))


def _sample_channel(index: int, output: bool) -> _Channel:
    kind = "out" if output else "in"
    format_ = "le:S16/16&gt;&gt;0" if output else "le:S12/16&gt;&gt;0"
    rates = {"sampling_frequency": "30720000", "sampling_frequency_available": "30720000 3840000"}
    scan = f'<scan-element index="{index}" format="{format_}" />'
    return _Channel(f"voltage{index}", output, "", scan, _named(f"{kind}_voltage{index}", f"{kind}_voltage", {}, rates))


def _receiver(index: int) -> _Channel:
    attributes = _named(f"in_voltage{index}", "in_voltage", _RX, _COMMON | _TRACKING)
    return _Channel(f"voltage{index}", False, "", "", attributes)


_CHANNELS: dict[str, tuple[_Channel, ...]] = {
    PHY: (
        _oscillator("altvoltage1", "TX_LO"),
        _receiver(0),
        _oscillator("altvoltage0", "RX_LO"),
        _Channel("voltage0", True, "", "", _named("out_voltage0", "out_voltage", _TX, _COMMON)),
        _Channel("out", False, "", "", {"voltage_filter_fir_en": ("in_out_voltage_filter_fir_en", "0")}),
        _Channel("temp0", False, "", "", {"input": ("in_temp0_input", "38000")}),
    ),
    XADC: (
        _Channel(
            "temp0", False, "", "", _named("in_temp0", "", {"offset": "-2219", "raw": "2650", "scale": "123"}, {})
        ),
    ),
    DAC: (*(_tone(index) for index in range(4)), *(_sample_channel(index, True) for index in range(2))),
    ADC: tuple(_sample_channel(index, False) for index in range(2)),
}
_SECOND_RECEIVER = {PHY: (_receiver(1),), ADC: (_sample_channel(2, False), _sample_channel(3, False))}
"""What the 2r2t mode adds; a second transmitter is not modelled."""


def _channels(rx: int) -> dict[str, tuple[_Channel, ...]]:
    """Return the channels of each device, with 1 or 2 receivers."""
    added = _SECOND_RECEIVER if rx > 1 else {}
    return {device: (*channels, *added.get(device, ())) for device, channels in _CHANNELS.items()}


_DEVICE_ATTRIBUTES: dict[str, dict[str, str]] = {
    PHY: {
        "calib_mode": "auto",
        "calib_mode_available": "auto manual manual_tx_quad tx_quad rf_dc_offs rssi_gain_step",
        "ensm_mode": "fdd",
        "ensm_mode_available": "sleep wait alert fdd pinctrl pinctrl_fdd_indep",
        "filter_fir_config": "FIR Rx: 0,0 Tx: 0,0",
        "rx_path_rates": "",
        "trx_rate_governor": "nominal",
        "trx_rate_governor_available": "nominal highest_osr",
        "tx_path_rates": "",
        "xo_correction": f"{XO_HZ}",
        "xo_correction_available": "[39992000 1 40008000]",
    },
    XADC: {"sampling_frequency": "961538"},
    DAC: {},
    ADC: {},
}
_DEBUG_ATTRIBUTES: dict[str, dict[str, str]] = {
    PHY: {"direct_reg_access": "0x0", "loopback": "0"},
    XADC: {},
    DAC: {"direct_reg_access": "0x0"},
    ADC: {"direct_reg_access": "0x0", "pseudorandom_err_check": "CH0 : PN9 : Out of Sync : PN Error"},
}
_DTD = (
    "<!DOCTYPE context [<!ELEMENT context (device | context-attribute)*><!ELEMENT context-attribute EMPTY>"
    "<!ELEMENT device (channel | attribute | debug-attribute | buffer-attribute)*>"
    "<!ELEMENT channel (scan-element?, attribute*)><!ELEMENT attribute EMPTY><!ELEMENT scan-element EMPTY>"
    "<!ELEMENT debug-attribute EMPTY><!ELEMENT buffer-attribute EMPTY>"
    "<!ATTLIST context name CDATA #REQUIRED version-major CDATA #REQUIRED version-minor CDATA #REQUIRED "
    "version-git CDATA #REQUIRED description CDATA #IMPLIED>"
    "<!ATTLIST context-attribute name CDATA #REQUIRED value CDATA #REQUIRED>"
    "<!ATTLIST device id CDATA #REQUIRED name CDATA #IMPLIED label CDATA #IMPLIED>"
    "<!ATTLIST channel id CDATA #REQUIRED type (input|output) #REQUIRED name CDATA #IMPLIED>"
    "<!ATTLIST scan-element index CDATA #REQUIRED format CDATA #REQUIRED scale CDATA #IMPLIED>"
    "<!ATTLIST attribute name CDATA #REQUIRED filename CDATA #IMPLIED>"
    "<!ATTLIST debug-attribute name CDATA #REQUIRED><!ATTLIST buffer-attribute name CDATA #REQUIRED>]>"
)
_BUFFER_ATTRIBUTES = {"data_available": "0", "length_align_bytes": "8", "watermark": "1"}


def context_xml(uri: str, missing: str, rx: int = 1) -> bytes:
    """Return the context description of a Pluto with `rx` receivers, without the device called `missing`."""
    facts = {
        "hw_model": "Analog Devices PlutoSDR Rev.B (Z7010-AD9363A), emulated",
        "hw_model_variant": "0",
        "hw_serial": "emulated",
        "fw_version": FIRMWARE,
        "ad9361-phy,model": "ad9363a",
        "ad9361-phy,xo_correction": "40000000",
        "local,kernel": "none",
        "uri": uri,
    }
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        _DTD,
        '<context name="network" version-major="0" version-minor="25" version-git="emulate" '
        'description="emulated PlutoSDR">',
        *(f"<context-attribute name={quoteattr(k)} value={quoteattr(v)} />" for k, v in facts.items()),
    ]
    for device, channels in _channels(rx).items():
        if DEVICE_NAMES[device] == missing:
            continue
        parts.append(f'<device id="{device}" name="{DEVICE_NAMES[device]}">')
        for channel in channels:
            name = f' name="{channel.name}"' if channel.name else ""
            parts.append(f'<channel id="{channel.id}"{name} type="{"output" if channel.output else "input"}">')
            parts.append(channel.scan)
            parts += [f'<attribute name="{key}" filename="{file}" />' for key, (file, _) in channel.attributes.items()]
            parts.append("</channel>")
        parts += [f'<attribute name="{key}" />' for key in _DEVICE_ATTRIBUTES[device]]
        parts += [f'<debug-attribute name="{key}" />' for key in _DEBUG_ATTRIBUTES[device]]
        if device in (ADC, DAC):
            parts += [f'<buffer-attribute name="{key}" />' for key in _BUFFER_ATTRIBUTES]
        parts.append("</device>")
    return "".join([*parts, "</context>"]).encode()


def first_values(rx: int = 1) -> dict[Key, str]:
    """Return what all attributes of a Pluto with `rx` receivers hold after power-up."""
    values: dict[Key, str] = {}
    for device, channels in _channels(rx).items():
        for key, value in _DEVICE_ATTRIBUTES[device].items():
            values[device, "", "", key] = value
        for key, value in _DEBUG_ATTRIBUTES[device].items():
            values[device, "DEBUG", "", key] = value
        for channel in channels:
            kind = "OUTPUT" if channel.output else "INPUT"
            for key, (_, value) in channel.attributes.items():
                values[device, kind, channel.id, key] = value
    for device in (ADC, DAC):
        for key, value in _BUFFER_ATTRIBUTES.items():
            values[device, "BUFFER", "", key] = value
    return values
