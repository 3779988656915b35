"""Measure what impairments cost in decoded images, and what the true forward model gives back.

Two tables. `operators`: intersymbol interference (no prefix) and clipping, decoded with the true operator and with one
that ignores them, the channel known. `impaired`: everything that a moderate radio does at once, decoded by the whole
receiver, against a receiver that knows channel and offsets and whose signal has nothing but fading and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import mean_and_error
from receiver.bundles.bundle import Bundle
from receiver.channel.prior import channel_prior
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.fashion_mnist import load_fashion_mnist, sample_indices
from receiver.measurement.collect import measure_frames
from receiver.measurement.model import Measurement
from receiver.samplers import METHODS, Channel, Models, sample
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_awgn, apply_multipath, draw_taps, exponential_pdp, noise_var_for_csnr
from sdr.framing import FrameContent, frame_grid
from sdr.layout import FrameLayout, load_layout
from sdr.modem import demodulate, modulate, modulate_stream
from sdr.progress import Progress
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings
from transmitter.encode import encode_images

#: Clipping ratios of the paper's Figure 11.
CLIP_RATIOS = (0.8, 1.0, 1.2, 1.6, 2.0)

MODERATE = Impairments(
    tdl="A", delay_spread_s=100e-9, doppler_hz=5.0, offset_ppm=10.0, phase_noise_deg=0.1, image_rejection_db=30.0,
    adc_bits=8,
)  # fmt: skip


@dataclass(frozen=True)
class DecodingRow:
    """PSNR of one receiver on one channel.

    Where images share channels (`draws` above 0) they are no independent sample of them: standard errors are then over
    the means of the draws.

    Attributes:
        channel: what was wrong.
        method: that decoded.
        receiver: what it knew.
        csnr_db: channel SNR, dB.
        n: images.
        draws: channels that share them; 0: each image has its own.
        psnr_db: mean PSNR.
        psnr_error_db: its standard error.
        versus: receiver that this one is compared with over the same images; empty: none.
        delta_db: mean difference to it; NaN where there is none.
        delta_error_db: its standard error.
    """

    channel: str
    method: str
    receiver: str
    csnr_db: float
    n: int
    draws: int
    psnr_db: float
    psnr_error_db: float
    versus: str
    delta_db: float
    delta_error_db: float


def _row(
    channel: str,
    method: str,
    receiver: str,
    csnr_db: float,
    found: Tensor,
    versus: str = "",
    other: Tensor | None = None,
    draws: int = 0,
) -> DecodingRow:
    def error(values: Tensor) -> float:
        independent = values.view(draws, -1).mean(dim=1) if draws > 1 else values
        return mean_and_error(independent)[1]

    difference = None if other is None else found - other
    return DecodingRow(
        channel, method, receiver, csnr_db, found.numel(), draws, float(found.mean()), error(found), versus,
        math.nan if difference is None else float(difference.mean()),
        math.nan if difference is None else error(difference),
    )  # fmt: skip


def _images(count: int) -> tuple[list[str], Tensor]:
    """Return held-out images of Fashion-MNIST, evenly over its classes; the same ones whatever the seed."""
    images, labels = load_fashion_mnist("test")
    picked = sample_indices(labels, count, torch.Generator().manual_seed(0))
    return [f"t{index:05d}" for index in picked], images[picked]


def _perfect_frame(
    content: FrameContent, layout: FrameLayout, taps: NDArray[np.complex64], csnr_db: float, rng: np.random.Generator
) -> SyncedFrame:
    """Return a frame as a perfect synchroniser hands it over."""
    noise_var = noise_var_for_csnr(layout, csnr_db)
    samples = apply_awgn(apply_multipath(modulate(content, layout), taps), noise_var, rng)
    grid = demodulate(samples / np.float32(layout.amplitude), 0, layout, layout.num_symbols, 0)
    first = layout.first_pilot_symbol
    return SyncedFrame(
        grid=grid[first:], header=content.header, start=0, advance=0, cfo_hz=0.0, cfo_std_hz=0.0, metric=1.0,
        noise_var=noise_var / layout.amplitude**2, noise_var_std=0.0, signal_power=1.0, preamble_grid=grid[:2],
        header_grid=grid[2:first], known_taps=taps,
    )  # fmt: skip


def _decode(method: str, measurement: Measurement, h: Tensor, bundle: Bundle, layout: FrameLayout, seed: int) -> Tensor:
    posterior = sample(
        method,
        measurement,
        Channel(channel_prior(layout), h),
        Models(bundle.codec, bundle.required_denoiser),
        torch.Generator().manual_seed(seed),
        settings=METHODS[method].settings,
    )
    return posterior.x


def measure_operators(bundle: Bundle, count: int, csnr_db: float, seed: int, progress: Progress) -> list[DecodingRow]:
    """Measure interference between symbols and clipping: the true operator against one that ignores them."""
    ids, images = _images(count)
    paper = load_layout("paper")
    # Two data symbols, so that both the pilot and another image's symbols interfere.
    cases = [("isi", replace(paper, cp_samples=0, data_symbols=2))]
    cases += [(f"clip {ratio:g}", replace(paper, clip_ratio=ratio)) for ratio in CLIP_RATIOS]
    rows: list[DecodingRow] = []
    for done, (label, layout) in enumerate(cases):
        progress("operators", done, len(cases))
        rng = np.random.default_rng([seed, done])
        contents = encode_images(ids, images, bundle.codec, layout, csnr_db).frames
        taps = np.stack([draw_taps(exponential_pdp(8, 4.0), rng) for _ in contents])
        frames = [_perfect_frame(c, layout, h, csnr_db, rng) for c, h in zip(contents, taps, strict=True)]
        h = torch.from_numpy(taps)
        for method in ("jscc", "hifi"):
            ignoring, knowing = (
                psnr_db(_decode(method, measure_frames(frames, layout, mode=mode), h, bundle, layout, seed), images)
                for mode in ("frequency", "time")
            )
            rows.append(_row(label, method, "ignores", csnr_db, ignoring))
            rows.append(_row(label, method, "true operator", csnr_db, knowing, "ignores", ignoring))
    progress("operators", len(cases), len(cases))
    return rows


def measure_impaired(
    bundle: Bundle,
    count: int,
    draws: int,
    csnr_db: float,
    seed: int,
    progress: Progress,
) -> list[DecodingRow]:
    """Measure all impairments of a moderate radio at once, against the same fading and perfect knowledge.

    Args:
        bundle: models.
        count: images that go through each channel.
        draws: channels.
        csnr_db: channel SNR, dB.
        seed: of everything random.
        progress: called with the channels that are done.
    """
    reached: dict[str, list[Tensor]] = {"jscc": [], "hifi": []}
    perfect: dict[str, list[Tensor]] = {"jscc": [], "hifi": []}
    for draw in range(draws):
        progress("impaired", draw, draws)
        for method, (found, ideal) in _impaired_draw(bundle, count, csnr_db, seed + 1000 * draw).items():
            reached[method].append(found)
            perfect[method].append(ideal)
    progress("impaired", draws, draws)
    rows: list[DecodingRow] = []
    for method, parts in perfect.items():
        ideal, found = torch.cat(parts), torch.cat(reached[method])
        rows.append(_row("moderate", method, "perfect knowledge", csnr_db, ideal, draws=draws))
        rows.append(_row("moderate", method, "this receiver", csnr_db, found, "perfect knowledge", ideal, draws))
    return rows


def _impaired_draw(bundle: Bundle, count: int, csnr_db: float, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the PSNR of every image by method: through everything with this receiver, and with perfect knowledge.

    An image that the receiver does not decode counts with the PSNR of a grey one.
    """
    ids, images = _images(count)
    layout = load_layout("air")
    contents = encode_images(ids, images, bundle.codec, layout, csnr_db).frames
    stream = np.concatenate([modulate_stream(contents, layout, 2000), np.zeros(2000, np.complex64)])
    noise_var = noise_var_for_csnr(layout, csnr_db)
    chain = replace(MODERATE, noise_var=noise_var)
    bare = Impairments(tdl=chain.tdl, delay_spread_s=chain.delay_spread_s, doppler_hz=chain.doppler_hz)
    impaired = chain.apply(stream, layout.rate_sps, np.random.default_rng([seed, 77])).samples
    # The same generator draws the same channel; what is known perfectly is read off the noise-free signal.
    faded = bare.apply(stream, layout.rate_sps, np.random.default_rng([seed, 77])).samples
    noisy = apply_awgn(faded, noise_var, np.random.default_rng([seed, 78]))
    recording = Recording(impaired, RadioSettings(center_hz=chain.center_hz, rate_sps=layout.rate_sps))
    decoded = decode_recording(recording, layout, bundle, ("jscc", "hifi"), DecodeSettings(seed=seed))
    frames, taps = [], []
    fourier = np.exp(-2j * np.pi / layout.fft_size * np.outer(layout.active, np.arange(layout.cp_samples)))
    sent = {content.header.frame_number: frame_grid(content, layout) for content in contents}
    active, first = layout.active_bins, layout.first_pilot_symbol
    for frame in find_frames(Recording(faded), layout):
        assert frame.header is not None  # there is no noise
        # As it came: what the synchroniser took for an offset or a clock is the channel's own movement.
        grid, clean = (demodulate(samples, frame.start, layout, layout.num_symbols, 0) for samples in (noisy, faded))
        data = slice(layout.first_data_symbol, None)
        known = sent[frame.header.frame_number][data, active]
        energy = np.sum(np.abs(known) ** 2, axis=0)
        response = np.sum(clean[data, active] * known.conj(), axis=0) / energy
        power = float(np.mean(np.abs(response) ** 2))
        root = np.sqrt(energy / power)
        taps.append(np.linalg.lstsq(root[:, None] * fourier * math.sqrt(power), root * response, rcond=1e-4)[0])
        frames.append(replace(frame, grid=grid[first:], noise_var=noise_var, signal_power=power))
    ideal = measure_frames(frames, layout)
    h = torch.from_numpy(np.stack(taps).astype(np.complex64))
    originals = images[[ids.index(name) for name in ideal.image_ids]]
    result = {}
    for method in ("jscc", "hifi"):
        found = {image.id: torch.from_numpy(image.image) for image in decoded.images if image.method == method}
        grey = torch.full(bundle.image_shape, 0.5)
        shown = torch.stack([found.get(name, grey) for name in ideal.image_ids])
        best = _decode(method, ideal, h, bundle, layout, seed)
        result[method] = (psnr_db(shown, originals), psnr_db(best, originals))
    return result
