"""Run the channel: every impairment of `sdr.air.chain`, by GNU Radio's own blocks where it has them.

    python -m flowgraphs.channel --layout paper --source zmq:tcp://127.0.0.1:5555 --sink zmq:tcp://127.0.0.1:5556 \\
        --impairments csnr_db=10,taps=8,cfo_hz=300

The options are those of `sim:`. From a file as many samples come out as it has. What was drawn goes into
`--truth FILE.npz`, for scoring only: no receiver may read it. `--announce-taps yes` prints a line `TAPS {json}`
whenever taps were drawn, to be shown while the channel runs.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gnuradio import analog, blocks, channels, filter, gr

from flowgraphs.fading import BlockFading, FileThenSilence, StageBlock
from flowgraphs.process import (
    Sink,
    add_common_arguments,
    file_samples,
    main,
    make_source,
    new_top_block,
    parse_endpoint,
    run,
)
from sdr.air.chain import Impairments, parse_impairments
from sdr.air.stream import stream_stages
from sdr.errors import InputError
from sdr.files import replacing
from sdr.layout import load_layout


def _seed(seed: int, member: int) -> int:
    """Return a seed for GNU Radio's noise sources: never 0, which would mean the time of day."""
    return 1 + int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def _leakage(chain: Impairments, rate_sps: float, seed: int) -> gr.basic_block:
    return blocks.add_const_cc(complex(chain.lo_leakage))


def _carrier(chain: Impairments, rate_sps: float, seed: int) -> gr.basic_block:
    return blocks.rotator_cc(2.0 * math.pi * chain.total_cfo_hz / rate_sps)


class _Hier(gr.hier_block2):
    """Blocks with one complex stream in and one out."""

    def __init__(self, name: str) -> None:
        one = gr.io_signature(1, 1, gr.sizeof_gr_complex)
        gr.hier_block2.__init__(self, name, one, one)


class _Phase(_Hier):
    """Turn the phase by white noise through a single pole: `channels.phase_noise_gen` with a seed of its own."""

    def __init__(self, chain: Impairments, rate_sps: float, seed: int) -> None:
        super().__init__("phase")
        alpha = -math.expm1(-2 * math.pi * chain.phase_noise_hz / rate_sps)
        # A single pole of alpha passes alpha / (2 - alpha) of white noise's power.
        level = math.radians(chain.phase_noise_deg) * math.sqrt((2 - alpha) / alpha)
        noise = analog.noise_source_f(analog.GR_GAUSSIAN, level, _seed(seed, 2))
        turn, multiply = analog.phase_modulator_fc(1.0), blocks.multiply_cc()
        self.connect(noise, filter.single_pole_iir_filter_ff(alpha), turn, (multiply, 1))
        self.connect(self, multiply, self)


class _Tone(_Hier):
    """Add a carrier that is always on."""

    def __init__(self, chain: Impairments, rate_sps: float, seed: int) -> None:
        super().__init__("tone")
        add = blocks.add_cc()
        self.connect(analog.sig_source_c(rate_sps, analog.GR_COS_WAVE, chain.tone_hz, chain.tone), (add, 1))
        self.connect(self, add, self)


class _Noise(_Hier):
    """Add white Gaussian noise."""

    def __init__(self, chain: Impairments, rate_sps: float, seed: int) -> None:
        super().__init__("noise")
        add = blocks.add_cc()
        # `noise_source_c` takes the square root of the mean power per complex sample.
        level = math.sqrt(chain.noise_var)
        self.connect(analog.noise_source_c(analog.GR_GAUSSIAN, level, _seed(seed, 1)), (add, 1))
        self.connect(self, add, self)


class _Mixer(_Hier):
    """Unbalance both components' phases as the receiver's mixer does.

    `channels.iqbal_gen` turns the other component; a turn by 90 degrees there and back mends that.
    """

    def __init__(self, chain: Impairments, rate_sps: float, seed: int) -> None:
        super().__init__("mixer")
        there, back = blocks.multiply_const_cc(1j), blocks.multiply_const_cc(-1j)
        self.connect(self, there, channels.iqbal_gen(0.0, chain.mixer_phase_deg, 1), back, self)


class _Converter(_Hier):
    """Quantise both components."""

    def __init__(self, chain: Impairments, rate_sps: float, seed: int) -> None:
        super().__init__("converter")
        if chain.adc_bits > 16:
            raise InputError(f"GNU Radio's quantizer has at most 16 bits, found adc_bits = {chain.adc_bits}")
        split, join = blocks.complex_to_float(), blocks.float_to_complex()
        self.connect(self, split)
        for part in (0, 1):
            rail = analog.rail_ff(-1.0, 1.0 - 2.0 ** (1 - chain.adc_bits))
            self.connect((split, part), rail, channels.quantizer(chain.adc_bits), (join, part))
        self.connect(join, self)


def _gain(chain: Impairments, rate_sps: float, seed: int) -> gr.basic_block:
    return blocks.multiply_const_cc(10.0 ** (chain.gain_db / 20.0))


def _dc(chain: Impairments, rate_sps: float, seed: int) -> gr.basic_block:
    return blocks.add_const_cc(complex(chain.dc))


IN_TREE: dict[str, Callable[[Impairments, float, int], gr.basic_block]] = {
    "leakage": _leakage,
    "carrier": _carrier,
    "phase": _Phase,
    "tone": _Tone,
    "noise": _Noise,
    "mixer": _Mixer,
    "gain": _gain,
    "dc": _dc,
    "converter": _Converter,
}
"""Members for which GNU Radio has blocks; the others run as the NumPy stages that they are for `ota emulate`."""


def channel(argv: list[str] | None = None) -> NoReturn:
    """Parse the command line, build the flowgraph and run it.

    Raises:
        OtaError: an argument is wrong.
    """
    arguments = _parse(argv)
    layout = load_layout(arguments.layout)
    chain, seed = parse_impairments(arguments.impairments, layout)
    chain = chain.at_antenna(0)  # GNU Radio's channel has one receiver
    if arguments.truth is not None and arguments.truth.suffix != ".npz":
        raise InputError(f"--truth must name an .npz file, found {arguments.truth}")
    end = parse_endpoint(arguments.source)
    total = file_samples(end.address) if end.kind == "file" else None
    first_block_sample: int = arguments.first_block_sample
    fading = _make_fading(chain, seed, first_block_sample)
    members = _make_members(chain, layout.rate_sps, seed, first_block_sample, fading)
    sink = Sink(parse_endpoint(arguments.sink), arguments.allow_remote)
    top = new_top_block("channel")
    # Blocks lose the last few samples of a source that ends, and what is lost or resampled makes fewer of them.
    source = make_source(end) if total is None else FileThenSilence(end.address)
    if total is not None:
        members.append(blocks.head(gr.sizeof_gr_complex, total))
    top.connect(source, *members, sink.block)

    def finish() -> None:
        if arguments.truth is not None:
            _write_truth(arguments.truth, chain, first_block_sample, fading)

    announced = 0

    def tick() -> None:
        nonlocal announced
        if arguments.announce_taps == "yes" and fading is not None and len(fading.taps) > announced:
            announced = len(fading.taps)
            newest = fading.taps[-1]
            print("TAPS " + json.dumps([newest.real.tolist(), newest.imag.tolist()]), flush=True)

    run(top, "channel", sink, total, arguments.exit_with_parent, arguments.source, tick, finish)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.channel", description="What air and radios do.")
    parser.add_argument("--layout", required=True, help="name of a shipped layout, or a TOML or JSON file")
    parser.add_argument("--source", required=True, metavar="END", help="zmq:tcp://HOST:PORT or file:PATH")
    parser.add_argument("--impairments", default="", help="options as in sim:, such as csnr_db=10,taps=8,cfo_hz=300")
    parser.add_argument("--first-block-sample", type=int, default=0, help="sample from which block_samples count")
    parser.add_argument("--truth", type=Path, help="write what was drawn to this .npz file at the end")
    parser.add_argument("--announce-taps", choices=("no", "yes"), default="no", help="print taps when they are drawn")
    add_common_arguments(parser)
    return parser.parse_args(argv)


def _block_samples(chain: Impairments) -> int:
    """Return after how many samples taps are drawn anew: never, where the chain has no blocks."""
    return chain.block_samples or 1 << 62


def _make_fading(chain: Impairments, seed: int, first_block_sample: int) -> BlockFading | None:
    """Return the block that draws taps, None where the chain has none."""
    if not chain.num_taps or chain.moving_taps:
        return None
    powers = chain.tap_powers.tolist()
    return BlockFading(len(powers), 1.0, _block_samples(chain), first_block_sample, seed, powers)


def _make_members(
    chain: Impairments, rate_sps: float, seed: int, first_block_sample: int, fading: BlockFading | None
) -> list[gr.basic_block]:
    """Return the blocks of a chain in the order in which samples go through them."""
    members = []
    for name, stage in stream_stages(chain, rate_sps, seed, first_block_sample).items():
        if name == "fading" and fading is not None:
            members.append(fading)
        elif name in IN_TREE:
            members.append(IN_TREE[name](chain, rate_sps, seed))
        else:
            members.append(StageBlock(name, stage))
    return members


def _write_truth(path: Path, chain: Impairments, first_block_sample: int, fading: BlockFading | None) -> None:
    """Write what `flowgraphs.link.LoopbackTruth` knows of the channel."""
    drawn: dict[str, Any] = {}
    if chain.is_plain and not chain.moving_taps:
        drawn["taps"] = np.stack(fading.taps) if fading else np.ones((1, 1), np.complex64)
    with replacing(path) as file:
        np.savez(
            file,
            redraw_samples=_block_samples(chain),
            first_redraw_sample=first_block_sample,
            cfo_hz=chain.total_cfo_hz,
            noise_var=chain.noise_var,
            gain=10.0 ** (chain.gain_db / 20.0),
            **drawn,
        )


if __name__ == "__main__":
    main(channel)
