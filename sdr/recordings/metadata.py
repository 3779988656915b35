"""Write SigMF metadata through the package `sigmf`, whose validator checks it."""

from collections.abc import Iterable
from dataclasses import asdict
from types import ModuleType
from typing import Any

from sdr.errors import RecordingError
from sdr.recordings.health import RecordingHealth
from sdr.settings import RadioSettings

NAMESPACE = "diffcom_ota"
"""Our SigMF extension: `layout_digest`, `settings` and `health` in the global object."""

EXTENSION_VERSION = "1.0.0"
"""Version of the SigMF extensions that are used."""


def import_sigmf() -> ModuleType:
    """Return the module `sigmf`.

    Raises:
        RecordingError: it is missing.
    """
    try:
        import sigmf
    except ImportError:
        raise RecordingError("writing a recording needs the package 'sigmf'; install it in this interpreter") from None
    return sigmf


def global_info(
    settings: RadioSettings, health: RecordingHealth, antennas: int, sha512: str, extensions: Iterable[str]
) -> dict[str, Any]:
    """Return the global object of a capture of complex float32 samples.

    Args:
        settings: what the radio was set to.
        health: health of the samples.
        antennas: whose samples are interleaved.
        sha512: of the data file.
        extensions: names of the SigMF extensions that the metadata uses.
    """
    return {
        "core:datatype": "cf32_le",
        "core:sample_rate": settings.rate_sps,
        "core:num_channels": antennas,
        "core:sha512": sha512,
        "core:recorder": "diffcom-ota",
        "core:hw": settings.uri,
        "core:extensions": [{"name": name, "version": EXTENSION_VERSION, "optional": True} for name in extensions],
        f"{NAMESPACE}:settings": {key: value for key, value in asdict(settings).items() if value is not None},
        f"{NAMESPACE}:health": health.row(),
    }


def metadata_text(
    info: dict[str, Any], capture: dict[str, Any], annotation: dict[str, Any] | None = None, num_samples: int = 0
) -> str:
    """Return metadata as the text of a file.

    Args:
        info: the global object.
        capture: the one capture.
        annotation: what all samples are, None for nothing.
        num_samples: how many there are; for the annotation.
    """
    signal = import_sigmf().SigMFFile(global_info=info)
    signal.add_capture(0, metadata=capture)
    if annotation is not None:
        signal.add_annotation(0, length=num_samples, metadata=annotation)
    signal.validate()
    return signal.dumps() + "\n"
