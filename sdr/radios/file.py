"""Use a SigMF recording as a radio: `file:PATH` stands for PATH.sigmf-meta and PATH.sigmf-data."""

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.outputs import check_free, claim
from sdr.radios.base import ContextRadio, Driver, RadioCapabilities
from sdr.recordings.archive import sigmf_paths
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import MAX_ANTENNAS, Recording, write_recording
from sdr.settings import RadioSettings


class FileRadio(ContextRadio):
    """A radio whose air is a SigMF recording: what is transmitted is written, what is received is read.

    Args:
        settings: what recordings say of the radio.
        layout: layout whose digest recordings carry.
        path: stem, or the name of either file.

    Attributes:
        replaces: whether a transmission may take the place of a recording that this radio has not written itself.
    """

    capabilities = RadioCapabilities(finite=True)

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None, path: str) -> None:
        super().__init__(settings, layout)
        self.meta_path, self.data_path = sigmf_paths(path)
        self.replaces = False

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Write PATH.sigmf-data and PATH.sigmf-meta.

        Raises:
            InputError: there is such a recording, and `replaces` is not set; or another process writes it.
        """
        self._check_transmit(samples, cyclic)
        with claim(self.meta_path):
            check_free([self.meta_path, self.data_path], self.replaces, "file: radio")
            write_recording(self._record(samples), self.meta_path)
        self.replaces = True

    def receive(self, num_samples: int | None = None) -> Recording:
        """Read the first `num_samples` of the recording, or all of it.

        Raises:
            RadioError: the recording is shorter.
            RecordingError: the recording can't be read.
        """
        self._check_receive(num_samples)
        recording = read_recording(self.meta_path, max_antennas=MAX_ANTENNAS)
        if num_samples is None or num_samples == recording.num_samples:
            return recording
        if num_samples > recording.num_samples:
            raise RadioError(f"{self.meta_path} has {recording.num_samples} samples, but {num_samples} were asked")
        part = recording.with_antennas(samples[:num_samples] for samples in recording.antennas)
        return replace(part, health=replace(part.health, **recording.health.reports()))


def _parse_path(rest: str) -> str:
    if not rest:
        raise RadioError("file: needs a path, as in file:run/tx.sigmf-meta")
    return os.path.expanduser(rest)


def _open_file(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> FileRadio:
    return FileRadio(settings, layout, _parse_path(rest))


DRIVER = Driver(_parse_path, _open_file)
