"""Say in a recording's own metadata where its frames are, for tools that show SigMF annotations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lab.experiments.decode_file import DecodedRecording
from receiver.results import FrameReport
from receiver.sync.frame import SyncedFrame
from sdr.recordings.annotations import annotated_metadata, write_annotated
from sdr.recordings.metadata import NAMESPACE

ANNOTATED_NAME = "frames"
"""Stem of the annotated metadata in a run folder."""


def frame_annotations(decoded: DecodedRecording) -> list[dict[str, Any]]:
    """Return a SigMF annotation of every frame that was found in a recording."""
    return [
        _annotation(decoded, report, frame)
        for report, frame in zip(decoded.result.frames, decoded.result.synced, strict=True)
    ]


def _annotation(decoded: DecodedRecording, report: FrameReport, frame: SyncedFrame) -> dict[str, Any]:
    layout, center_hz, header = decoded.layout, decoded.recording.settings.center_hz, frame.header
    low, high = min(layout.active) - 0.5, max(layout.active) + 0.5
    middle_hz = (center_hz or 0.0) + report.cfo_hz
    first = max(report.start_sample, 0)
    last = min(report.start_sample + layout.num_symbols * layout.symbol_samples, decoded.recording.num_samples)
    images = [image for image in decoded.result.images if image.start_sample == frame.start]
    accepted = sum(image.accepted for image in images)
    told = "header not read" if header is None else f"{accepted} of {len(images)} images accepted"
    own: dict[str, Any] = {
        "header_ok": header is not None,
        "snr_db": report.snr_db,
        "cfo_hz": report.cfo_hz,
        "metric": report.metric,
        "layout_digest": layout.digest,
    }
    if header is not None:
        own |= {
            "frame_number": header.frame_number,
            "image_ids": list(header.image_ids),
            "symbol_offset": header.symbol_offset,
            "csnr_db": header.csnr_db,
            "codec_digest": header.codec_digest,
            "accepted": [image.id for image in images if image.accepted],
        }
    return {
        "core:sample_start": first,
        "core:sample_count": last - first,
        "core:freq_lower_edge": middle_hz + low * layout.carrier_spacing_hz,
        "core:freq_upper_edge": middle_hz + high * layout.carrier_spacing_hz,
        "core:label": "frame" if header is None else f"frame {header.frame_number}",
        "core:comment": f"SNR {report.snr_db:.1f} dB, CFO {report.cfo_hz:.0f} Hz, {told}",
        "core:generator": "diffcom-ota",
        **{
            f"{NAMESPACE}:{key}": value
            for key, value in own.items()
            if not (isinstance(value, float) and not math.isfinite(value))
        },
    }


def write_annotations(folder: Path, recording: Path, decoded: DecodedRecording) -> None:
    """Write the recording's metadata with an annotation a frame into a run folder, and a link to its samples.

    Raises:
        RecordingError: the recording's own metadata do not conform to SigMF.
    """
    write_annotated(folder, ANNOTATED_NAME, recording, annotated_metadata(recording, frame_annotations(decoded)))
