"""Hold a USRP in a process of its own: UHD's Python API behind one socket, which `sdr.radios.uhd_link` speaks to.

It runs in whichever interpreter has `uhd`, which may be an older Python without this project's packages: it needs
nothing but NumPy, UHD and the standard library, and imports nothing of ours. It ends, transmitter muted, when its
socket closes, on SIGTERM, and after any error that it can't answer.

A message either way is two big-endian 32-bit lengths, that many bytes of JSON, that many bytes of complex64 samples.
Requests have a key `do`; a reply with a key `error` says what went wrong.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any

import numpy as np

PAD_SAMPLES = 256
"""Zeros before and after every burst: the first and last samples of a burst suffer in the filters and switches."""
LEAD_S = 0.2
"""Time by which bursts and captures without a time are scheduled ahead."""
MAX_LEAD_S = 4.0
RX_CHUNK = 1 << 16
STALL_S = 2.0
"""No sample and no space for one for so long means that the device is gone."""
PULSE_S = 1.1
"""A pulse per second comes within this time."""
MIMO_S = 0.1
"""Time in which the clock at the other end of a MIMO cable has followed."""
DRAIN_S = 0.2
"""A stopped stream's last packet has a mark; so long without any packet means that the mark was lost."""
SETTLE_S = 0.01
UNDERFLOWS, SEQUENCES, LATES = (
    ("underflow", "underflow_in_packet"),
    ("seq_error", "seq_error_in_packet"),
    ("time_error",),
)


class Refused(Exception):
    """A request can't be met; the text is for the user."""


class Late(Exception):
    """A capture's time had passed when the device got the command."""


class Vanished(Exception):
    """The program that started us has gone, or interrupts."""


class Usrp:
    """An open USRP, or several that are one radio: a stream of one transmit channel, and one of all receive channels.

    Channels are numbered over all USRPs, as UHD does.
    """

    def __init__(self, link: socket.socket, request: dict[str, Any]) -> None:
        import uhd  # pyright: ignore[reportMissingImports]

        self.uhd, self.link = uhd, link
        self.timeout_s = float(request["timeout_s"])
        self.usrp = usrp = uhd.usrp.MultiUSRP(request["args"])
        self.thread: threading.Thread | None = None
        self.stopping, self.on_air = threading.Event(), threading.Event()
        self.outcome: dict[str, Any] = {}
        self.events: dict[str, int] = {}
        self.tx_gain_db = 0.0
        self.mute()
        options = request["options"]
        for direction in ("rx", "tx"):
            if f"{direction}_subdev" in options:
                spec = uhd.usrp.SubdevSpec(options[f"{direction}_subdev"])
                getattr(usrp, f"set_{direction}_subdev_spec")(spec)
        self.rx_channels = self._find_channels(options["rx"])
        self.channels = [*(("rx", channel) for channel in self.rx_channels), ("tx", 0)]
        self._set_sources(options)
        for direction, channel in self.channels:
            if f"{direction}_antenna" in options:
                antenna, known = options[f"{direction}_antenna"], getattr(usrp, f"get_{direction}_antennas")(channel)
                self._choose("antenna", antenna, known)
                getattr(usrp, f"set_{direction}_antenna")(antenna, channel)
        self.apply(request)
        stream = uhd.usrp.StreamArgs("fc32", options.get("wire", "sc16"))
        stream.channels = self.rx_channels
        self.rx = usrp.get_rx_stream(stream)
        stream.channels = [0]
        self.tx = usrp.get_tx_stream(stream)

    def _find_channels(self, wanted: int) -> list[int]:
        usrp = self.usrp
        found = usrp.get_rx_num_channels()
        if found < wanted:
            raise Refused(
                f"rx={wanted} needs {wanted} receive channels, found {found} on {usrp.get_mboard_name()}; name more of "
                f"its frontends (rx_subdev), add a second USRP (addr0=..,addr1=..), or leave out rx={wanted}"
            )
        return list(range(wanted))

    def apply(self, request: dict[str, Any]) -> None:
        """Set rate, oscillators, gains and bandwidth, muted; what was being sent ends."""
        self.stop()
        self.mute()
        usrp = self.usrp
        self.rate_sps = self._set_rate(request["rate_sps"])
        self._tune(request["center_hz"], request["options"])
        self.tx_gain_db = self._check("tx_gain_db", request["tx_gain_db"], usrp.get_tx_gain_range())
        self._set_rx_gain(request["rx_gain_db"])
        if request["bandwidth_hz"] is not None:
            for direction, channel in self.channels:
                allowed = getattr(usrp, f"get_{direction}_bandwidth_range")(channel)
                wanted = self._check(f"bandwidth_hz ({direction})", request["bandwidth_hz"], allowed)
                getattr(usrp, f"set_{direction}_bandwidth")(wanted, channel)
        self._wait_locked()
        time.sleep(SETTLE_S)

    def _choose(self, what: str, wanted: str, known: list[str]) -> None:
        if wanted not in known:
            raise Refused(f"{what} '{wanted}' is not on this USRP; choose from {', '.join(known)}")

    def _check(self, what: str, wanted: float, allowed: Any) -> float:
        low, high = allowed.start(), allowed.stop()
        if not low - 1e-9 <= wanted <= high + 1e-9:
            raise Refused(f"{what} = {wanted:g} is outside {low:g}..{high:g} of {self.usrp.get_mboard_name()}")
        return wanted

    def _set_rx_gain(self, gain_db: float) -> None:
        for channel in self.rx_channels:
            allowed = self.usrp.get_rx_gain_range(channel)
            self.usrp.set_rx_gain(self._check("rx_gain_db", gain_db, allowed), channel)

    # Clocks

    def _set_sources(self, options: dict[str, Any]) -> None:
        usrp, boards = self.usrp, range(self.usrp.get_num_mboards())
        clock, pulse = options.get("clock_source"), options.get("time_source")
        if len(boards) > 1 and len(self.rx_channels) > 1:
            clock, pulse = clock or usrp.get_clock_source(0), pulse or usrp.get_time_source(0)
            self._check_shared(clock, pulse)
        if clock is not None:
            for board in self._takers(clock, boards):
                self._choose("clock_source", clock, usrp.get_clock_sources(board))
                usrp.set_clock_source(clock, board)
                self._wait_reference(clock, board)
        if pulse is None:
            return
        takers = self._takers(pulse, boards)
        for board in takers:
            self._choose("time_source", pulse, usrp.get_time_sources(board))
            usrp.set_time_source(pulse, board)
        if pulse in ("internal", "none"):
            return
        if pulse == "mimo" and len(boards) > 1:
            usrp.set_time_now(self.uhd.types.TimeSpec(0.0), 0)
            time.sleep(MIMO_S)
        else:
            self._set_time_at_pulse(pulse, takers)
        self._check_time(boards)

    def _takers(self, source: str, boards: range) -> range:
        """Return the USRPs that take clock or time from a source; the first one gives it where that is the cable."""
        return boards[1:] if source == "mimo" and len(boards) > 1 else boards

    def _check_shared(self, clock: str, pulse: str) -> None:
        common = ("external", "gpsdo")
        if not (clock in common and pulse in common) and not clock == pulse == "mimo":
            raise Refused(
                f"rx={len(self.rx_channels)} needs USRPs of one clock, found clock_source={clock} and "
                f"time_source={pulse}: phase and samples of one would drift against the other's; connect 10 MHz and "
                "1 PPS to all and add clock_source=external,time_source=external, or the MIMO cable and "
                "clock_source=mimo,time_source=mimo; or record one alone"
            )

    def _wait_reference(self, clock: str, board: int) -> None:
        usrp = self.usrp
        sensors = {"internal": (), "mimo": ("ref_locked", "mimo_locked")}.get(clock, ("ref_locked",))
        for sensor in sensors:
            if sensor in usrp.get_mboard_sensor_names(board) and not self._wait(
                lambda sensor=sensor: usrp.get_mboard_sensor(sensor, board).to_bool()
            ):
                where, cable = self._which(board), "the MIMO cable" if clock == "mimo" else "10 MHz"
                raise Refused(
                    f"clock_source={clock}: no lock within {self.timeout_s:g} s{where}; connect {cable}"
                    + ("" if where else ", or use internal")
                )

    def _set_time_at_pulse(self, pulse: str, boards: range) -> None:
        """Make it time 0 at the next pulse; all USRPs hear of it before that."""
        usrp = self.usrp
        before = [usrp.get_time_last_pps(board).get_real_secs() for board in boards]
        for board in boards:
            if not self._wait(lambda board=board: usrp.get_time_last_pps(board).get_real_secs() != before[board]):
                raise Refused(
                    f"time_source={pulse}: no pulse within {self.timeout_s:g} s{self._which(board)}; connect 1 PPS"
                )
        usrp.set_time_next_pps(self.uhd.types.TimeSpec(0.0))
        time.sleep(PULSE_S)

    def _check_time(self, boards: range) -> None:
        """Refuse USRPs whose clocks differ, because they took the time from different pulses."""
        for board in boards[1:]:
            before_s, there_s, after_s = (self.usrp.get_time_now(each).get_real_secs() for each in (0, board, 0))
            if not before_s <= there_s <= after_s:
                raise Refused(
                    f"the clock{self._which(board)} is {there_s - before_s:+.6f} s off the first one's; connect both "
                    "to the same source, and open them again"
                )

    def _which(self, board: int) -> str:
        """Return which of several USRPs it is, for a message; nothing for the only one."""
        count = self.usrp.get_num_mboards()
        return f" at USRP {board + 1} of {count}" if count > 1 else ""

    def _wait(self, condition: Any) -> bool:
        deadline = time.monotonic() + self.timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _set_rate(self, wanted: float) -> float:
        for direction, channel in self.channels:
            getattr(self.usrp, f"set_{direction}_rate")(wanted, channel)
        for direction, channel in self.channels:
            actual = getattr(self.usrp, f"get_{direction}_rate")(channel)
            if abs(actual - wanted) > 1e-6 * wanted:
                raise Refused(f"rate_sps = {wanted:g} is none that {direction} can do; the nearest is {actual:.10g}")
        return self.usrp.get_rx_rate()

    def tune_receiver(self, request: dict[str, Any]) -> None:
        """Set carrier and gain of the receiver alone."""
        self._tune(request["center_hz"], request["options"], ("rx",))
        self._set_rx_gain(request["rx_gain_db"])
        self._wait_locked()
        time.sleep(SETTLE_S)

    def _tune(self, center_hz: float, options: dict[str, Any], directions: tuple[str, ...] = ("tx", "rx")) -> None:
        for direction, channel in self.channels:
            if direction not in directions:
                continue
            nominal = center_hz + (options.get("rx_offset_hz", 0.0) if direction == "rx" else 0.0)
            wanted = nominal * (1 - 1e-6 * options.get("trim_ppm", 0.0))
            self._check("center_hz", wanted, getattr(self.usrp, f"get_{direction}_freq_range")(channel))
            offset_hz = options.get("lo_offset_hz")
            tune = self.uhd.types.TuneRequest
            request = tune(wanted) if offset_hz is None else tune(wanted, offset_hz)
            getattr(self.usrp, f"set_{direction}_freq")(request, channel)
            actual = getattr(self.usrp, f"get_{direction}_freq")(channel)
            if abs(actual - wanted) > 10.0:
                raise Refused(f"{direction} tuned to {actual:.10g} Hz instead of {wanted:.10g}; leave lo_offset_hz out")

    def _wait_locked(self) -> None:
        for direction, channel in self.channels:
            if "lo_locked" not in getattr(self.usrp, f"get_{direction}_sensor_names")(channel):
                continue
            sensor = getattr(self.usrp, f"get_{direction}_sensor")
            if not self._wait(lambda sensor=sensor, channel=channel: sensor("lo_locked", channel).to_bool()):
                raise Refused(
                    f"the {direction} oscillator didn't lock within {self.timeout_s:g} s; check center_hz and the "
                    "reference, then power-cycle the USRP"
                )

    def about(self) -> dict[str, Any]:
        """Return what the device is, and how it is set."""
        usrp = self.usrp
        return {
            "rate_sps": self.rate_sps,
            "center_hz": usrp.get_rx_freq(),
            "tx_center_hz": usrp.get_tx_freq(),
            "rx_gain_db": usrp.get_rx_gain(),
            "rx_limits": {
                "center_hz": [usrp.get_rx_freq_range().start(), usrp.get_rx_freq_range().stop()],
                "rx_gain_db": [usrp.get_rx_gain_range().start(), usrp.get_rx_gain_range().stop()],
            },
            "device": usrp.get_mboard_name(),
            "serial": usrp.get_usrp_rx_info(0).get("mboard_serial", ""),
            "rx_antenna": usrp.get_rx_antenna(),
            "tx_antenna": usrp.get_tx_antenna(),
            "clock_source": usrp.get_clock_source(0),
            "time_source": usrp.get_time_source(0),
        }

    def temperature_c(self) -> float | None:
        """Return the temperature of the warmest thermometer; None without one."""
        usrp, found = self.usrp, []
        places = [(usrp.get_mboard_sensor_names(0), usrp.get_mboard_sensor)]
        places += [(getattr(usrp, f"get_{d}_sensor_names")(), getattr(usrp, f"get_{d}_sensor")) for d in ("rx", "tx")]
        for names, sensor in places:
            found += [sensor(name).to_real() for name in names if name.startswith("temp")]
        return max(found, default=None)

    def now_s(self) -> float:
        """Return the time of the device's clock."""
        return self.usrp.get_time_now().get_real_secs()

    def mute(self) -> None:
        """Set the lowest gain; it is there on return."""
        self.usrp.set_tx_gain(self.usrp.get_tx_gain_range().start())
        self.now_s()  # settings travel without an answer, in order: an answer means that they have arrived

    def _unmute(self) -> None:
        self.usrp.set_tx_gain(self.tx_gain_db)

    # Transmission

    def transmit(self, samples: np.ndarray, cyclic: bool, at_s: float | None) -> None:
        """Start to send, in a thread; `finish` waits for its end. What repeats is on the air on return."""
        self.stop()
        self.stopping.clear()
        self.outcome, self.events = {}, {}
        self._drain_events()
        self.events = {}
        self._unmute()
        target, arguments = (self._repeat, (samples,)) if cyclic else (self._burst, (samples, at_s))
        self.thread = threading.Thread(target=self._guarded, args=(target, *arguments))
        self.on_air.clear()
        self.thread.start()
        if cyclic:
            while self.thread.is_alive() and not self.on_air.wait(0.05):
                pass

    def _guarded(self, target: Any, *arguments: Any) -> None:
        try:
            target(*arguments)
        except RuntimeError as error:  # UHD's only exception
            self.outcome["error"] = str(error)
        finally:
            try:
                self.mute()
            except RuntimeError as error:
                self.outcome.setdefault("error", str(error))

    def _metadata(self, starts: bool, ends: bool, at_s: float | None = None) -> Any:
        metadata = self.uhd.types.TXMetadata()
        metadata.start_of_burst, metadata.end_of_burst = starts, ends
        metadata.has_time_spec = at_s is not None
        if at_s is not None:
            metadata.time_spec = self.uhd.types.TimeSpec(at_s)
        return metadata

    def _burst(self, samples: np.ndarray, at_s: float | None) -> None:
        """Send once; without a time again with more time ahead, if it was late because this host is busy."""
        lead_s = LEAD_S
        while True:
            self._send(samples, self.now_s() + lead_s if at_s is None else at_s)
            lead_s *= 4
            if at_s is not None or lead_s > MAX_LEAD_S or self.stopping.is_set():
                return
            if not any(self.events.get(name) for name in LATES):
                return
            while self._take_event(0.1):
                pass
            self.events = {}

    def _send(self, samples: np.ndarray, start_s: float) -> None:
        pad = np.zeros(PAD_SAMPLES, np.complex64)
        padded = np.concatenate([pad, samples, pad])
        first_s = start_s - PAD_SAMPLES / self.rate_sps
        step = max(1, round(0.25 * self.rate_sps))
        sent = 0
        while sent < padded.size and not self.stopping.is_set():
            piece = padded[sent : sent + step]
            last = sent + piece.size == padded.size
            metadata = self._metadata(sent == 0, last, first_s if sent == 0 else None)
            wait_s = STALL_S + max(0.0, first_s - self.now_s())
            taken = self.tx.send(piece[None], metadata, wait_s)
            sent += taken
            self._drain_events()
            if taken < piece.size:
                self.outcome["stalled"] = max(0, sent - PAD_SAMPLES)
                return
        if self.stopping.is_set():
            self.tx.send(pad[None], self._metadata(False, True), STALL_S)
        deadline = time.monotonic() + max(0.0, first_s + padded.size / self.rate_sps - self.now_s()) + STALL_S
        while "burst_ack" not in self.events and time.monotonic() < deadline:
            self._take_event(0.05)
            if any(self.events.get(name) for name in LATES):
                break
        self._drain_events()

    def _repeat(self, samples: np.ndarray) -> None:
        copies = max(1, round(0.1 * self.rate_sps / samples.size))
        block = np.tile(samples, copies)[None]
        starts, at_s = True, self.now_s() + LEAD_S
        while not self.stopping.is_set():
            metadata = self._metadata(starts, False, at_s if starts else None)
            if self.tx.send(block, metadata, STALL_S + (LEAD_S if starts else 0.0)) < block.shape[1]:
                self.outcome["stalled"] = 0
                return
            starts = False
            self._drain_events()
            if self.now_s() >= at_s:
                self.on_air.set()
        self.tx.send(np.zeros((1, PAD_SAMPLES), np.complex64), self._metadata(False, True), STALL_S)
        deadline = time.monotonic() + STALL_S
        while "burst_ack" not in self.events and time.monotonic() < deadline:
            self._take_event(0.05)

    def _take_event(self, timeout_s: float) -> bool:
        event = self.uhd.types.TXAsyncMetadata()
        if not self.tx.recv_async_msg(event, timeout_s):
            return False
        name = str(event.event_code).rpartition(".")[2]
        self.events[name] = self.events.get(name, 0) + 1
        return True

    def _drain_events(self) -> None:
        while self._take_event(0.0):
            pass

    def stop(self) -> None:
        """End what is being sent."""
        self.stopping.set()
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def finish(self) -> dict[str, Any]:
        """Wait for the end of a burst; what happened to it."""
        while self.thread is not None and self.thread.is_alive():
            self.thread.join(0.05)
            self._check_link()
        self.thread = None
        return self._report()

    def _report(self) -> dict[str, Any]:
        count = self.events.get
        return {
            **self.outcome,
            "acknowledged": count("burst_ack", 0),
            "underruns": sum(count(name, 0) for name in UNDERFLOWS),
            "lost": sum(count(name, 0) for name in SEQUENCES),
            "late": sum(count(name, 0) for name in LATES),
        }

    # Reception

    def receive(self, num_samples: int | None, at_s: float | None) -> dict[str, Any]:
        """Capture, sending pieces with their position as they come; until a halt comes if no number is given.

        What was lost shows as a step of the position. Without a time it starts as soon as may be, which is later on a
        busy host.
        """
        lead_s = LEAD_S
        while True:
            start_s = self.now_s() + lead_s if at_s is None else at_s
            try:
                return self._capture(num_samples, start_s)
            except Late:
                lead_s *= 4
                if at_s is not None or lead_s > MAX_LEAD_S:
                    raise Refused(
                        f"the capture's time of {start_s:.6f} s had passed when the USRP got it; ask for a later one"
                    ) from None

    def _capture(self, num_samples: int | None, start_s: float) -> dict[str, Any]:
        end = float("inf") if num_samples is None else num_samples
        scratch = np.empty((len(self.rx_channels), int(min(RX_CHUNK, end))), np.complex64)
        metadata = self.uhd.types.RXMetadata()
        filled = overflows = dropped = 0
        fresh_s, lead_s = start_s, LEAD_S  # what is older is left over from before
        gain_before_db = self.usrp.get_rx_gain()
        wait_s = self._start_stream(start_s)
        try:
            while filled < end and not self._halted():
                got = self.rx.recv(scratch, metadata, wait_s)
                name = str(metadata.error_code).rpartition(".")[2]
                if got:
                    at = float(metadata.time_spec.get_real_secs()) if metadata.has_time_spec else fresh_s
                    if at < fresh_s - 0.5 / self.rate_sps:
                        continue
                    position = round((at - start_s) * self.rate_sps) if metadata.has_time_spec else filled
                    take = int(min(got, max(0, end - position)))
                    if take:
                        write_message(self.link, {"position": position}, scratch[:, :take])
                    filled, wait_s, lead_s = position + got, STALL_S, LEAD_S
                elif name == "overflow" and (metadata.out_of_sequence or len(self.rx_channels) == 1):
                    overflows += not metadata.out_of_sequence
                    dropped += bool(metadata.out_of_sequence)
                elif name in ("overflow", "alignment") or (name == "late" and fresh_s > start_s):
                    # One channel goes on somewhere else than the others, and UHD would drop what they have for ever.
                    if lead_s > MAX_LEAD_S:
                        raise Refused("the channels can't be started together again; lower the rate")
                    overflows += name != "late"
                    self._stop_stream(scratch, metadata)
                    ahead = np.ceil((self.now_s() + lead_s - start_s) * self.rate_sps)
                    fresh_s, lead_s = start_s + ahead / self.rate_sps, 4 * lead_s
                    wait_s = self._start_stream(fresh_s)
                elif name == "timeout":
                    wanted = "" if num_samples is None else f" of {num_samples}"
                    raise Refused(
                        f"{self._silent()} gave {filled}{wanted} samples, then nothing for {STALL_S:g} s; "
                        "check its cable and power, and open it again"
                    )
                elif name == "late":
                    raise Late
                elif name != "none":
                    raise Refused(f"the USRP's stream broke ({metadata.strerror()}); open it again")
        finally:
            self._stop_stream(scratch, metadata)
        return {
            "overflows": overflows,
            "dropped": dropped,
            "gain_step_db": self.usrp.get_rx_gain() - gain_before_db,
            "transmission": self._report() if self.thread is not None else {},
        }

    def _start_stream(self, start_s: float) -> float:
        """Let all channels start at one time; how long to wait for the first samples."""
        types = self.uhd.types
        command = types.StreamCMD(types.StreamMode.start_cont)
        command.stream_now = False
        command.time_spec = types.TimeSpec(start_s)
        wait_s = max(0.0, start_s - self.now_s()) + STALL_S
        self.rx.issue_stream_cmd(command)
        return wait_s

    def _stop_stream(self, scratch: np.ndarray, metadata: Any) -> None:
        """Let all channels stop, and drop what they still have."""
        types = self.uhd.types
        self.rx.issue_stream_cmd(types.StreamCMD(types.StreamMode.stop_cont))
        deadline = time.monotonic() + STALL_S
        while time.monotonic() < deadline:
            got = self.rx.recv(scratch, metadata, DRAIN_S)
            if metadata.end_of_burst or (not got and str(metadata.error_code).endswith("timeout")):
                break

    def _silent(self) -> str:
        """Return which USRP doesn't answer any more."""
        count = self.usrp.get_num_mboards()
        for board in range(count if count > 1 else 0):
            try:
                self.usrp.get_time_now(board)
            except RuntimeError:
                return f"USRP {board + 1} of {count}"
        return "the USRP" if count == 1 else "the USRPs"

    def _halted(self) -> bool:
        """Return whether a capture shall end; nobody says anything else meanwhile."""
        if not select.select([self.link], [], [], 0)[0]:
            return False
        read_message(self.link)
        return True

    def _check_link(self) -> None:
        """Raise `Vanished` where the link has ended: nobody speaks to us while we work, unless it's over."""
        if select.select([self.link], [], [], 0)[0]:
            raise Vanished

    def close(self) -> None:
        """End what is being sent, and mute."""
        self.stop()
        self.mute()


def read_message(link: socket.socket) -> tuple[dict[str, Any], np.ndarray]:
    """Return the next request and its samples; raise `Vanished` at the end of the link."""
    json_size, payload_size = struct.unpack(">II", _read(link, 8))
    request = json.loads(bytes(_read(link, json_size)))
    return request, np.frombuffer(_read(link, payload_size), np.complex64)


def _read(link: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = link.recv_into(view)
        if not count:
            raise Vanished
        view = view[count:]
    return content


def write_message(link: socket.socket, reply: dict[str, Any], samples: np.ndarray | None = None) -> None:
    """Send a reply and its samples."""
    payload = b"" if samples is None else samples.tobytes()  # of several channels one after the other
    text = json.dumps(reply).encode()
    link.sendall(struct.pack(">II", len(text), len(payload)) + text)
    link.sendall(payload)


def serve(link: socket.socket, device: type[Usrp] = Usrp) -> None:
    """Answer requests to a device until the link ends."""
    usrp: Usrp | None = None
    try:
        while True:
            request, samples = read_message(link)
            reply: dict[str, Any] = {}
            try:
                what = request["do"]
                if what == "open":
                    usrp = device(link, request)
                    reply = usrp.about()
                elif what == "apply" and usrp is not None:
                    usrp.apply(request)
                    reply = usrp.about()
                elif what == "tune" and usrp is not None:
                    usrp.tune_receiver(request)
                    reply = usrp.about()
                elif what == "close":
                    if usrp is not None:
                        usrp.close()
                        usrp = None
                    write_message(link, {})
                    return
                elif usrp is None:
                    raise Refused("the radio isn't open")
                elif what == "transmit":
                    usrp.transmit(samples, request["cyclic"], request["at_s"])
                elif what == "finish":
                    reply = usrp.finish()
                elif what == "stop":
                    usrp.stop()
                elif what == "receive":
                    reply = usrp.receive(request["num_samples"], request["at_s"])
                elif what == "now":
                    reply = {"now_s": usrp.now_s()}
                elif what == "temperature":
                    reply = {"temperature_c": usrp.temperature_c()}
                else:
                    raise Refused(f"unknown request {what!r}")
            except (Vanished, OSError):
                raise
            except Exception as error:  # of UHD: RuntimeError, and others for strange arguments
                text = str(error) or type(error).__name__
                reply = {"error": text, "from_uhd": not isinstance(error, Refused)}
            write_message(link, reply)
    except (Vanished, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        if usrp is not None:
            try:
                usrp.close()
            except RuntimeError as error:
                print(f"can't mute the transmitter: {error}", file=sys.stderr)


def main(device: type[Usrp] = Usrp) -> None:
    """Serve a device at the socket whose descriptor is the command line's argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end(*_: object) -> None:
        raise Vanished

    signal.signal(signal.SIGTERM, end)
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve(link, device)


if __name__ == "__main__":
    main()
