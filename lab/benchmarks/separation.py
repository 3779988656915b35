"""Block error rates of 5G LDPC and QAM through this project's frames and receiver, and the table made from them.

Blocks are counted as an experiment loses them: sent as frames over the simulated radio or through GNU Radio, found,
their channel estimated from the pilots, demapped and decoded. The same blocks in Sionna's own simulation, which knows
its channel and noise, say what frames and receiver cost.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from flowgraphs.link import LoopbackSettings, run_loopback
from lab.benchmarks.fading_blocks import TARGET_BLER, awgn_start_db, fading_bler, fading_threshold_db
from lab.benchmarks.waterfall import COMPARED_BLER, BlerPoint, Waterfall, fit_waterfall, search_waterfall
from receiver.channel.pilots import estimate_channels
from receiver.channel.prior import channel_prior
from receiver.measurement.collect import measure_frames
from receiver.separation.channel_code import ChannelCode, channel_code, import_sionna
from receiver.separation.schemes import Scheme
from receiver.separation.soft import soft_symbols
from receiver.sync.preamble import find_frames
from sdr.errors import InputError
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols
from transmitter.encode import Transmission

_DIGEST = "0e5a1a7e"
#: Block error rates over fading where blocks are counted, too.
FADING_BLERS = (0.3, 0.05, TARGET_BLER)
#: Where blocks are counted.
SIMULATED, GNU_RADIO, SIONNA = "frames, simulated radio", "frames, GNU Radio", "Sionna's own simulation"


@dataclass(frozen=True)
class SchemeRow:
    """A scheme over white noise and fading.

    Attributes:
        scheme: its name.
        efficiency: information bits a symbol.
        where: one of `SIMULATED`, `GNU_RADIO`, `SIONNA`.
        blocks: counted.
        compared_db: channel SNR, dB, of a block error rate of `COMPARED_BLER` over white noise.
        error_db: its standard error.
        white_noise_db: channel SNR, dB, of `TARGET_BLER` over white noise, on the fitted curve.
        fading_db: mean channel SNR, dB, of the same over fading of 8 taps; None where it was not asked for.
    """

    scheme: str
    efficiency: float
    where: str
    blocks: int
    compared_db: float
    error_db: float
    white_noise_db: float
    fading_db: float | None


@dataclass(frozen=True)
class FadingCount:
    """Blocks lost over fading, beside what mutual information predicts of them.

    Attributes:
        point: that was counted, through frames and receiver.
        predicted: block error rate.
    """

    point: BlerPoint
    predicted: float


@dataclass(frozen=True)
class SeparationBenchmark:
    """What the benchmark found.

    Attributes:
        rows: one a scheme and place.
        points: that were counted over white noise.
        fading: counted over fading, of the compared schemes.
    """

    rows: tuple[SchemeRow, ...]
    points: tuple[BlerPoint, ...]
    fading: tuple[FadingCount, ...] = ()

    def table(self) -> str:
        """Return the table of schemes as TOML: one standard error on the safe side, rounded up to .1 dB."""
        lines = [
            "# From which channel SNR on each scheme loses fewer than one block in 1000, through frames and receiver.",
            "# Written by: ota bench separation",
        ]
        for row in self.rows:
            if row.where == SIMULATED and row.fading_db is not None:
                safe = [math.ceil(10 * (value + row.error_db)) / 10 for value in (row.white_noise_db, row.fading_db)]
                lines += ["", "[[rows]]", f'scheme = "{row.scheme}"']
                lines += [f"white_noise_db = {safe[0]:.1f}", f"fading_db = {safe[1]:.1f}"]
        return "\n".join(lines) + "\n"


def run(
    schemes: Sequence[Scheme],
    compared: Sequence[Scheme],
    layout: FrameLayout,
    blocks: int,
    seed: int = 0,
    progress: Progress = silent,
) -> SeparationBenchmark:
    """Count blocks of each scheme, as large as a frame, over white noise.

    Args:
        schemes: for the table.
        compared: counted by GNU Radio and Sionna, too; those that are for the table also over fading.
        layout: of the frames, with pilots.
        blocks: about how many for each scheme and place.
        seed: of everything random.
        progress: called as schemes are done.

    Raises:
        InputError: the layout has no pilots.
        FlowgraphError: there is no GNU Radio.
    """
    if layout.pilot_symbols == 0:
        raise InputError(f"Layout '{layout.name}' has no pilots. Give one that has, such as photo.")
    jobs = [(scheme, SIMULATED) for scheme in schemes]
    jobs += [(scheme, where) for scheme in compared for where in (GNU_RADIO, SIONNA)]
    rows: list[SchemeRow] = []
    points: list[BlerPoint] = []
    fading: list[FadingCount] = []
    for done, (scheme, where) in enumerate(jobs):
        progress(f"{scheme.name}, {where}", done, len(jobs))
        counted = _counted(scheme, where, layout, blocks, seed)
        waterfall = fit_waterfall(counted)
        points += counted
        rows.append(_row(scheme, where, counted, waterfall))
        if where == SIMULATED and scheme in compared:
            fading += count_fading(scheme, waterfall, layout, blocks, seed)
    return SeparationBenchmark(tuple(rows), tuple(points), tuple(fading))


def count_fading(
    scheme: Scheme, waterfall: Waterfall, layout: FrameLayout, blocks: int, seed: int
) -> list[FadingCount]:
    """Count blocks over fading of 8 taps where 30 %, 5 % and 0.1 % of them are expected to be lost.

    Args:
        scheme: modulation and code rate.
        waterfall: of the scheme over white noise.
        layout: of the frames, with pilots.
        blocks: at each channel SNR.
        seed: of blocks, channels and noise.
    """
    code, found = channel_code(scheme, layout.capacity), []
    for index, expected in enumerate(FADING_BLERS):
        csnr_db = fading_threshold_db(scheme, waterfall, expected)
        point = blocks_through_frames(code, layout, csnr_db, blocks, seed * 1000 + 500 + index, "taps=8,decay=4")
        found.append(FadingCount(point, float(fading_bler(scheme, waterfall, [csnr_db])[0])))
    return found


def _counted(scheme: Scheme, where: str, layout: FrameLayout, blocks: int, seed: int) -> list[BlerPoint]:
    if where == SIONNA:
        count = partial(sionna_point, scheme, layout.capacity)
    elif where == GNU_RADIO:
        count = partial(blocks_through_gnuradio, channel_code(scheme, layout.capacity), layout)
    else:
        count = partial(blocks_through_frames, channel_code(scheme, layout.capacity), layout)
    return search_waterfall(
        lambda csnr_db, number, part: count(csnr_db, number, seed * 1000 + part), awgn_start_db(scheme), blocks
    )


def _row(scheme: Scheme, where: str, counted: Sequence[BlerPoint], waterfall: Waterfall) -> SchemeRow:
    return SchemeRow(
        scheme=scheme.name,
        efficiency=scheme.efficiency,
        where=where,
        blocks=sum(point.blocks for point in counted),
        compared_db=waterfall.at(COMPARED_BLER),
        error_db=waterfall.error_db,
        white_noise_db=waterfall.at(TARGET_BLER),
        fading_db=fading_threshold_db(scheme, waterfall) if where == SIMULATED else None,
    )


def random_blocks(code: ChannelCode, blocks: int, seed: int) -> torch.Tensor:
    """Return random information bits, (blocks, num_bits)."""
    return torch.randint(0, 2, (blocks, code.num_bits), generator=torch.Generator().manual_seed(seed))


def blocks_through_frames(
    code: ChannelCode, layout: FrameLayout, csnr_db: float, blocks: int, seed: int, channel: str = ""
) -> BlerPoint:
    """Send random blocks as frames over the simulated radio and count those that are lost.

    Args:
        code: of the blocks.
        layout: of the frames, with pilots.
        csnr_db: channel SNR, dB.
        blocks: how many.
        seed: of blocks, channel and noise.
        channel: options of the simulated radio; taps are drawn anew for every frame.
    """
    bits = random_blocks(code, blocks, seed)
    fading = f"block_samples={layout.frame_samples}" if "taps=" in channel else ""
    options = ",".join(filter(None, [channel, fading, f"csnr_db={csnr_db}", f"seed={seed}"]))
    with open_radio(f"sim:{options}", layout=layout) as radio:
        radio.transmit(random_transmission(code, layout, bits).samples())
        recording = radio.receive()
    where = SIMULATED + (f", {channel}" if channel else "")
    return BlerPoint(code.scheme.name, where, csnr_db, blocks, count_errors(code, layout, bits, recording))


def blocks_through_gnuradio(
    code: ChannelCode, layout: FrameLayout, csnr_db: float, blocks: int, seed: int
) -> BlerPoint:
    """Count lost blocks behind GNU Radio's transmit, channel and receive processes, white noise.

    Raises:
        FlowgraphError: there is no GNU Radio.
    """
    bits = random_blocks(code, blocks, seed)
    frames = random_transmission(code, layout, bits).frames
    settings = LoopbackSettings(csnr_db, seed=seed, impairments="taps=0,block_samples=0")
    with tempfile.TemporaryDirectory(prefix="ota-bench-") as workdir:
        recording = run_loopback(frames, layout, settings, Path(workdir)).recording
    return BlerPoint(code.scheme.name, GNU_RADIO, csnr_db, blocks, count_errors(code, layout, bits, recording))


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
    return BlerPoint(scheme.name, SIONNA, csnr_db, blocks, errors)
