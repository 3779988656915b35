"""Run the link over radios: GNU Radio or the NumPy modem transmits, the Python driver receives."""

import time
from collections.abc import Sequence
from pathlib import Path

from flowgraphs.link import LinkRun
from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import ProcessReport, Supervisor, find_gnuradio_python
from sdr.errors import InputError
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, save_layout
from sdr.modem import modulate_stream
from sdr.progress import Progress, silent
from sdr.radios.address import parse_uri
from sdr.radios.base import Radio
from sdr.radios.open import check_uri, open_radio
from sdr.recordings.recording import Recording

TX_PATHS = ("gnuradio", "python")
"""Ways to make and send samples."""

GNURADIO_SCHEMES = ("pluto", "uhd")
"""Radios that the transmit flowgraph can drive."""

READY_TIMEOUT_S = 60.0
"""Longest wait for the transmit flowgraph to have all frames on the air."""

ECHO_SAMPLES = 1024
"""Room in a capture for what arrives late."""


def run_radio_link(
    frames: Sequence[FrameContent],
    layout: FrameLayout,
    radio: str,
    workdir: str | Path,
    rx_radio: str | None = None,
    tx_path: str | None = None,
    progress: Progress = silent,
) -> LinkRun:
    """Send frames through one radio, or from one to another, and record what arrives.

    The frames are transmitted again and again, so the recording holds each at least once, wherever it starts. A
    simulated radio sends them once instead, and the recording holds all of it.

    Args:
        frames: what to send, at least one frame.
        layout: layout of the frames.
        radio: URI of the radio that transmits, and receives unless `rx_radio` is given.
        workdir: folder for the layout file, the frames and what the processes print; made if missing.
        rx_radio: URI of the radio that receives.
        tx_path: "gnuradio" (framer and gr-iio or gr-uhd) or "python" (the NumPy modem and the Python driver), which
            carry the same samples; GNU Radio where it can drive the radio unless given.
        progress: called with the samples received so far and the samples in all.

    Raises:
        InputError: no frame, or a path that the radio doesn't have.
        RadioError: a radio can't be used.
        FlowgraphError: GNU Radio is missing, or its process died.
    """
    if not frames:
        raise InputError("a link needs a frame, found none")
    tx_path = _choose_path(radio, rx_radio, tx_path)
    began = time.monotonic()
    gnuradio = find_gnuradio_python() if tx_path == "gnuradio" else None
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    processes: tuple[ProcessReport, ...] = ()
    # The receiver is opened first: opening a radio mutes its transmitter.
    with open_radio(rx_radio or radio, layout=layout) as receiver:
        if gnuradio is not None:
            if rx_radio is not None and parse_uri(radio).scheme == "pluto":
                # gr-iio can't set the crystal's correction, which stays once it is set.
                open_radio(radio, layout=layout).close()
            recording, processes = _through_gnuradio(frames, layout, radio, receiver, folder)
        elif rx_radio is None:
            recording = _through_python(frames, layout, receiver, receiver)
        else:
            with open_radio(radio, layout=layout) as transmitter:
                recording = _through_python(frames, layout, transmitter, receiver)
    progress("transmit, receive", recording.num_samples, recording.num_samples)
    version = gnuradio.version if gnuradio is not None else ""
    return LinkRun(recording, tx_path, version, processes, time.monotonic() - began)


def _choose_path(radio: str, rx_radio: str | None, tx_path: str | None) -> str:
    """Return the wanted way to transmit, or the best one, after checking that there is such a way.

    Raises:
        InputError: there is none, or the radio doesn't have it.
        RadioError: the radio's URI is wrong.
    """
    scheme = check_uri(radio).scheme
    # A USRP belongs to one process: GNU Radio can have it only where Python receives with another radio.
    drivable = scheme in GNURADIO_SCHEMES and not (scheme == "uhd" and rx_radio is None)
    if tx_path is None:
        return "gnuradio" if drivable else "python"
    if tx_path not in TX_PATHS:
        raise InputError(f"the transmitter's path is {' or '.join(TX_PATHS)}, found '{tx_path}'")
    if tx_path == "gnuradio" and not drivable:
        why = "while Python receives with it; name another radio to receive with" if scheme == "uhd" else "at all"
        raise InputError(
            f"GNU Radio can't drive '{radio}' {why}; or use {' or '.join(GNURADIO_SCHEMES)}, or the Python path"
        )
    return tx_path


def _through_gnuradio(
    frames: Sequence[FrameContent], layout: FrameLayout, radio: str, receiver: Radio, folder: Path
) -> tuple[Recording, tuple[ProcessReport, ...]]:
    """Return what `receiver` hears while the transmit flowgraph repeats the frames over `radio`."""
    layout_path, pdus_path = save_layout(layout, folder / "layout.json"), folder / "frames.pdus"
    pdus_path.write_bytes(b"".join(frame_pdu(content, layout) for content in frames))
    options = {"layout": layout_path, "input": f"file:{pdus_path}", "sink": radio}
    with Supervisor(folder / "flowgraphs") as supervisor:
        transmit = supervisor.start("flowgraphs.transmit", options, endless=True, timeout_s=READY_TIMEOUT_S)
        recording = receiver.receive(_window_samples(frames, layout))
        supervisor.stop()
        return recording, (transmit.report(),)


def _through_python(
    frames: Sequence[FrameContent], layout: FrameLayout, transmitter: Radio, receiver: Radio
) -> Recording:
    """Return what `receiver` hears of the frames, which `transmitter` repeats where it can."""
    repeat = transmitter.capabilities.cyclic and not transmitter.capabilities.finite
    transmitter.transmit(modulate_stream(frames, layout, 0 if repeat else None), cyclic=repeat)
    return receiver.receive(None if receiver.capabilities.finite else _window_samples(frames, layout))


def _window_samples(frames: Sequence[FrameContent], layout: FrameLayout) -> int:
    """Return how long a capture is that holds every frame, and every image that spans several, as a whole."""
    span = max(-(-content.header.symbols_per_image // layout.capacity) for content in frames)
    return (len(frames) + span) * layout.frame_samples + ECHO_SAMPLES
