"""Quality against channel SNR: one experiment file, many points, every one of them through the whole receiver.

A point is a condition (a channel SNR, or one of the file's own) and a method. For each condition the images are
encoded, framed and sent over the simulated radio; the recording is then decoded as any other, synchronisation and
channel estimation included. A finished point is kept in `parts/`, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from receiver.bundles import Bundle, load_bundle
from receiver.codecs import Codec, ImageShape
from receiver.data import FASHION_SHAPE, load_fashion_mnist, load_image_folder, sample_indices
from receiver.decode import DecodeResult, decode_recording, method_variant
from receiver.evaluation import (
    CHANNEL_FOUND,
    LOW_SUCCESS_PSNR_DB,
    MAX_PSNR_DB,
    SUCCESS_PSNR_DB,
    RocCurve,
    Summary,
    roc_curve,
    summarise,
)
from receiver.metrics import psnr_db, ssim
from receiver.realism import RealismScore
from receiver.refining import encode_refined
from receiver.report import COLOURS, METHOD_NAMES, OTHER_COLOURS, roc_figure
from receiver.truth import ChannelTruth, channel_distance
from sdr.errors import ConfigError, InputError, did_you_mean
from sdr.files import write_bytes
from sdr.framing import images_per_frame, pack_frames
from sdr.header import image_id_from_stem
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols

#: Images of the grid.
GRID_COLUMNS = 8

#: Called with (description, done, total).
Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Condition:
    """What one row of points is sent under.

    Args:
        name: label of the point.
        channel: as in :class:`Sweep`.
        csnr_db: channel SNR, dB.
        clip_ratio: magnitude limit of the transmitter in units of the rms; None: the layout's.
        cp_samples: cyclic prefix; None: the layout's.
    """

    name: str
    channel: str
    csnr_db: float
    clip_ratio: float | None = None
    cp_samples: int | None = None

    def layout(self, layout: FrameLayout) -> FrameLayout:
        """The layout with what the condition changes.

        Raises:
            LayoutError: a ratio or a prefix that no layout can have.
        """
        changes = {key: getattr(self, key) for key in ("clip_ratio", "cp_samples")}
        return replace(layout, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Sweep:
    """One experiment.

    Args:
        name: for titles and file names.
        channel: options of the simulated radio apart from csnr_db, seed and block_samples, such as
            "taps=8,decay=4,cfo_hz=300"; empty for white noise alone.
        csnr_db: channel SNRs, dB; also what the encoder is told.
        methods: as `receiver.decode.method_variant` takes them; with "jscc" among them the noise null is computed.
        conditions: what to compare instead of channel SNRs; then csnr_db has one value, for those that name none.
        num_images: held-out images of Fashion-MNIST's test split, spread evenly over its classes.
        images: a folder of images to use instead; empty: the test split.
        layout: frame layout, a name or a file.
        bundle: model bundle, a name or a folder.
        images_per_frame: most images in a frame; 0: as many as the layout takes.
        redraw_frames: the taps are drawn anew every so many frames.
        refine_steps: in which the transmitter refines the symbols of each image.
        batch_size: images decoded at once.
        seed: of channel, noise, samplers and the choice of images.
    """

    name: str
    csnr_db: tuple[float, ...]
    methods: tuple[str, ...]
    channel: str = ""
    num_images: int = 256
    images: str = ""
    layout: str = "paper"
    bundle: str = "fashion"
    images_per_frame: int = 0
    redraw_frames: int = 1
    refine_steps: int = 0
    conditions: tuple[Condition, ...] = ()
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name):
            raise ConfigError(f"name = {self.name!r} must be letters, digits and . _ - only.")
        if not self.csnr_db or len(set(self.csnr_db)) != len(self.csnr_db):
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must be a list of different numbers, at least one.")
        if not all(math.isfinite(value) and -20 <= value <= 60 for value in self.csnr_db):
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must lie in -20..60 dB.")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ConfigError(f"methods = {list(self.methods)} must be a list of different names, at least one.")
        for method in self.methods:
            method_variant(method)
        names = [condition.name for condition in self.conditions]
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"conditions are called {', '.join(names)}; give each a name of its own.")
        if self.conditions and len(self.csnr_db) != 1:
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must be one value where there are conditions.")
        for key in ("num_images", "redraw_frames", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)} must be at least 1.")
        if self.num_images < 2 or self.seed < 0:
            raise ConfigError(f"num_images = {self.num_images} must be at least 2 and seed = {self.seed} at least 0.")
        if self.refine_steps < 0:
            raise ConfigError(f"refine_steps = {self.refine_steps} must be at least 0.")
        if not 0 <= self.images_per_frame <= 64:
            raise ConfigError(f"images_per_frame = {self.images_per_frame} must be 1..64, or 0 for the layout's own.")

    @property
    def all_conditions(self) -> tuple[Condition, ...]:
        """The file's conditions, or one for each channel SNR."""
        return self.conditions or tuple(Condition(f"{csnr:g} dB", self.channel, csnr) for csnr in self.csnr_db)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a kept point depends on besides its own condition and method."""
        point = ("num_images", "images", "layout", "bundle", "redraw_frames", "refine_steps", "batch_size", "seed")
        return {key: getattr(self, key) for key in point}


_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "channel": str,
    "images": str,
    "layout": str,
    "bundle": str,
    "num_images": int,
    "images_per_frame": int,
    "redraw_frames": int,
    "refine_steps": int,
    "batch_size": int,
    "seed": int,
    "csnr_db": list,
    "methods": list,
    "conditions": list,
}
_CONDITION_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "channel": str,
    "csnr_db": (int, float),
    "clip_ratio": (int, float),
    "cp_samples": int,
}


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """An experiment from a TOML file.

    Args:
        path: the file; unknown keys are errors.
        overrides: "key=value" each, the value in TOML's spelling (a bare word is taken as a string).

    Raises:
        ConfigError: the file is missing, is no TOML, or says something impossible.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}). Give an experiment file (TOML).") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no TOML ({error}).") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override} is not KEY=VALUE.")
        try:
            content[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            content[key.strip()] = text
    for key, value in content.items():
        if key not in _KINDS:
            raise ConfigError(f"{path}: unknown key {key!r}; {did_you_mean(key, _KINDS)}.")
        if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
            raise ConfigError(f"{path}: {key} = {value!r} has the wrong type; see `ota sweep --help`.")
    for key, kind in (("csnr_db", (int, float)), ("methods", str)):
        if not all(isinstance(item, kind) and not isinstance(item, bool) for item in content.get(key, [])):
            raise ConfigError(f"{path}: {key} = {content[key]!r} holds an item of the wrong type.")
    missing = [key for key in ("name", "csnr_db", "methods") if key not in content]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}.")
    content["csnr_db"] = tuple(float(value) for value in content["csnr_db"])
    content["methods"] = tuple(content["methods"])
    default = {"channel": content.get("channel", ""), "csnr_db": next(iter(content["csnr_db"]), 0.0)}
    content["conditions"] = tuple(
        _read_condition(path, condition, default) for condition in content.get("conditions", [])
    )
    return Sweep(**content)


def _read_condition(path: Path, content: object, default: Mapping[str, Any]) -> Condition:
    if not isinstance(content, dict) or "name" not in content:
        raise ConfigError(f"{path}: every one of [[conditions]] is a table with a name.")
    for key, value in content.items():
        if key not in _CONDITION_KINDS:
            raise ConfigError(f"{path}: unknown key conditions.{key}; {did_you_mean(key, _CONDITION_KINDS)}.")
        if not isinstance(value, _CONDITION_KINDS[key]) or isinstance(value, bool):
            raise ConfigError(f"{path}: conditions.{key} = {value!r} has the wrong type; see `ota sweep --help`.")
    return Condition(**{**default, **content})


@dataclass(frozen=True)
class Point:
    """What came of one method at one channel SNR, over the images that arrived.

    Attributes:
        ids: of the images, n of them. pictures: (n, C, H, W) float32 in [0, 1].
        residuals, accepted, seconds: n each.
        scores: n, each the negative of the expected PSNR, dB.
        channel_distances: n squared errors of the taps; None where the true channel is not known.
        frames: frames found. sent_frames: frames sent.
    """

    ids: tuple[str, ...]
    pictures: Tensor
    residuals: tuple[float, ...]
    accepted: tuple[bool, ...]
    seconds: tuple[float, ...]
    scores: tuple[float, ...]
    channel_distances: tuple[float, ...] | None
    frames: int
    sent_frames: int


def held_out_images(sweep: Sweep, shape: ImageShape) -> tuple[list[str], Tensor]:
    """Ids and images (n, C, H, W) of the experiment.

    Raises:
        ConfigError: more images than there are, or the test split where the bundle takes other images.
        InputError: a folder whose images differ in size.
    """
    if not sweep.images and shape != FASHION_SHAPE:
        raise ConfigError(f"Bundle '{sweep.bundle}' is not for Fashion-MNIST: set images to a folder of its images.")
    if sweep.images:
        stems, images = load_image_folder(sweep.images, shape)
        if len(stems) < sweep.num_images:
            raise ConfigError(f"{sweep.images} has {len(stems)} images, num_images = {sweep.num_images} are needed.")
        ids = [image_id_from_stem(stem) for stem in stems]
        return ids[: sweep.num_images], images[: sweep.num_images]
    images, labels = load_fashion_mnist("test")
    if sweep.num_images > len(images):
        raise ConfigError(f"num_images = {sweep.num_images}, but the test split has {len(images)}.")
    picked = sample_indices(labels, sweep.num_images, torch.Generator().manual_seed(sweep.seed))
    return [f"t{index:05d}" for index in picked], images[picked]


def sweep_layout(sweep: Sweep, symbols_per_image: int) -> FrameLayout:
    """The experiment's layout, with its number of images per frame.

    Raises:
        ConfigError: a frame does not hold so many images.
    """
    layout = load_layout(sweep.layout)
    if not sweep.images_per_frame:
        return layout
    layout = replace(layout, image_slots=sweep.images_per_frame)
    if images_per_frame(symbols_per_image, layout) != sweep.images_per_frame:
        raise ConfigError(
            f"images_per_frame = {sweep.images_per_frame}, but a frame of layout '{layout.name}' has {layout.capacity} "
            f"cells for images of {symbols_per_image} symbols. Lower it, or choose another layout."
        )
    return layout


@dataclass(frozen=True)
class Transmission:
    """Attributes: recording; sent_frames; truth, the simulated channel, for scoring only (None where not known)."""

    recording: Recording
    sent_frames: int
    truth: ChannelTruth | None


def send(
    sweep: Sweep,
    codec: Codec,
    layout: FrameLayout,
    ids: Sequence[str],
    images: Tensor,
    condition: Condition,
    *,
    z: Tensor | None = None,
) -> Transmission:
    """Send all images over the simulated radio under one condition; `z` (n, K) where they are encoded already."""
    csnr_db = condition.csnr_db
    z = encode_refined(codec, images, csnr_db, sweep.refine_steps) if z is None else z
    symbols = Symbols(z.numpy(), codec.digest, tuple(ids), codec.image_shape, csnr_db)
    frames = pack_frames(symbols, layout, csnr_db)
    # Taps change in the gap before a frame: the stream begins with one gap, and every frame ends with one.
    fading = f"block_samples={sweep.redraw_frames * layout.frame_samples}" if "taps=" in condition.channel else ""
    # Each SNR has noise and channels of its own, or one unlucky draw would repeat along a whole curve; conditions of
    # one SNR share them, which makes their differences sharper.
    seed = sweep.seed * 1000 + round(csnr_db * 10) + 300
    options = [condition.channel, fading, f"csnr_db={csnr_db}", f"seed={seed}"]
    with open_radio("sim:" + ",".join(option for option in options if option), layout=layout) as radio:
        radio.transmit(modulate_stream(frames, layout))
        recording = radio.receive()
        assert isinstance(radio, SimulatedRadio)
        starts = [layout.gap_samples + index * layout.frame_samples for index in range(len(frames))]
        truth = radio.channel_truth(starts)
    return Transmission(recording, len(frames), None if truth is None else ChannelTruth.from_mapping(truth))


def _score_point(result: DecodeResult, sent: Transmission, bundle: Bundle, layout: FrameLayout, ids: set[str]) -> Point:
    images = [image for image in result.images if image.id in ids]
    synced = {frame.start: frame for frame in result.synced}
    distances = None
    if sent.truth is not None:
        distances = tuple(
            channel_distance(image.taps, synced[image.start_sample], sent.truth, layout) for image in images
        )
    shape = (0, *bundle.image_shape)
    pictures = np.stack([image.image for image in images]) if images else np.zeros(shape, np.float32)
    return Point(
        tuple(image.id for image in images),
        torch.from_numpy(pictures),
        tuple(image.residual for image in images),
        tuple(image.accepted for image in images),
        tuple(image.seconds for image in images),
        tuple(-image.expected_psnr_db for image in images),
        distances,
        len(result.frames),
        sent.sent_frames,
    )


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        summaries: one dictionary per condition and method. rows: the same as `result_row` tells it.
        figures: the pictures written.
    """

    summaries: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    figures: list[Path]


def run_sweep(sweep: Sweep, out: Path, device: str = "cpu", progress: Progress | None = None) -> SweepResult:
    """Compute the missing points, then write results.parquet, sweep.json and the figures into `out`.

    Raises:
        ConfigError: `out` holds points of an experiment with other settings.
    """
    bundle = load_bundle(sweep.bundle)
    ids, originals = held_out_images(sweep, bundle.takes)
    bundle = bundle.at((originals.shape[1], originals.shape[2], originals.shape[3]))
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    fingerprint = {**sweep.fingerprint, "layout_digest": layout.digest, "bundle_digest": bundle.digest}
    layouts = [condition.layout(layout) for condition in sweep.all_conditions]
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    _check_fingerprint(parts / "settings.json", fingerprint)
    total = len(layouts) * len(sweep.methods)
    report = progress or (lambda description, done, total: None)
    report("points", 0, total)
    points: dict[tuple[Condition, str], Point] = {}
    for condition, own in zip(sweep.all_conditions, layouts, strict=True):
        sent: Transmission | None = None
        for text in sweep.methods:
            path = parts / _point_name(condition, text)
            point = _read_point(path)
            if point is None:
                sent = sent or send(sweep, bundle.codec, own, ids, originals, condition)
                result = decode_recording(
                    sent.recording,
                    own,
                    bundle,
                    [text],
                    seed=sweep.seed,
                    device=device,
                    batch_size=sweep.batch_size,
                    progress=_within_point(report, f"{condition.name}, {text}"),
                )
                _write_point(path, _score_point(result, sent, bundle, own, set(ids)))
                # Scored as it is kept (16 bits a pixel), so that a resumed sweep gives the very same numbers.
                point = _read_point(path)
                assert point is not None
            points[condition, text] = point
            report("points", len(points), total)
    by_id = dict(zip(ids, originals, strict=True))
    images, summaries = _score(sweep, bundle, points, by_id)
    per_frame = images_per_frame(bundle.codec.num_symbols, layout)
    rows = [
        result_row(condition, summary, point, by_id, per_frame)
        for ((condition, _), point), summary in zip(points.items(), summaries, strict=True)
    ]
    floor = bundle.realism.score(originals, torch.Generator().manual_seed(sweep.seed))
    _write_results(out, sweep, images, summaries, rows, floor, fingerprint)
    _write_grid_data(out, ids[:GRID_COLUMNS], originals[:GRID_COLUMNS], points)
    return SweepResult(summaries, rows, write_figures(out))


def _point_name(condition: Condition, method: str) -> str:
    """File of a point: readable, and different wherever the condition or the method's settings are."""
    told = json.dumps([asdict(condition), asdict(method_variant(method))], sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{condition.name}-{method}")
    return f"{readable[:100]}-{zlib.crc32(told.encode()):08x}.npz"


def result_row(
    condition: Condition, summary: Mapping[str, Any], point: Point, originals: Mapping[str, Tensor], per_frame: int
) -> dict[str, Any]:
    """One line of the paper's tables for one point.

    An image that never arrived counts as a failure in `success_*` and `dh_below_0p1`; the means are over those that
    did. `acceptance_auc` tells how well the expected PSNR separates images of 15 dB and more from the others, with its
    95 % interval; null where there is only one kind.
    """
    n = len(originals)
    psnr = torch.zeros(0)
    if point.ids:
        psnr = psnr_db(point.pictures, torch.stack([originals[image_id] for image_id in point.ids]))
    distances = point.channel_distances
    roc = roc_curve(point.scores, (psnr >= LOW_SUCCESS_PSNR_DB).tolist())
    return {
        "method": summary["method"],
        "channel": condition.channel or "awgn",
        "csnr_db": condition.csnr_db,
        "images_per_frame": per_frame,
        "n": n,
        "psnr_db": summary["psnr_db"],
        "psnr_db_se": summary["psnr_se_db"],
        "realism": summary["realism"],
        "success_15db": int((psnr >= LOW_SUCCESS_PSNR_DB).sum()) / n,
        "success_17db": int((psnr >= SUCCESS_PSNR_DB).sum()) / n,
        "dh_below_0p1": None if distances is None else sum(d < CHANNEL_FOUND for d in distances) / n,
        "dh_mean": sum(distances) / len(distances) if distances else None,
        "acceptance_auc": None if roc is None else roc.area,
        "acceptance_auc_low": None if roc is None else roc.low,
        "acceptance_auc_high": None if roc is None else roc.high,
        "condition": condition.name,
        "realism_se": summary["realism_se"],
        "realism_null": summary["realism_null"],
        "residual": summary["residual"],
        "accepted": summary["accepted"],
        "seconds_per_image": summary["seconds_per_image"],
    }


def _within_point(report: Progress, name: str) -> Callable[[str, int, int], None]:
    def inner(description: str, done: int, total: int) -> None:
        if description.startswith("decode"):
            report(name, done, total)

    return inner


def _check_fingerprint(path: Path, fingerprint: Mapping[str, Any]) -> None:
    text = json.dumps(fingerprint, sort_keys=True, indent=1)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path.parent.parent} holds points of a sweep with other settings or models. Name another --out, or "
                "add --force to throw them away."
            )
        return
    write_bytes(path, text.encode())


def _write_point(path: Path, point: Point) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    arrays = {
        "ids": np.array(point.ids, dtype=str),
        # 16 bits a pixel: far finer than any figure shows.
        "pictures": (point.pictures.numpy() * 65535).round().astype(np.uint16),
        "residuals": np.array(point.residuals),
        "accepted": np.array(point.accepted, dtype=bool),
        "seconds": np.array(point.seconds),
        "scores": np.array(point.scores),
        "frames": np.array(point.frames),
        "sent_frames": np.array(point.sent_frames),
    }
    if point.channel_distances is not None:
        arrays["channel_distances"] = np.array(point.channel_distances)
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


def _read_point(path: Path) -> Point | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            return Point(
                tuple(stored["ids"].tolist()),
                torch.from_numpy(stored["pictures"].astype(np.float32) / 65535),
                tuple(stored["residuals"].tolist()),
                tuple(stored["accepted"].tolist()),
                tuple(stored["seconds"].tolist()),
                tuple(stored["scores"].tolist()),
                tuple(stored["channel_distances"].tolist()) if "channel_distances" in stored else None,
                int(stored["frames"]),
                int(stored["sent_frames"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it; the sweep computes it again.") from error


def _score(
    sweep: Sweep, bundle: Bundle, points: Mapping[tuple[Condition, str], Point], originals: Mapping[str, Tensor]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row per image, and one summary per point. The null is drawn from the plain decoder's images of the point."""
    rows: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    for (condition, method), point in points.items():
        base = {
            "experiment": sweep.name,
            "condition": condition.name,
            "csnr_db": condition.csnr_db,
            "method": method,
        }
        counts = {"sent": len(originals), "frames": point.frames, "sent_frames": point.sent_frames}
        if len(point.ids) < 2:
            # Nothing arrived: that is a result too, and must not stop the other points.
            summaries.append({**_empty_summary(method), **base, "n": len(point.ids), **counts})
            continue
        truth = torch.stack([originals[image_id] for image_id in point.ids])
        plain_point = points.get((condition, "jscc")) if method != "jscc" else None
        plain = None
        if plain_point is not None:
            # Every method decodes the same recording, hence the same images in the same order.
            assert plain_point.ids == point.ids
            plain = plain_point.pictures
        summary = summarise(
            method,
            point.pictures,
            truth,
            realism=bundle.realism,
            plain=plain,
            seconds=point.seconds,
            residuals=point.residuals,
            accepted=point.accepted,
            channel_distances=point.channel_distances,
            seed=sweep.seed,
        )
        summaries.append({**summary.to_dict(), **base, **counts})
        psnr = psnr_db(point.pictures, truth).clamp(max=MAX_PSNR_DB)
        similarity = ssim(point.pictures, truth)
        for index, image_id in enumerate(point.ids):
            rows.append(
                {
                    **base,
                    "id": image_id,
                    "psnr_db": float(psnr[index]),
                    "ssim": float(similarity[index]),
                    "residual": point.residuals[index],
                    "accepted": point.accepted[index],
                    "score": point.scores[index],
                    "channel_distance": None if point.channel_distances is None else point.channel_distances[index],
                    "seconds": point.seconds[index],
                }
            )
    return rows, summaries


def _empty_summary(method: str) -> dict[str, Any]:
    return {**dict.fromkeys(field.name for field in fields(Summary)), "method": method, "n": 0}


def _write_results(
    out: Path,
    sweep: Sweep,
    images: Sequence[Mapping[str, Any]],
    summaries: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    floor: RealismScore,
    fingerprint: Mapping[str, Any],
) -> None:
    partial = out / f".results.parquet.{os.getpid()}.part"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in images]), partial)
    os.replace(partial, out / "results.parquet")
    content = {
        "sweep": asdict(sweep),
        "settings": dict(fingerprint),
        "summary": list(summaries),
        "rows": list(rows),
        "floor": {"realism": floor.value, "realism_se": floor.std_error},
    }
    write_bytes(out / "sweep.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_grid_data(
    out: Path, ids: Sequence[str], originals: Tensor, points: Mapping[tuple[Condition, str], Point]
) -> None:
    """Keep the grid: `labels` (rows,), `pictures` uint8 (rows, columns, C, H, W), `there` (rows, columns)."""
    labels, rows, there = ["original"], [originals], [[True] * len(ids)]
    for (condition, method), point in points.items():
        place = {image_id: index for index, image_id in enumerate(point.ids)}
        labels.append(f"{condition.name}, {method}")
        there.append([image_id in place for image_id in ids])
        rows.append(
            torch.stack(
                [
                    point.pictures[place[image_id]] if image_id in place else torch.zeros_like(original)
                    for image_id, original in zip(ids, originals, strict=True)
                ]
            )
        )
    pictures = (torch.stack(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    partial = out / f".grid.npz.{os.getpid()}.part"
    with partial.open("wb") as file:
        np.savez_compressed(file, labels=np.array(labels, dtype=str), pictures=pictures, there=np.array(there))
    os.replace(partial, out / "grid.npz")


def write_figures(out: Path) -> list[Path]:
    """Draw what a sweep left in `out`, with one standard error each way.

    Returns:
        the pictures written: psnr.png and realism.png against channel SNR or condition, tradeoff.png with realism
        against PSNR, grid.png with the first images, and roc.png where some images failed.

    Raises:
        InputError: a file of the sweep is missing or damaged.
    """
    path = out / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, floor, summary = content["sweep"]["name"], content["floor"], content["summary"]
        numeric = not content["sweep"]["conditions"]
        images = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
        with np.load(out / "grid.npz") as stored:
            grid = {key: stored[key] for key in stored}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path} or a file beside it is missing or damaged ({error}). Run the sweep again; finished points are "
            "kept."
        ) from error
    scored = [row for row in summary if row["psnr_db"] is not None]
    count = max((row["n"] for row in scored), default=0)
    title = f"{name}, {count} images, ± 1 standard error"
    figures = {
        "psnr.png": _curve_figure(scored, "psnr_db", "psnr_se_db", "PSNR (dB)", numeric),
        "realism.png": _curve_figure(
            scored, "realism", "realism_se", "realism distance (lower is better)", numeric, floor["realism"]
        ),
        "tradeoff.png": _tradeoff_figure(scored, floor["realism"]),
    }
    for figure in figures.values():
        figure.axes[0].set_title(title)
        if figure.axes[0].get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figures["grid.png"] = _grid_figure(grid["labels"].tolist(), grid["pictures"], grid["there"])
    curves = _roc_curves(images)
    if curves:
        figures["roc.png"] = roc_figure(curves)
        figures["roc.png"].axes[0].set_title(f"{name}: images of less than {LOW_SUCCESS_PSNR_DB:g} dB found out")
    written = []
    for file, figure in figures.items():
        partial = out / f".{file}.{os.getpid()}.part"
        figure.savefig(partial, dpi=120, format="png")
        os.replace(partial, out / file)
        written.append(out / file)
    return written


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    own: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        own.setdefault(row["method"], []).append(row)
    return own


def _curve_figure(
    rows: Sequence[Mapping[str, Any]], key: str, error_key: str, label: str, numeric: bool, floor: float | None = None
) -> Figure:
    """One curve a method over channel SNR (numeric) or condition; with a floor also the noise nulls, on a log scale."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    names = list(dict.fromkeys(row["condition"] for row in rows))
    for method, own in _by_method(rows).items():
        own = sorted(own, key=lambda row: row["csnr_db"] if numeric else names.index(row["condition"]))
        at = [row["csnr_db"] if numeric else names.index(row["condition"]) for row in own]
        drawn = axes.errorbar(
            at,
            [row[key] for row in own],
            [row[error_key] for row in own],
            marker="o",
            ms=4,
            capsize=3,
            ls="-" if numeric else "none",
            color=COLOURS.get(method),
            label=METHOD_NAMES.get(method, method),
        )
        nulls = [(place, row) for place, row in zip(at, own, strict=True) if row["realism_null"] is not None]
        if floor is not None and nulls:
            axes.errorbar(
                [place for place, _ in nulls],
                [row["realism_null"] for _, row in nulls],
                [row["realism_null_se"] for _, row in nulls],
                ls=":" if numeric else "none",
                marker="x",
                ms=4,
                capsize=2,
                lw=1,
                color=drawn[0].get_color(),
                label=f"noise null of {method}",
            )
    if floor is not None:
        axes.axhline(floor, color="k", lw=0.8, ls="--", label="originals")
        axes.set_yscale("log")
    if not numeric:
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set(xlabel="channel SNR (dB)" if numeric else "", ylabel=label)
    axes.grid(alpha=0.3, which="both")
    return figure


def _tradeoff_figure(rows: Sequence[Mapping[str, Any]], floor: float) -> Figure:
    """Realism against PSNR, every point labelled with its condition; down and to the right is better."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for method, own in _by_method(rows).items():
        drawn = axes.errorbar(
            [row["psnr_db"] for row in own],
            [row["realism"] for row in own],
            [row["realism_se"] for row in own],
            [row["psnr_se_db"] for row in own],
            marker="o",
            ms=4,
            lw=0.8,
            capsize=2,
            color=COLOURS.get(method),
            label=METHOD_NAMES.get(method, method),
        )
        for row in own:
            axes.annotate(
                row["condition"],
                (row["psnr_db"], row["realism"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=drawn[0].get_color(),
            )
    axes.axhline(floor, color="k", lw=0.8, ls="--", label="originals")
    axes.set_yscale("log")
    axes.set(xlabel="PSNR (dB)", ylabel="realism distance (lower is better)")
    axes.grid(alpha=0.3, which="both")
    return figure


def _grid_figure(labels: Sequence[str], pictures: NDArray[np.uint8], there: NDArray[np.bool_]) -> Figure:
    """The same images in every row; blank where one did not arrive."""
    rows, columns = there.shape
    figure = Figure(figsize=(2.4 + 0.8 * columns, 0.84 * rows), layout="constrained")
    for line, label, row, arrived in zip(
        figure.subplots(rows, columns, squeeze=False), labels, pictures, there, strict=True
    ):
        for axes, picture, is_there in zip(line, row, arrived, strict=True):
            axes.set(xticks=[], yticks=[])
            if is_there:
                shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
                axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _roc_curves(images: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None, RocCurve]]:
    """One curve a method, over all conditions: the more failures, the surer the curve."""
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method, own in _by_method(images).items():
        curve = roc_curve([row["score"] for row in own], [row["psnr_db"] >= LOW_SUCCESS_PSNR_DB for row in own])
        if curve is not None:
            curves.append((method, COLOURS.get(method), curve))
    return curves
