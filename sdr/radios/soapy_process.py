"""Hold a radio in a process of its own: SoapySDR's Python API behind one socket, which `sdr.radios.uhd_link` speaks to.

It runs in whichever interpreter has `SoapySDR`, as `sdr.radios.uhd_process` does, which it takes the messages, the
thread that transmits and the order of a capture from; it imports nothing else of ours.

Devices without a clock of their own send and capture at once, and what they lose has no known length.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sdr.radios import uhd_process
else:
    _spec = importlib.util.spec_from_file_location("uhd_process", Path(__file__).with_name("uhd_process.py"))
    uhd_process = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(uhd_process)

Refused, Late = uhd_process.Refused, uhd_process.Late
PAD_SAMPLES, STALL_S = uhd_process.PAD_SAMPLES, uhd_process.STALL_S
RATE_TOLERANCE = 1e-4
"""Rates count as the same up to this, as in `sdr.settings`."""
PIECE_SAMPLES = 1 << 14
"""Samples written at a time."""
DRAIN_US = 50_000


class SoapyDevice(uhd_process.Usrp):
    """An open device of SoapySDR with one receive stream and, where it transmits, one transmit stream."""

    def __init__(self, link: socket.socket, request: dict[str, Any]) -> None:
        import SoapySDR  # pyright: ignore[reportMissingImports]

        self.api, self.link = SoapySDR, link
        self.timeout_s = float(request["timeout_s"])
        self.device = device = SoapySDR.Device(request["args"])
        self.thread: threading.Thread | None = None
        self.stopping, self.on_air = threading.Event(), threading.Event()
        self.outcome: dict[str, Any] = {}
        self.events: dict[str, int] = {}
        self.tx_gain_db = 0.0
        sides = {"rx": SoapySDR.SOAPY_SDR_RX, "tx": SoapySDR.SOAPY_SDR_TX}
        self.sides = {name: side for name, side in sides.items() if device.getNumChannels(side)}
        if "rx" not in self.sides:
            raise Refused("this device has no receiver")
        self.has_time = bool(device.hasHardwareTime())
        self.mute()
        options = request["options"]
        for name, side in self.sides.items():
            if f"{name}_antenna" in options:
                self._choose("antenna", options[f"{name}_antenna"], list(device.listAntennas(side, 0)))
                device.setAntenna(side, 0, options[f"{name}_antenna"])
            if device.hasGainMode(side, 0):
                device.setGainMode(side, 0, False)
        self.apply(request)
        self.rx = device.setupStream(sides["rx"], "CF32", [0])
        self.tx = device.setupStream(sides["tx"], "CF32", [0]) if "tx" in self.sides else None

    def apply(self, request: dict[str, Any]) -> None:
        """Set rate, oscillators, gains and bandwidth, muted; what was being sent ends."""
        self.stop()
        self.mute()
        self.rate_sps = self._set_rate(request["rate_sps"])
        self._tune(request["center_hz"], request["options"], tuple(self.sides))
        if "tx" in self.sides:
            self.tx_gain_db = self._within("tx_gain_db", request["tx_gain_db"], "tx")
        self._set_rx_gain(request["rx_gain_db"])
        if request["bandwidth_hz"] is not None:
            for side in self.sides.values():
                self.device.setBandwidth(side, 0, request["bandwidth_hz"])
        self._wait_locked()
        time.sleep(uhd_process.SETTLE_S)

    def _choose(self, what: str, wanted: str, known: list[str]) -> None:
        if wanted not in known:
            raise Refused(f"{what} '{wanted}' is not on this device; choose from {', '.join(known)}")

    def _within(self, what: str, wanted: float, name: str) -> float:
        allowed = self.device.getGainRange(self.sides[name], 0)
        if not allowed.minimum() - 1e-9 <= wanted <= allowed.maximum() + 1e-9:
            device = self.device.getHardwareKey()
            raise Refused(f"{what} = {wanted:g} is outside {allowed.minimum():g}..{allowed.maximum():g} of {device}")
        return wanted

    def _set_rx_gain(self, gain_db: float) -> None:
        self.device.setGain(self.sides["rx"], 0, self._within("rx_gain_db", gain_db, "rx"))

    def _set_rate(self, wanted: float) -> float:
        for name, side in self.sides.items():
            self.device.setSampleRate(side, 0, wanted)
            actual = self.device.getSampleRate(side, 0)
            if abs(actual - wanted) > RATE_TOLERANCE * wanted:
                raise Refused(f"rate_sps = {wanted:g} is none that {name} can do; it took {actual:.10g}")
        return self.device.getSampleRate(self.sides["rx"], 0)

    def tune_receiver(self, request: dict[str, Any]) -> None:
        """Set carrier and gain of the receiver alone."""
        self._tune(request["center_hz"], request["options"], ("rx",))
        self._set_rx_gain(request["rx_gain_db"])
        self._wait_locked()
        time.sleep(uhd_process.SETTLE_S)

    def _tune(self, center_hz: float, options: dict[str, Any], directions: tuple[str, ...] = ("tx", "rx")) -> None:
        for name in directions:
            side = self.sides[name]
            nominal = center_hz + (options.get("rx_offset_hz", 0.0) if name == "rx" else 0.0)
            wanted = nominal * (1 - 1e-6 * options.get("trim_ppm", 0.0))
            low, high = self._frequencies(name)
            if not low <= wanted <= high:
                raise Refused(f"center_hz = {wanted:g} is outside {low:g}..{high:g} of {name}")
            self.device.setFrequency(side, 0, wanted)
            actual = self.device.getFrequency(side, 0)
            if abs(actual - wanted) > 1e-6 * wanted:
                raise Refused(f"{name} tuned to {actual:.10g} Hz instead of {wanted:.10g}; choose another center_hz")

    def _frequencies(self, name: str) -> tuple[float, float]:
        ranges = self.device.getFrequencyRange(self.sides[name], 0)
        return min(each.minimum() for each in ranges), max(each.maximum() for each in ranges)

    def _wait_locked(self) -> None:
        for name, side in self.sides.items():
            if "lo_locked" not in self.device.listSensors(side, 0):
                continue
            if not self._wait(lambda side=side: self.device.readSensor(side, 0, "lo_locked") == "true"):
                raise Refused(f"the {name} oscillator didn't lock within {self.timeout_s:g} s; check center_hz")

    def about(self) -> dict[str, Any]:
        """Return what the device is, and how it is set."""
        device, rx = self.device, self.sides["rx"]
        gains = device.getGainRange(rx, 0)
        return {
            "rate_sps": self.rate_sps,
            "center_hz": device.getFrequency(rx, 0),
            "rx_gain_db": device.getGain(rx, 0),
            "rx_limits": {"center_hz": self._frequencies("rx"), "rx_gain_db": [gains.minimum(), gains.maximum()]},
            "device": device.getHardwareKey(),
            "driver": device.getDriverKey(),
            "rx_antenna": device.getAntenna(rx, 0),
            "transmits": "tx" in self.sides,
            "has_time": self.has_time,
        }

    def temperature_c(self) -> float | None:
        """Return the temperature of the warmest thermometer; None without one."""
        names = [name for name in self.device.listSensors() if name.startswith("temp")]
        return max((float(self.device.readSensor(name)) for name in names), default=None)

    def now_s(self) -> float:
        """Return the time of the device's clock, or of this host's where it has none."""
        return self.device.getHardwareTime() / 1e9 if self.has_time else time.monotonic()

    def mute(self) -> None:
        """Set the lowest transmit gain."""
        if "tx" in self.sides:
            side = self.sides["tx"]
            self.device.setGain(side, 0, self.device.getGainRange(side, 0).minimum())
            self.now_s()

    def _unmute(self) -> None:
        self.device.setGain(self.sides["tx"], 0, self.tx_gain_db)

    # Transmission

    def _send(self, samples: np.ndarray, start_s: float) -> None:
        pad = np.zeros(PAD_SAMPLES, np.complex64)
        padded = np.concatenate([pad, samples, pad])
        first_s = start_s - PAD_SAMPLES / self.rate_sps
        self._activate()
        try:
            sent = self._write(padded, first_s if self.has_time else None, ends=True)
            if sent < padded.size and not self.stopping.is_set():
                self.outcome["stalled"] = max(0, sent - PAD_SAMPLES)
                return
            over_s = max(first_s, self.now_s()) + padded.size / self.rate_sps + (STALL_S if self.has_time else 0.1)
            while "burst_ack" not in self.events and self.now_s() < over_s:
                self._take_event(0.05)
                if self.events.get("time_error"):
                    break
        finally:
            self.device.deactivateStream(self.tx)

    def _repeat(self, samples: np.ndarray) -> None:
        block = np.tile(samples, max(1, round(0.1 * self.rate_sps / samples.size)))
        at_s = self.now_s() + uhd_process.LEAD_S
        starts: float | None = at_s if self.has_time else None
        self._activate()
        try:
            while not self.stopping.is_set():
                if self._write(block, starts, ends=False) < block.size and not self.stopping.is_set():
                    self.outcome["stalled"] = 0
                    return
                starts = None
                self._drain_events()
                if self.now_s() >= at_s:
                    self.on_air.set()
            self._write(np.zeros(PAD_SAMPLES, np.complex64), None, ends=True, regardless=True)
        finally:
            self.device.deactivateStream(self.tx)

    def _activate(self) -> None:
        code = self.device.activateStream(self.tx)
        if code:
            raise RuntimeError(f"the transmitter does not start ({self.api.errToStr(code)})")

    def _write(self, samples: np.ndarray, at_s: float | None, *, ends: bool, regardless: bool = False) -> int:
        """Write samples; how many were taken before nothing more was for `STALL_S`, or an end was asked for."""
        sent, heard_s = 0, time.monotonic()
        wait_s = STALL_S + (0.0 if at_s is None else max(0.0, at_s - self.now_s()))
        while sent < samples.size and (regardless or not self.stopping.is_set()):
            piece = samples[sent : sent + PIECE_SAMPLES]
            flags, time_ns = 0, 0
            if at_s is not None and not sent:
                flags, time_ns = self.api.SOAPY_SDR_HAS_TIME, round(at_s * 1e9)
            if ends and sent + piece.size == samples.size:
                flags |= self.api.SOAPY_SDR_END_BURST
            result = self.device.writeStream(self.tx, [piece], piece.size, flags, time_ns, 100_000)
            if result.ret > 0:
                sent, heard_s = sent + result.ret, time.monotonic()
            elif result.ret == self.api.SOAPY_SDR_UNDERFLOW:
                self._count("underflow")
            elif result.ret not in (0, self.api.SOAPY_SDR_TIMEOUT):
                raise RuntimeError(self.api.errToStr(result.ret))
            elif time.monotonic() - heard_s > wait_s:
                break
        return sent

    def _count(self, name: str) -> None:
        self.events[name] = self.events.get(name, 0) + 1

    def _take_event(self, timeout_s: float) -> bool:
        status = self.device.readStreamStatus(self.tx, round(timeout_s * 1e6))
        api = self.api
        names = {
            api.SOAPY_SDR_UNDERFLOW: "underflow",
            api.SOAPY_SDR_CORRUPTION: "seq_error",
            api.SOAPY_SDR_TIME_ERROR: "time_error",
        }
        if status.ret in names:
            self._count(names[status.ret])
        elif status.ret == 0 and status.flags & api.SOAPY_SDR_END_BURST:
            self._count("burst_ack")
        elif status.ret == api.SOAPY_SDR_NOT_SUPPORTED:
            time.sleep(timeout_s)
            return False
        return status.ret != api.SOAPY_SDR_TIMEOUT

    def _report(self) -> dict[str, Any]:
        # Many devices never say that a burst is over.
        return {**super()._report(), "acknowledged": 1}

    # Reception

    def _capture(self, num_samples: int | None, start_s: float) -> dict[str, Any]:
        api, device, end = self.api, self.device, float("inf") if num_samples is None else num_samples
        scratch = np.empty(max(1, device.getStreamMTU(self.rx)), np.complex64)
        filled = overflows = 0
        first_s: float | None = None
        gain_before_db = device.getGain(self.sides["rx"], 0)
        flags, time_ns = (api.SOAPY_SDR_HAS_TIME, round(start_s * 1e9)) if self.has_time else (0, 0)
        code = device.activateStream(self.rx, flags, time_ns)
        if code:
            raise Refused(f"the receiver does not start ({api.errToStr(code)}); open the radio again")
        deadline = time.monotonic() + (max(0.0, start_s - self.now_s()) if self.has_time else 0.0) + STALL_S
        try:
            while filled < end and not self._halted():
                result = device.readStream(self.rx, [scratch], int(min(scratch.size, end)), timeoutUs=100_000)
                if result.ret > 0:
                    timed = bool(result.flags & api.SOAPY_SDR_HAS_TIME) and self.has_time
                    at = result.timeNs / 1e9 if timed else start_s
                    if timed and at < start_s - 0.5 / self.rate_sps:
                        continue  # left over from an earlier capture
                    first_s = at if first_s is None else first_s
                    position = max(filled, round((at - first_s) * self.rate_sps)) if timed else filled
                    take = int(min(result.ret, max(0, end - position)))
                    if take:
                        uhd_process.write_message(self.link, {"position": position}, scratch[:take])
                    filled, deadline = position + result.ret, time.monotonic() + STALL_S
                elif result.ret == api.SOAPY_SDR_OVERFLOW:
                    overflows += 1
                elif result.ret == api.SOAPY_SDR_TIME_ERROR:
                    raise Late
                elif result.ret not in (0, api.SOAPY_SDR_TIMEOUT):
                    raise Refused(f"the stream broke ({api.errToStr(result.ret)}); open the radio again")
                elif time.monotonic() > deadline:
                    wanted = "" if num_samples is None else f" of {num_samples}"
                    raise Refused(
                        f"the radio gave {filled}{wanted} samples, then nothing for {STALL_S:g} s; "
                        "check its cable and power, and open it again"
                    )
        finally:
            device.deactivateStream(self.rx)
            until = time.monotonic() + STALL_S
            while time.monotonic() < until:
                if device.readStream(self.rx, [scratch], scratch.size, timeoutUs=DRAIN_US).ret <= 0:
                    break
        return {
            "overflows": overflows,
            "dropped": 0,
            "gain_step_db": device.getGain(self.sides["rx"], 0) - gain_before_db,
            "transmission": self._report() if self.thread is not None else {},
        }

    def close(self) -> None:
        """End what is being sent, mute, and let go of the device."""
        super().close()
        for stream in (self.rx, self.tx):
            if stream is not None:
                self.device.closeStream(stream)


if __name__ == "__main__":
    uhd_process.main(SoapyDevice)
