"""Write the run folder of a demonstration or of one decoded recording, with its report and its gallery."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from lab.experiments.asking import AskedLink
from lab.experiments.decode_file import DecodedRecording, FileSettings
from lab.experiments.demonstration import Demonstration
from lab.experiments.stages import HERE, Stage
from lab.reports.gallery import write_gallery
from lab.reports.run import write_report
from lab.reports.run_folder import Run, describe_run, write_images, write_run
from sdr.calibration_profile import CalibrationProfile
from sdr.files import replacing
from sdr.recordings.recording import write_recording


def write_demonstration(folder: Path, demo: Demonstration) -> Run:
    """Write a demonstration: recording, simulated channel, images by method, originals, run.json, report and gallery.

    Returns:
        the run that run.json holds.
    """
    began = time.perf_counter()
    write_recording(demo.received.recording, folder / "recording")
    link = demo.received
    if link.truth is not None:
        arrays = link.truth.arrays()
        with replacing(folder / "truth.npz") as file:
            np.savez(file, allow_pickle=False, **arrays, gnuradio=link.gnuradio, seconds=link.seconds)
    images = write_images(folder, demo.decoded, by_method=True)
    run = describe_run(demo.decoded, images, verb="demo", config=demo_config(demo), stages=demo.stages)
    seconds = demo.scoring_s + time.perf_counter() - began
    run = replace(
        run,
        partial=demo.partial,
        stages=(*demo.stages, Stage("score and write", HERE, seconds)),
        processes=tuple(asdict(process) for process in link.processes),
        sent={"images": list(demo.sent.transmission.ids), "frames": demo.num_frames, **_asking(demo.asked)},
        summary=demo.summaries,
        floor=demo.floor,
    )
    write_run(folder, run, demo.decoded)
    write_report(folder)
    write_gallery(folder)
    return run


def _asking(asked: AskedLink | None) -> dict[str, object]:
    """Return what run.json says of what was sent again: nothing where nothing was to be asked for."""
    if asked is None:
        return {}
    return {
        "channel_uses": sum(each.channel_uses for each in asked.rounds),
        "times": dict(asked.times),
        "rounds": [asdict(each) for each in asked.rounds],
    }


def demo_config(demo: Demonstration) -> dict[str, object]:
    """Return what run.json says was asked for; the simulated channel's settings are None for a radio."""
    settings, sent, layout = demo.settings, demo.sent, demo.decoded.layout
    channel = settings.channel if settings.radio is None else None
    return {
        "images": str(sent.folder),
        "bundle": settings.bundle,
        "prior": settings.prior,
        "bundle_digest": sent.models.digest,
        "layout": layout.name,
        "layout_digest": layout.digest,
        "methods": list(sent.methods),
        "radio": settings.radio,
        "rx_radio": settings.rx_radio,
        "csnr_db": settings.csnr_db,
        "taps": None if channel is None else channel.taps,
        "decay": None if channel is None else channel.decay,
        "redraw_frames": None if channel is None else channel.redraw_frames,
        "cfo_hz": None if channel is None else channel.cfo_hz,
        "draws": settings.decoding.draws,
        "impairments": None if channel is None else channel.impairments,
        "retransmit": settings.retransmission.rounds,
        "retransmit_share": settings.retransmission.share,
        "seed": settings.decoding.seed,
        "device": settings.decoding.device,
        "calibration": describe_calibration(settings.calibration, demo.decoded.profile),
    }


def write_decoded_file(folder: Path, settings: FileSettings, decoded: DecodedRecording) -> Run:
    """Write one decoded recording: images, originals, run.json, report and gallery.

    Returns:
        the run that run.json holds.
    """
    stage = Stage(f"decode ({settings.method})", f"this process, {settings.decoding.device}", decoded.seconds)
    images = write_images(folder, decoded, by_method=False)
    run = describe_run(decoded, images, verb="decode", config=file_config(settings, decoded), stages=(stage,))
    write_run(folder, run, decoded)
    write_report(folder)
    write_gallery(folder)
    return run


def file_config(settings: FileSettings, decoded: DecodedRecording) -> dict[str, object]:
    """Return what run.json says was asked for."""
    return {
        "recording": str(settings.recording),
        "antennas": [str(path) for path in settings.antennas],
        "use_antennas": list(settings.use_antennas) or None,
        "layout": decoded.layout.name,
        "method": settings.method,
        "bundle": settings.bundle,
        "prior": settings.prior,
        "steps": settings.decoding.steps,
        "draws": settings.decoding.draws,
        "sent": None if settings.sent is None else str(settings.sent),
        "seed": settings.decoding.seed,
        "device": settings.decoding.device,
        "truth": None if settings.truth is None else str(settings.truth),
        "calibration": describe_calibration(settings.calibration, decoded.profile, settings.calibration_antenna),
    }


def describe_calibration(
    path: Path | None, profile: CalibrationProfile | None, antenna: int | None = None
) -> dict[str, object] | None:
    """Return what run.json says of the profile that was used; None: none.

    Args:
        path: of its file.
        profile: that was used.
        antenna: that was picked from the file, of which the digest is then; None: none was.
    """
    if profile is None:
        return None
    told: dict[str, object] = {"path": str(path), "digest": profile.digest}
    return told if antenna is None else {**told, "antenna": antenna}
