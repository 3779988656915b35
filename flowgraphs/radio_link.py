"""The link through real radio drivers: GNU Radio (or the NumPy modem) transmits, the Python driver receives."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Supervisor, find_gnuradio_python
from sdr.errors import InputError
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, save_layout
from sdr.modem import modulate_stream
from sdr.radios.address import parse_uri
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording

TX_PATHS = ("gnuradio", "python")
GNURADIO_SCHEMES = ("pluto", "uhd")
"""Radios that the transmit flowgraph can drive."""

READY_TIMEOUT_S = 60.0
ECHO_SAMPLES = 1024


def run_radio_link(
    frames: Sequence[FrameContent],
    layout: FrameLayout,
    radio: str,
    workdir: str | Path,
    rx_radio: str | None = None,
    tx_path: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Recording, dict[str, Any]]:
    """Send frames through one radio, or from one to another, and record what arrives.

    The frames are transmitted again and again, so the recording holds each at least once, wherever it starts. A
    simulated radio sends them once instead, and the recording holds all of it.

    Args:
        frames: what to send, at least one frame.
        radio: URI of the radio that transmits, and receives unless `rx_radio` is given.
        workdir: folder for the layout file, the frames and what the processes print; made if missing.
        rx_radio: URI of the radio that receives.
        tx_path: "gnuradio" (framer and gr-iio or gr-uhd) or "python" (the NumPy modem and the Python driver), which
            carry the same samples; GNU Radio where it can drive the radio unless given.
        progress: called with the samples received so far and the samples in all.

    Returns:
        The recording, and how it came about: `seconds` in all, `gnuradio` (version or ""), `tx_path`, and
        `processes`, a list of dicts as `flowgraphs.link.run_loopback` gives them.

    Raises:
        InputError: no frame, or a path that the radio doesn't have.
        RadioError: a radio can't be used.
        FlowgraphError: GNU Radio is missing, or its process died.
    """
    if not frames:
        raise InputError("a link needs a frame, found none")
    scheme = parse_uri(radio).scheme
    # A USRP belongs to one process: GNU Radio can have it only where Python receives with another radio.
    drivable = scheme in GNURADIO_SCHEMES and not (scheme == "uhd" and rx_radio is None)
    if tx_path is None:
        tx_path = "gnuradio" if drivable else "python"
    if tx_path not in TX_PATHS:
        raise InputError(f"the transmitter's path is {' or '.join(TX_PATHS)}, found '{tx_path}'")
    if tx_path == "gnuradio" and not drivable:
        why = "while Python receives with it; name another radio to receive with" if scheme == "uhd" else "at all"
        raise InputError(
            f"GNU Radio can't drive '{radio}' {why}; or use {' or '.join(GNURADIO_SCHEMES)}, or the Python path"
        )
    began = time.monotonic()
    gnuradio = find_gnuradio_python() if tx_path == "gnuradio" else None
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        # The receiver is opened first: opening a radio mutes its transmitter.
        receiver = stack.enter_context(open_radio(rx_radio or radio, layout=layout))
        if gnuradio is not None:
            if scheme == "pluto" and rx_radio is not None:
                # gr-iio can't set the crystal's correction, which stays once it is set.
                open_radio(radio, layout=layout).close()
            supervisor = stack.enter_context(Supervisor(folder / "flowgraphs"))
            layout_path, pdus_path = save_layout(layout, folder / "layout.json"), folder / "frames.pdus"
            pdus_path.write_bytes(b"".join(frame_pdu(content, layout) for content in frames))
            options = {"layout": layout_path, "input": f"file:{pdus_path}", "sink": radio}
            transmit = supervisor.start("flowgraphs.transmit", options, endless=True, timeout_s=READY_TIMEOUT_S)
            recording = receiver.receive(_window_samples(frames, layout))
            supervisor.stop()
            keys = ("process", "pid", "python", "python_version", "gnuradio")
            processes.append({key: transmit.ready[key] for key in keys} | {"seconds": round(transmit.seconds(), 3)})
        else:
            transmitter = receiver if rx_radio is None else stack.enter_context(open_radio(radio, layout=layout))
            repeat = transmitter.capabilities.cyclic and not transmitter.capabilities.finite
            transmitter.transmit(modulate_stream(frames, layout, 0 if repeat else None), cyclic=repeat)
            recording = receiver.receive(None if receiver.capabilities.finite else _window_samples(frames, layout))
    if progress is not None:
        progress(recording.num_samples, recording.num_samples)
    return recording, {
        "gnuradio": gnuradio.version if gnuradio is not None else "",
        "tx_path": tx_path,
        "processes": processes,
        "seconds": time.monotonic() - began,
        "receiver": sys.executable,
    }


def _window_samples(frames: Sequence[FrameContent], layout: FrameLayout) -> int:
    """Length of a capture that holds every frame, and every image that spans several frames, as a whole."""
    span = max(-(-content.header.symbols_per_image // layout.capacity) for content in frames)
    return (len(frames) + span) * layout.frame_samples + ECHO_SAMPLES
