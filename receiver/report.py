"""The report of a run folder: one HTML file that needs nothing beside it.

A run folder holds `run.json` (configuration, versions, frames, images, scores, times), `diagnostics.npz` (what
`write_diagnostics` kept of the signal), the images named in run.json, and where there is ground truth `originals/`.
The report is made from these alone, so it can be made again at any time.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter
from numpy.typing import NDArray

from receiver.evaluation import LOW_SUCCESS_PSNR_DB, RocCurve, roc_curve
from receiver.truth import ChannelTruth, true_response
from sdr.errors import InputError
from sdr.framing import image_spans, payload_cells
from sdr.layout import FrameLayout, load_layout
from sdr.recordings.recording import Recording

if TYPE_CHECKING:
    from receiver.decode import DecodeResult

TEMPLATES = Path(__file__).parent / "templates"
#: Frames whose channel and constellation are drawn.
SHOWN_FRAMES = 4
#: Longest side of a picture in the report, pixels; larger ones are shrunk (beside the report they are whole).
SHOWN_SIDE = 640
#: Images in the gallery.
SHOWN_IMAGES = 64
#: Layout of run.json; another one is refused.
RUN_FORMAT = 3
#: Standard deviation of a pixel over the draws that is drawn white.
WHITE_SPREAD = 0.25
#: Images in gallery.png.
GALLERY_COLUMNS = 12
#: Colour of each method in every figure.
COLOURS = {"jscc": "#7f7f7f", "diffcom": "#1f77b4", "hifi": "#d62728", "blind": "#2ca02c", "blind-jscc": "#8c564b"}
#: What the others take in turn.
OTHER_COLOURS = ("#ff7f0e", "#9467bd", "#e377c2", "#bcbd22", "#17becf", "#000000")
METHOD_NAMES = {
    "jscc": "deterministic decoder",
    "diffcom": "DiffCom",
    "hifi": "HiFi-DiffCom",
    "blind": "blind DiffCom (no pilots used)",
    "blind-jscc": "deterministic decoder (no pilots used)",
}

#: Columns of the table of frames: field of run.json's frames, title, format.
FRAME_COLUMNS = (
    ("start_sample", "sample", "%d"),
    ("metric", "metric", "%.3f"),
    ("cfo_hz", "offset Hz", "%.1f"),
    ("snr_db", "SNR dB", "%.1f"),
    ("evm_db", "EVM dB", "%.1f"),
    ("papr_db", "PAPR dB", "%.1f"),
    ("corrected_drift_ppm", "clock ppm", "%.2f"),
    ("phase_jitter_rad", "jitter rad", "%.4f"),
    ("phase_residual_rad", "phase left rad", "%.4f"),
    ("timing_residual_samples", "delay left samples", "%.4f"),
    ("channel_mse", "channel error", "%.4f"),
    ("residual", "residual", "%.2f"),
)

_SPECTRUM_BINS = 512


def spectrum(samples: NDArray[np.complex64], rate_sps: float, bins: int = _SPECTRUM_BINS) -> tuple[NDArray, NDArray]:
    """Averaged periodogram with a Hann window.

    Args:
        samples: (n,) at full scale 1; a recording shorter than `bins` is padded with zeros.
        rate_sps: their rate.

    Returns:
        frequency in Hz, ascending, and power per bin in dB of full scale, both (bins,).
    """
    padded = samples if len(samples) >= bins else np.pad(samples, (0, bins - len(samples)))
    window = np.hanning(bins)
    total, count = np.zeros(bins), 0
    for first in range(0, len(padded) - bins + 1, bins // 2):
        total += np.abs(np.fft.fft(padded[first : first + bins] * window)) ** 2
        count += 1
    power = np.fft.fftshift(total) / (count * bins * np.sum(window**2))
    return np.fft.fftshift(np.fft.fftfreq(bins, 1 / rate_sps)), 10 * np.log10(power + 1e-20)


def write_diagnostics(
    path: Path, recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> None:
    """Keep what `diagnose` found in a .npz file, written under a temporary name first."""
    arrays = diagnose(recording, result, layout, truth)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)


def diagnose(
    recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> dict[str, NDArray]:
    """What the report draws of the signal: spectrum, constellations, channel estimates, received symbols.

    Args:
        recording: what was decoded.
        result: what came of it.
        layout: of the frames.
        truth: the simulated channel, drawn beside the estimate.
    """
    arrays: dict[str, NDArray] = {}
    arrays["spectrum_hz"], arrays["spectrum_dbfs"] = spectrum(recording.samples, recording.settings.rate_sps)
    read = [index for index, frame in enumerate(result.synced) if frame.header is not None]
    shown = read[:SHOWN_FRAMES]
    before, after, starts, responses, true_responses = [], [], [], [], []
    for index in read:
        frame = result.synced[index]
        response = _raw_response(result, index, layout)
        starts.append(frame.start)
        responses.append(response / layout.amplitude)
        if truth is not None:
            true_responses.append(true_response(frame, truth, layout))
        if index in shown:
            header = frame.header_grid[:, layout.active_bins]
            gains = response[layout.active_bins]
            before.append(header / np.sqrt(frame.signal_power))
            after.append(header * np.conj(gains) / (np.abs(gains) ** 2 + frame.noise_var))
    if read:
        arrays["header_cells_before"] = np.array(before, dtype=np.complex64)
        arrays["header_cells_after"] = np.array(after, dtype=np.complex64)
        arrays["frame_starts"] = np.array(starts)
        arrays["responses"] = np.array(responses, dtype=np.complex64)
        if truth is not None:
            arrays["true_responses"] = np.array(true_responses, dtype=np.complex64)
            errors = channel_errors(result, layout, truth)
            arrays["channel_distances"] = np.array([error for error in errors if error is not None])
    received = _received_symbols(result, layout)
    arrays["received_ids"] = np.array(list(received), dtype=str)
    # One after the other: images of different sizes have different numbers of symbols.
    arrays["received_counts"] = np.array([len(symbols) for symbols in received.values()], dtype=np.int64)
    arrays["received_symbols"] = np.concatenate([np.empty(0, np.complex64), *received.values()])
    return arrays


def write_posterior(path: Path, result: DecodeResult) -> None:
    """Keep mean and spread of the draws, in the order of the images: `mean` and `spread`, float32 (n, C, H, W).

    Smaller images than the largest are padded with zeros; `sizes` (n, 2) are their own heights and widths. Nothing is
    written where there was one draw an image.
    """
    kept = [
        (image.mean, image.spread) for image in result.images if image.mean is not None and image.spread is not None
    ]
    if not kept:
        return
    sizes = np.array([mean.shape[1:] for mean, _ in kept])
    height, width = sizes.max(axis=0)

    def padded(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(picture, ((0, 0), (0, height - picture.shape[1]), (0, width - picture.shape[2])))

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            mean=np.stack([padded(mean) for mean, _ in kept]),  # type: ignore[arg-type]
            spread=np.stack([padded(spread) for _, spread in kept]),  # type: ignore[arg-type]
            sizes=sizes,  # type: ignore[arg-type]
        )
    os.replace(partial, path)


def channel_errors(result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None) -> list[float | None]:
    """Mean squared error of every frame's channel estimate per carrier, the true channel's mean power being 1.

    None where there is no truth, or no header to estimate behind.
    """
    errors: list[float | None] = []
    for index, frame in enumerate(result.synced):
        if truth is None or frame.header is None:
            errors.append(None)
            continue
        difference = _raw_response(result, index, layout) / (layout.amplitude * truth.gain)
        difference = difference - true_response(frame, truth, layout)
        errors.append(float(np.mean(np.abs(difference[layout.active_bins]) ** 2)))
    return errors


def _raw_response(result: DecodeResult, index: int, layout: FrameLayout) -> NDArray[np.complex128]:
    """(N,) estimated response in units of the recording, amplitude of the transmitter included."""
    frame, estimate = result.synced[index], result.estimates[index]
    if estimate is not None:
        return np.asarray(estimate.response).reshape(-1) * np.sqrt(frame.signal_power)
    # A layout without pilots: what the preamble and the header say, which no decoder is given.
    return np.fft.fft(frame.known_taps, layout.fft_size)


def _received_symbols(result: DecodeResult, layout: FrameLayout) -> dict[str, NDArray[np.complex64]]:
    """image id -> complex64 (K,) symbols as they came: descrambled, scaled to unit power, not equalised."""
    received: dict[str, NDArray[np.complex64]] = {}
    for frame in result.synced:
        if frame.header is None:
            continue
        scale = np.float32(np.sqrt(frame.signal_power))
        cells = payload_cells(frame.grid[layout.pilot_symbols :], layout) / scale
        for span in image_spans(frame.header):
            count = frame.header.symbols_per_image
            kept = received.setdefault(span.image_id, np.zeros(count, np.complex64))
            if len(kept) != count:
                continue  # another transmission's image of the same name
            piece = cells[span.payload_start : span.payload_start + span.num_symbols]
            kept[span.symbol_start : span.symbol_start + span.num_symbols] = piece
    return received


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder.

    Returns:
        its path.

    Raises:
        InputError: run.json or diagnostics.npz is missing or damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run = read_run(folder)
    diagnostics = _read_npz(folder / "diagnostics.npz")
    layout = load_layout(folder / "layout.json")
    methods = list(dict.fromkeys(image["method"] for image in run["images"]))
    figures = [
        ("Spectrum of the recording", spectrum_figure(diagnostics)),
        *(
            [("Header cells before and after equalisation", constellation_figure(diagnostics))]
            if _has(diagnostics)
            else []
        ),
        *([("Channel", channel_figure(diagnostics, layout))] if _has(diagnostics) else []),
        ("Normalised residual: about 1 for a right answer", _residual_figure(run["images"], methods)),
        *_roc_figures(run["images"], methods),
        ("Frames", _frames_figure(run["frames"])),
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html").render(
        run=run,
        methods=methods,
        method_names=METHOD_NAMES,
        figures=[(title, _data_uri(figure)) for title, figure in figures],
        gallery=_gallery(folder, run, diagnostics, methods),
        small=_small(folder, run),
        channel_distances=diagnostics.get("channel_distances", np.empty(0)).tolist(),
        summary=run.get("summary", []),
        floor=run.get("floor"),
        white_spread=WHITE_SPREAD,
        frame_columns=FRAME_COLUMNS,
        stages=run.get("stages", []),
        processes=run.get("processes", []),
    )
    target = folder / "report.html"
    partial = folder / f".report.html.{os.getpid()}.part"
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, target)
    return target


#: Pictures of at most so many pixels a side are shown enlarged, every pixel a square.
_SMALL_SIDE = 84


def _small(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the pictures of a run are small; false where there are none."""
    from PIL import Image

    for image in run["images"]:
        try:
            with Image.open(folder / image["path"]) as picture:
                return max(picture.size) <= _SMALL_SIDE
        except OSError as error:
            raise InputError(f"{folder / image['path']} can't be read ({error}). Repeat the run.") from error
    return False


def read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Give the --out of a finished run.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}). Repeat the run.") from error
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT:
        raise InputError(f"{path} does not describe a run of this version. Repeat the run.")
    return run


def _read_npz(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path) as stored:
            return {key: stored[key] for key in stored}
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Repeat the run.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}). Repeat the run.") from error


def _has(diagnostics: Mapping[str, NDArray]) -> bool:
    return "responses" in diagnostics


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png_uri(buffer.getvalue())


def png_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def spectrum_figure(diagnostics: Mapping[str, NDArray]) -> Figure:
    axes = (figure := _figure(8, 2.6)).subplots()
    axes.plot(diagnostics["spectrum_hz"] / 1e3, diagnostics["spectrum_dbfs"], lw=0.9)
    axes.set(xlabel="frequency (kHz)", ylabel="power per bin (dBFS)")
    axes.grid(alpha=0.3)
    return figure


def constellation_figure(diagnostics: Mapping[str, NDArray]) -> Figure:
    axes = (figure := _figure(8, 4)).subplots(1, 2)
    for axis, key, title in zip(
        axes, ("header_cells_before", "header_cells_after"), ("as received", "equalised"), strict=True
    ):
        for cells in diagnostics[key]:
            axis.plot(cells.real.ravel(), cells.imag.ravel(), ".", ms=1.5, alpha=0.5)
        axis.set(title=f"{title} (BPSK, one colour a frame)", xlabel="in phase", ylabel="quadrature", aspect="equal")
        axis.set(xlim=(-3, 3), ylim=(-3, 3))
        axis.grid(alpha=0.3)
    return figure


def channel_figure(diagnostics: Mapping[str, NDArray], layout: FrameLayout) -> Figure:
    count = min(SHOWN_FRAMES, len(diagnostics["responses"]))
    carriers = np.array(layout.active)
    axes = (figure := _figure(8, 2.0 * ((count + 1) // 2) + 0.6)).subplots((count + 1) // 2, 2, squeeze=False)
    for index, axis in enumerate(axes.ravel()):
        if index >= count:
            axis.axis("off")
            continue
        response = diagnostics["responses"][index][layout.active_bins]
        axis.plot(carriers, 20 * np.log10(np.abs(response) + 1e-9), lw=1.2, label="estimate")
        title = f"frame at sample {diagnostics['frame_starts'][index]}"
        if "true_responses" in diagnostics:
            true = diagnostics["true_responses"][index][layout.active_bins]
            axis.plot(carriers, 20 * np.log10(np.abs(true) + 1e-9), "k--", lw=0.9, label="truth")
            title += f", error {10 * np.log10(diagnostics['channel_distances'][index] + 1e-9):.1f} dB"
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="carrier", ylabel="gain (dB)")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    return figure


def _residual_figure(images: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Figure:
    scored = any(image.get("psnr_db") is not None for image in images)
    panels = (figure := _figure(8, 3)).subplots(1, 2 if scored else 1, squeeze=False)[0]
    values = [image["residual"] for image in images if image["residual"] is not None]
    edges = np.geomspace(max(min(values), 1e-2), max(*values, 1e-1) * 1.01, 40) if values else np.array([0.1, 10])
    for method in methods:
        colour = COLOURS.get(method)
        own = [image for image in images if image["method"] == method and image["residual"] is not None]
        panels[0].hist([i["residual"] for i in own], edges, histtype="step", lw=1.5, color=colour, label=method)
        if scored:
            pairs = [(i["residual"], i["psnr_db"]) for i in own if i.get("psnr_db") is not None]
            panels[1].plot([p[0] for p in pairs], [p[1] for p in pairs], ".", ms=4, color=colour, label=method)
    for panel in panels:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(FuncFormatter(_few_labels))
    panels[0].set(xlabel="normalised residual", ylabel="images")
    panels[0].axvline(1, color="k", lw=0.7, ls=":")
    panels[0].legend(fontsize=8)
    if scored:
        panels[1].set(xlabel="normalised residual", ylabel="PSNR (dB)")
        panels[1].grid(alpha=0.3)
    return figure


def _few_labels(value: float, _place: int) -> str:
    """A label for 2, 3 and 5 of every decade: all of them would overlap."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def _roc_figures(images: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[tuple[str, Figure]]:
    """How well acceptance knows good images from bad ones, where ground truth tells both kinds."""
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method in methods:
        own = [image for image in images if image["method"] == method and image.get("psnr_db") is not None]
        # JSON has no infinity: what is missing was not finite.
        scores = [math.inf if i["expected_psnr_db"] is None else -i["expected_psnr_db"] for i in own]
        curve = roc_curve(scores, [i["psnr_db"] >= LOW_SUCCESS_PSNR_DB for i in own])
        if curve is not None:
            curves.append((method, COLOURS.get(method), curve))
    title = f"Acceptance: images of less than {LOW_SUCCESS_PSNR_DB:g} dB that are found out"
    return [(title, roc_figure(curves))] if curves else []


def roc_figure(curves: Sequence[tuple[str, str | None, RocCurve]]) -> Figure:
    """Curves of (label, colour, curve), each with its area, the area's 95 % interval and the numbers of images."""
    axes = (figure := _figure(7, 4)).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for label, colour, curve in curves:
        area = f"{curve.area:.2f} ({curve.low:.2f}..{curve.high:.2f}), {curve.bad} of {curve.good + curve.bad} bad"
        axes.plot(curve.false_alarms, curve.hits, lw=1.4, color=colour, label=f"{label}: area {area}")
    axes.plot([0, 1], [0, 1], "k:", lw=0.7)
    axes.set(xlabel="good images rejected", ylabel="bad images rejected", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    if curves:
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def _frames_figure(frames: Sequence[Mapping[str, Any]]) -> Figure:
    axes = (figure := _figure(8, 2.6)).subplots(1, 2)
    numbers = range(len(frames))
    for axis, key, label in zip(axes, ("snr_db", "cfo_hz"), ("received SNR (dB)", "carrier offset (Hz)"), strict=True):
        axis.plot(numbers, [frame[key] for frame in frames], "o-", ms=3, lw=0.8)
        axis.set(xlabel="frame", ylabel=label)
        axis.grid(alpha=0.3)
    return figure


def _gallery(
    folder: Path, run: Mapping[str, Any], diagnostics: Mapping[str, NDArray], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row an image: original and received pictures, and each method's picture with its residual and PSNR."""
    pieces = np.split(diagnostics["received_symbols"], np.cumsum(diagnostics["received_counts"])[:-1])
    symbols = dict(zip(diagnostics["received_ids"].tolist(), pieces, strict=False))
    posterior = _read_npz(folder / "posterior.npz") if (folder / "posterior.npz").is_file() else None
    rows: dict[str, dict[str, Any]] = {}
    for index, image in enumerate(run["images"]):
        if image["id"] not in rows:
            if len(rows) == SHOWN_IMAGES:
                continue
            original = folder / "originals" / f"{image['id']}.png"
            received = symbols.get(image["id"])
            rows[image["id"]] = {
                "id": image["id"],
                "original": _file_uri(original) if original.is_file() else None,
                "received": None if received is None else _symbols_uri(received),
                "decoded": {},
            }
        rows[image["id"]]["decoded"].setdefault(
            image["method"],
            {
                "picture": _file_uri(folder / image["path"]),
                "residual": image["residual"],
                "accepted": image["accepted"],
                "psnr_db": image.get("psnr_db"),
                "mean": None if posterior is None else _posterior_uri(posterior, "mean", index),
                "spread": None if posterior is None else _posterior_uri(posterior, "spread", index, WHITE_SPREAD),
            },
        )
    return list(rows.values())


def _posterior_uri(posterior: Mapping[str, NDArray], part: str, index: int, white: float = 1.0) -> str:
    height, width = posterior["sizes"][index]
    return _picture_uri(posterior[part][index, :, :height, :width] / white)


def _picture_uri(picture: NDArray[np.floating]) -> str:
    """(C, H, W), shown from 0 (black) to 1 (white)."""
    pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    return _pixels_uri(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def write_gallery(folder: Path) -> Path:
    """Write `gallery.png` into a run folder: the first images in columns; original, received and methods in rows.

    Returns:
        its path.

    Raises:
        InputError: run.json or diagnostics.npz is missing or damaged.
    """
    run, diagnostics = read_run(folder), _read_npz(folder / "diagnostics.npz")
    methods = list(dict.fromkeys(image["method"] for image in run["images"]))
    columns = _gallery(folder, run, diagnostics, methods)[:GALLERY_COLUMNS]
    rows: list[tuple[str, list[str | None]]] = [
        ("original", [column["original"] for column in columns]),
        ("received", [column["received"] for column in columns]),
    ]
    for method in methods:
        decoded = [column["decoded"].get(method) for column in columns]
        rows.append((method, [None if entry is None else entry["picture"] for entry in decoded]))
    rows = [(name, pictures) for name, pictures in rows if any(pictures)]
    shown = next(picture for _, pictures in rows for picture in pictures if picture is not None)
    inches = 0.8 if max(_pixels(shown).shape[:2]) <= 64 else 2.4
    figure = Figure(figsize=(0.9 + inches * len(columns), 1.02 * inches * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.set(xticks=[], yticks=[])
            if picture is not None:
                axis.imshow(_pixels(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    target = folder / "gallery.png"
    partial = folder / f".gallery.png.{os.getpid()}.part"
    figure.savefig(partial, dpi=100, format="png")
    os.replace(partial, target)
    return target


def _pixels(uri: str) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture)


def _file_uri(path: Path) -> str:
    """A picture, shrunk where it is larger than a report shows."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            if max(picture.size) > SHOWN_SIDE:
                picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
                buffer = io.BytesIO()
                picture.save(buffer, format="PNG")
                content = buffer.getvalue()
        return png_uri(content)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}). Repeat the run.") from error


def _symbols_uri(symbols: NDArray[np.complex64]) -> str:
    """Received symbols as a picture: one square a symbol, its brightness the magnitude."""
    width = int(np.ceil(np.sqrt(len(symbols))))
    cells = np.zeros(width * width, np.float32)
    cells[: len(symbols)] = np.abs(symbols)
    return _pixels_uri(np.clip(cells.reshape(width, width) / 2.5 * 255, 0, 255).astype(np.uint8))


def _pixels_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W) or (H, W, 3) as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return png_uri(buffer.getvalue())
