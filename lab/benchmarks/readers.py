"""Every reader of files that come from elsewhere, with a good file to begin with: what fuzzing goes through.

A new reader is fuzzed and tested by its entry here.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lab.experiments.campaign import load_campaign
from lab.experiments.decode_file import stated_headers
from lab.experiments.plan import load_sweep
from lab.experiments.selection import select_captures
from lab.reports.compared import read_compared
from lab.reports.pictures import file_uri
from lab.reports.run_folder import RUN_FORMAT, read_run
from receiver.bundles.bundle import find_bundle, load_bundle, load_codec
from receiver.images.files import read_image, read_png
from sdr.arrays import load_arrays
from sdr.calibration_profile import (
    AntennaProfile,
    CalibrationProfile,
    PowerDelayProfile,
    Value,
    load_profile,
    save_profile,
)
from sdr.files import write_bytes, write_json, write_text
from sdr.layout import load_layout, save_layout
from sdr.recordings.dataset import INDEX_NAME
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording
from sdr.recordings.verify import verify_dataset
from sdr.recordings.writer import DatasetWriter


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        prepare: writes good files into an empty folder, and returns the one to break.
        read: reads it.
        slow: whether one reading takes long beside others', and few are made.
    """

    prepare: Callable[[Path], Path]
    read: Callable[[Path], object]
    slow: bool = False


_TONE = (0.5 * np.exp(2j * np.pi * 0.01 * np.arange(256))).astype(np.complex64)


def _recording(folder: Path) -> Path:
    return write_recording(Recording(_TONE, utc="2026-11-28T12:00:00Z"), folder / "rec")


def _archive(folder: Path) -> Path:
    _recording(folder)
    with tarfile.open(folder / "rec.sigmf", "w") as tar:
        for suffix in ("meta", "data"):
            tar.add(folder / f"rec.sigmf-{suffix}", f"rec/rec.sigmf-{suffix}")
    return folder / "rec.sigmf"


def _layout(folder: Path) -> Path:
    return save_layout(load_layout("air"), folder / "layout.json")


def _toml_layout(folder: Path) -> Path:
    shutil.copy(Path(load_layout.__code__.co_filename).parent / "layouts" / "air.toml", folder / "layout.toml")
    return folder / "layout.toml"


def _profile(folder: Path) -> Path:
    values = {"carrier_offset_ppm": Value(1.5, 1.4, 1.6, "ppm", "a method")}
    profile = CalibrationProfile("sim:", "sim:", 0.0, 1e6, "2026-01-01T12:00:00+00:00", "00c0ffee", values)
    return save_profile(profile, folder / "profile.toml")


def _profile_of_antennas(folder: Path) -> Path:
    values = {"dc_i": Value(0.01, 0.0, 0.02, "full scale", "a method")}
    pdp = PowerDelayProfile((0.75, 0.25), (0.7, 0.2), (0.8, 0.3), 200.0, (0,), (1.0,), "a method")
    one = load_profile(_profile(folder))
    both = replace(one, antennas=(AntennaProfile(values, pdp), AntennaProfile(values)))
    return save_profile(both, folder / "profile.toml")


def _plan(folder: Path) -> Path:
    text = 'name = "plan"\nradio = "sim:taps=4"\nimages = "img"\ncsnr_db = [5.0, 10.0]\nlayouts = ["paper"]\nseed = 1\n'
    write_text(folder / "plan.toml", text)
    return folder / "plan.toml"


def _sweep(folder: Path) -> Path:
    conditions = '[[conditions]]\nname = "a"\ncp_samples = 4\n'
    write_text(folder / "sweep.toml", f'name = "s"\ncsnr_db = [5.0]\nmethods = ["jscc", "hifi:zeta=0.3"]\n{conditions}')
    return folder / "sweep.toml"


def _picture(folder: Path) -> Path:
    pixels = np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def _run(folder: Path) -> Path:
    _picture(folder)
    image = {
        **{"id": "a", "method": "jscc", "residual": 1.0, "residual_std": 0.1, "residual_limit": 1.5, "accepted": True},
        **{"expected_psnr_db": 20.0, "seconds": 0.1, "path": "a.png", "frame_number": 0, "start_sample": 9},
        **{"metric": 0.9, "cfo_hz": 1.0, "snr_db": 10.0, "evm_db": -9.0, "papr_db": 9.0, "psnr_db": None},
    }
    run = {
        **{"format": RUN_FORMAT, "verb": "decode", "written_utc": "2026-01-01T00:00:00+00:00", "config": {"draws": 1}},
        **{"versions": {"python": "3.11"}, "frames": [{"start_sample": 9, "header_ok": True, "snr_db": 10.0}]},
        **{"images": [image], "incomplete": [], "partial": False},
        "stages": [{"stage": "decode", "where": "here", "seconds": 1.0}],
    }
    write_json(folder / "run.json", run)
    return folder / "run.json"


def _read_run(path: Path) -> None:
    run = read_run(path.parent)
    for image in run.images:
        file_uri(path.parent / image.path)
    read_compared(path.parent)


def _arrays(folder: Path) -> Path:
    with (folder / "a.npz").open("wb") as file:
        np.savez_compressed(file, a=np.arange(100.0), ids=np.array(["a", "bc"]))
    return folder / "a.npz"


def _index(folder: Path) -> Path:
    with DatasetWriter(folder, "set") as writer:
        for number in range(3):
            writer.add(number, Recording(_TONE), load_layout("air"), truth={"image_ids": np.array(["a"])})
    return folder / INDEX_NAME


def _read_index(path: Path) -> None:
    verify_dataset(path.parent)
    select_captures(path.parent, "rms_dbfs < 0").rows()


def _bundle(folder: Path) -> Path:
    for name in ("bundle.toml", "codec.safetensors"):
        shutil.copyfile(find_bundle() / name, folder / name)
    return folder / "bundle.toml"


def _weights(folder: Path) -> Path:
    _bundle(folder)
    return folder / "codec.safetensors"


def _sent(folder: Path) -> Path:
    write_text(folder / "sent.json", json.dumps({"images": ["a", "b"], "csnr_db": 10.0}))
    return folder / "sent.json"


_models = functools.cache(load_bundle)


def _read_sent(path: Path) -> object:
    return stated_headers(path, _models(), load_layout("paper"))


def _image(suffix: str, mode: str, **options: object) -> Reader:
    def prepare(folder: Path) -> Path:
        grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
        picture = Image.merge("RGB", (grey, grey.rotate(90), grey.rotate(180))) if mode == "RGB" else grey.convert(mode)
        if mode == "F":
            picture = Image.fromarray(np.asarray(picture) / np.float32(255))
        buffer = io.BytesIO()
        picture.save(buffer, **options)  # type: ignore[arg-type]  # Pillow's formats have options of their own
        write_bytes(folder / f"a{suffix}", buffer.getvalue())
        return folder / f"a{suffix}"

    return Reader(prepare, lambda path: read_image(path, 3).isfinite().all())


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    return exif


READERS: dict[str, Reader] = {
    "SigMF metadata": Reader(_recording, read_recording),
    "SigMF archive": Reader(_archive, read_recording),
    "layout (JSON)": Reader(_layout, load_layout),
    "layout (TOML)": Reader(_toml_layout, load_layout),
    "calibration profile": Reader(_profile, load_profile),
    "calibration profile of antennas": Reader(_profile_of_antennas, load_profile),
    "plan": Reader(_plan, load_campaign),
    "experiment": Reader(_sweep, load_sweep),
    "run.json": Reader(_run, _read_run),
    "arrays": Reader(_arrays, load_arrays),
    "index of a dataset": Reader(_index, _read_index),
    "decoded picture": Reader(_picture, read_png),
    "what was sent": Reader(_sent, _read_sent),
    "bundle": Reader(_bundle, lambda path: load_codec(path.parent), slow=True),
    "weights": Reader(_weights, lambda path: load_codec(path.parent), slow=True),
    "PNG": _image(".png", "RGB", format="PNG", exif=_exif()),
    "PNG with a palette": _image(".png", "P", format="PNG", transparency=3),
    "JPEG": _image(".jpg", "RGB", format="JPEG", exif=_exif()),
    "TIFF": _image(".tif", "RGB", format="TIFF"),
    "TIFF, LZW": _image(".tif", "RGB", format="TIFF", compression="tiff_lzw"),
    "TIFF, float": _image(".tif", "F", format="TIFF"),
    "BMP": _image(".bmp", "RGB", format="BMP"),
    "WebP": _image(".webp", "RGB", format="WEBP", exif=_exif()),
    "PGM": _image(".pgm", "L", format="PPM"),
}
