"""Block error rates of 5G LDPC and QAM through this project's frames and receiver, and the table made from them.

Over white noise blocks are counted: sent as frames over the simulated radio, found, their channel estimated from the
pilots, demapped and decoded. A curve over the channel SNR is a normal distribution function in dB (the waterfall of a
long code is), fitted by maximum likelihood, which also tells where it falls to 1e-3.

Over fading, where 1e-3 would need thousands of blocks a point, each of many drawn channels is reduced to the white
noise that has the same mutual information of coded bits (MIESM, as system-level simulations of the standard do), and
the curve above tells what becomes of a block. A few counted points check that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

from lab.evaluation.statistics import wilson_interval
from receiver.channel.pilots import estimate_channels
from receiver.channel.prior import channel_prior
from receiver.measurement.collect import measure_frames
from receiver.separation.channel_code import ChannelCode, channel_code, import_sionna
from receiver.separation.schemes import Scheme
from receiver.separation.soft import soft_symbols
from receiver.sync.preamble import find_frames
from sdr.air.impairments import exponential_pdp
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols
from transmitter.encode import Transmission

#: Largest block error rate that a scheme is chosen for.
TARGET_BLER = 1e-3
#: Block error rate at which curves are compared.
COMPARED_BLER = 1e-2
#: Standard deviations, dB, that a fitted waterfall may have.
_WIDTHS_DB = (0.03, 3.0)
_DIGEST = "0e5a1a7e"


@dataclass(frozen=True)
class BlerPoint:
    """Blocks counted at one channel SNR.

    Attributes:
        scheme: name of modulation and code rate.
        channel: options of the simulated radio, empty for white noise; or "sionna" for its own simulation.
        csnr_db: channel SNR, dB.
        blocks: sent.
        errors: blocks that were not found, failed the checksum, or were wrong.
    """

    scheme: str
    channel: str
    csnr_db: float
    blocks: int
    errors: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the block error rate."""
        return wilson_interval(self.errors, self.blocks)


@dataclass(frozen=True)
class Waterfall:
    """A block error rate over the channel SNR: 1 - Phi((csnr_db - middle_db) / width_db).

    Attributes:
        middle_db: where half of the blocks fail.
        width_db: standard deviation.
        error_db: standard error of `at(COMPARED_BLER)`, from blocks drawn anew.
    """

    middle_db: float
    width_db: float
    error_db: float = 0.0

    def at(self, bler: float) -> float:
        """Return the channel SNR, dB, of a block error rate."""
        return float(self.middle_db + self.width_db * norm.isf(bler))

    def bler(self, csnr_db: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the block error rate at channel SNRs, dB."""
        return norm.sf((csnr_db - self.middle_db) / self.width_db)


def blocks_through_frames(
    code: ChannelCode, layout: FrameLayout, csnr_db: float, channel: str, blocks: int, seed: int
) -> BlerPoint:
    """Send random blocks as frames over the simulated radio and count those that are lost.

    Args:
        code: of the blocks.
        layout: of the frames, with pilots.
        csnr_db: channel SNR, dB.
        channel: options of the simulated radio; taps are drawn anew for every frame.
        blocks: how many.
        seed: of blocks, channel and noise.
    """
    bits = torch.randint(0, 2, (blocks, code.num_bits), generator=torch.Generator().manual_seed(seed))
    sent = random_transmission(code, layout, bits)
    fading = f"block_samples={layout.frame_samples}" if "taps=" in channel else ""
    options = ",".join(filter(None, [channel, fading, f"csnr_db={csnr_db}", f"seed={seed}"]))
    with open_radio(f"sim:{options}", layout=layout) as radio:
        radio.transmit(sent.samples())
        recording = radio.receive()
    errors = count_errors(code, layout, bits, recording)
    return BlerPoint(code.scheme.name, channel, csnr_db, blocks, errors)


def random_transmission(code: ChannelCode, layout: FrameLayout, bits: torch.Tensor) -> Transmission:
    """Return blocks of `bits` (B, num_bits) as frames, one image of a block each, named by its number."""
    ids = tuple(f"b{index:06d}" for index in range(len(bits)))
    symbols = Symbols(code.encode(bits).numpy(), _DIGEST, ids, (3, 256, 256), 0.0)
    return Transmission.of([symbols], layout)


def count_errors(code: ChannelCode, layout: FrameLayout, bits: torch.Tensor, recording: Recording) -> int:
    """Return how many of the blocks of `bits` (B, num_bits) a recording does not give back."""
    found = [frame for frame in find_frames(recording, layout) if frame.header is not None]
    if not found:
        return len(bits)
    measurement = measure_frames(found, layout)
    estimate = estimate_channels(measurement, channel_prior(layout))
    decoded, right = code.decode(*soft_symbols(measurement, estimate))
    good = 0
    for image_id, block, checked in zip(measurement.image_ids, decoded, right.tolist(), strict=True):
        good += checked and bool((block == bits[int(image_id[1:])]).all())
    return len(bits) - good


def sionna_point(scheme: Scheme, num_symbols: int, csnr_db: float, blocks: int, seed: int) -> BlerPoint:
    """Count lost blocks in Sionna's own simulation: its binary source, mapper, AWGN, demapper and decoder alone."""
    from sionna.phy.channel import AWGN
    from sionna.phy.config import config
    from sionna.phy.mapping import BinarySource

    nr, mapping = import_sionna()
    config.seed = seed
    coded = num_symbols * scheme.bits_per_symbol
    sizes = {"target_coderate": scheme.code_rate, "num_coded_bits": coded, "num_layers": 1}
    block_bits = int(nr.calculate_tb_size(modulation_order=scheme.bits_per_symbol, **sizes)[0])
    encoder = nr.TBEncoder(block_bits, coded, scheme.code_rate, scheme.bits_per_symbol)
    decoder = nr.TBDecoder(encoder)
    constellation = mapping.Constellation("qam", scheme.bits_per_symbol)
    noise_var = torch.tensor(10 ** (-csnr_db / 10))
    bits = BinarySource()([blocks, block_bits])
    received = AWGN()(mapping.Mapper(constellation=constellation)(encoder(bits)), noise_var)
    soft = mapping.Demapper("app", constellation=constellation)(received, noise_var)
    decoded, _ = decoder(soft)
    errors = int((decoded != bits).any(dim=-1).sum())
    return BlerPoint(scheme.name, "sionna", csnr_db, blocks, errors)


def search_waterfall(
    count: Callable[[float, int, int], BlerPoint], start_db: float, blocks: int, step_db: float = 0.3
) -> list[BlerPoint]:
    """Find where a curve falls and count blocks there.

    Args:
        count: counts so many blocks at a channel SNR with a seed.
        start_db: a first guess.
        blocks: counted in all, about.
        step_db: between channel SNRs.

    Returns:
        the points: some 20 blocks each until one loses all and one none, then the rest in between.
    """
    few = max(4, blocks // 6)
    points = [count(start_db, few, 1)]
    while points[-1].errors and len(points) < 20:
        points.append(count(points[-1].csnr_db + step_db, few, len(points) + 1))
    while min(points, key=lambda p: p.csnr_db).errors < few // 2 and len(points) < 20:
        lowest = min(points, key=lambda p: p.csnr_db).csnr_db
        points.append(count(lowest - step_db, few, len(points) + 1))
    rough = fit_waterfall(points, resamples=0)
    middle, spread = rough.middle_db, max(rough.width_db, 0.08)
    for index, place in enumerate((middle, middle + spread, middle + 2 * spread)):
        points.append(count(place, max(4, blocks // 5), 100 + index))
    return points


def fit_waterfall(points: Sequence[BlerPoint], resamples: int = 200, seed: int = 0) -> Waterfall:
    """Fit a waterfall to counted blocks by maximum likelihood.

    Args:
        points: of one scheme and channel.
        resamples: of the blocks, which tell the standard error.
        seed: of these.
    """
    csnr_db = np.array([point.csnr_db for point in points])
    blocks = np.array([point.blocks for point in points])
    errors = np.array([point.errors for point in points])

    def fitted(lost: NDArray[np.int64]) -> Waterfall:
        def cost(parameters: NDArray[np.float64]) -> float:
            middle, width = parameters[0], np.clip(np.exp(parameters[1]), *_WIDTHS_DB)
            rate = np.clip(norm.sf((csnr_db - middle) / width), 1e-9, 1 - 1e-9)
            # A weak prior about 0.2 dB keeps the width finite where no point has both outcomes.
            return float(-(lost * np.log(rate) + (blocks - lost) * np.log1p(-rate)).sum() + (np.log(width / 0.2)) ** 2)

        start = np.array([np.average(csnr_db, weights=0.05 + (lost / blocks) * (1 - lost / blocks)), np.log(0.2)])
        best = minimize(cost, start, method="Nelder-Mead").x
        return Waterfall(float(best[0]), float(np.clip(np.exp(best[1]), *_WIDTHS_DB)))

    found = fitted(errors)
    if not resamples:
        return found
    generator = np.random.default_rng(seed)
    places = [
        fitted(generator.binomial(blocks, np.clip((errors + 0.25) / (blocks + 0.5), 0, 1))).at(COMPARED_BLER)
        for _ in range(resamples)
    ]
    return Waterfall(found.middle_db, found.width_db, float(np.std(places)))


def bit_information(scheme: Scheme, csnr_db: NDArray[np.float64], draws: int = 4000, seed: int = 0) -> NDArray:
    """Return the mutual information of a symbol and its demapped bits, in bits, at channel SNRs (n,), dB."""
    _, mapping = import_sionna()
    constellation = mapping.Constellation("qam", scheme.bits_per_symbol)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (draws, scheme.bits_per_symbol), generator=generator).float()
    z = mapping.Mapper(constellation=constellation)(bits)[:, 0]
    unit = torch.view_as_complex(torch.randn((draws, 2), generator=generator)) * 0.5**0.5
    demap = mapping.Demapper("app", constellation=constellation)
    found = []
    for value in csnr_db:
        noise_var = 10 ** (-value / 10)
        soft = demap((z + unit * noise_var**0.5)[:, None], torch.full((draws, 1), noise_var))
        lost = torch.nn.functional.softplus(-soft * (2 * bits - 1)).mean(dim=0).sum() / np.log(2)
        found.append(float(scheme.bits_per_symbol - lost))
    return np.maximum.accumulate(np.array(found))


def fading_bler(
    scheme: Scheme,
    waterfall: Waterfall,
    csnr_db: Sequence[float],
    *,
    taps: int = 8,
    decay: float = 4.0,
    channels: int = 20_000,
    frames: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return block error rates over fading that stays for a frame, at channel SNRs, dB.

    Args:
        scheme: modulation and code rate.
        waterfall: of the scheme over white noise.
        csnr_db: mean channel SNRs.
        taps: of the channel, Rayleigh, with an exponential profile.
        decay: time constant of the profile, samples.
        channels: drawn.
        frames: that an image spans, each with a channel of its own.
        seed: of the channels.
    """
    grid = np.arange(-30.0, 45.0, 0.5)
    information = bit_information(scheme, grid)
    generator = np.random.default_rng(seed)
    parts = generator.standard_normal((channels, frames, taps, 2)) * 0.5**0.5
    h = (parts[..., 0] + 1j * parts[..., 1]) * np.sqrt(exponential_pdp(taps, decay))
    gain_db = 20 * np.log10(np.abs(np.fft.fft(h, n=64, axis=-1)) + 1e-9).reshape(channels, -1)
    rates = []
    for value in csnr_db:
        mean = np.interp(gain_db + value, grid, information).mean(axis=1)
        rates.append(waterfall.bler(np.interp(mean, information, grid)).mean())
    return np.array(rates)


def fading_threshold_db(scheme: Scheme, waterfall: Waterfall, bler: float = TARGET_BLER) -> float:
    """Return the mean channel SNR, dB, where the block error rate over fading of 8 taps falls to `bler`."""
    places = np.arange(waterfall.middle_db, waterfall.middle_db + 25, 0.25)
    rates = np.minimum.accumulate(fading_bler(scheme, waterfall, places.tolist()))
    return float(np.interp(-np.log(bler), -np.log(np.maximum(rates, 1e-12)), places))


def awgn_start_db(scheme: Scheme) -> float:
    """Return about where the waterfall over white noise lies: 0.7 dB above where the bits' information suffices."""
    grid = np.arange(-10.0, 35.0, 0.25)
    return float(np.interp(scheme.efficiency, bit_information(scheme, grid), grid)) + 0.7


def measure_waterfall(
    scheme: Scheme,
    layout: FrameLayout,
    num_symbols: int,
    blocks: int,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[list[BlerPoint], Waterfall]:
    """Count blocks of a scheme over white noise through frames, and fit its waterfall."""
    code = channel_code(scheme, num_symbols)

    def count(csnr_db: float, number: int, part: int) -> BlerPoint:
        progress(scheme.name, part % 100, 20)
        return blocks_through_frames(code, layout, csnr_db, "", number, seed * 1000 + part)

    points = search_waterfall(count, awgn_start_db(scheme), blocks)
    return points, fit_waterfall(points)
