"""Build the framer: frames as PDUs in, OFDM samples out, from GNU Radio's own blocks.

    pdus ─ FrameGate ─ pdu_to_tagged_stream ─ carrier allocator ─ IFFT ─ scale ─ cyclic prefix ─ limiter ─ gap ─ out

A pacer, where there is one, comes before the limiter and puts the gaps in as well as the zeros between frames.

Tags matter up to the carrier allocator only, and none leaves the framer: from there on a frame is a fixed number of
samples. The output equals `sdr.modem.modulate`, frame by frame.
"""

import sys

import numpy as np
import pmt
from gnuradio import analog, blocks, digital, fft, gr, pdu

from flowgraphs.pacing import Pacer
from flowgraphs.pdu import cells_per_frame, check_frame
from sdr.errors import LayoutError
from sdr.layout import FrameLayout

LENGTH_TAG = "packet_len"

BUFFERED_FRAMES = 32
"""Frames that each tagged stream's buffer holds, unless they are large. Two are needed, or the stream hangs silently;
more let each block work on several frames whenever it is scheduled, which is ten times faster on a busy machine."""

BUFFERED_CELLS = 1 << 20
"""Above this, two frames have to do."""


WAITING_FRAMES = 32
"""Frames that wait for a pacer, at most: what comes meanwhile is dropped, so that a slow air is not late for ever."""


class FrameGate(gr.basic_block):
    """Lets well-formed frames pass and puts the pilots between their header and their data, and within the data.

    A malformed frame is dropped: let in, it would shift every frame after it.

    Attributes:
        num_frames: frames that passed.
        error: what was wrong with the first frame that was dropped, or None.
    """

    def __init__(self, layout: FrameLayout, pacer: Pacer | None = None) -> None:
        gr.basic_block.__init__(self, name="frame_gate", in_sig=None, out_sig=None)
        self.layout = layout
        self.num_frames = 0
        self.error: str | None = None
        self._pacer = pacer
        self._header_cells = layout.header_symbols * layout.num_active
        self._pilots = layout.pilots[:, layout.active_bins].reshape(-1)
        self.message_port_register_in(pmt.intern("pdus"))
        self.message_port_register_out(pmt.intern("frames"))
        self.set_msg_handler(pmt.intern("pdus"), self._take)

    def _take(self, message: object) -> None:
        try:
            metadata, cells = _read_pdu(message)
            check_frame(metadata, cells, self.layout)
        except LayoutError as error:
            if self.error is None:
                self.error = str(error)
            print(f"framer: frame dropped: {error}", file=sys.stderr, flush=True)
            return
        if self._pacer is not None and self.num_frames - self._pacer.num_frames >= WAITING_FRAMES:
            return
        layout = self.layout
        data = np.empty((layout.data_symbols, layout.data_bins.size), np.complex64)
        data[layout.payload_rows] = cells[self._header_cells :].reshape(-1, layout.data_bins.size)
        data[layout.pilot_rows] = layout.repeated_pilots
        cells = np.concatenate([cells[: self._header_cells], self._pilots, data.reshape(-1)])
        self.num_frames += 1
        vector = pmt.init_c32vector(cells.size, cells)
        self.message_port_pub(pmt.intern("frames"), pmt.cons(pmt.make_dict(), vector))


def _read_pdu(message: object) -> tuple[dict[str, str], np.ndarray]:
    """Return the metadata and the cells of a PDU.

    Raises:
        LayoutError: the message is something else.
    """
    if not pmt.is_pair(message) or not pmt.is_c32vector(pmt.cdr(message)):
        raise LayoutError("a message is no PDU of complex floats; send what flowgraphs.pdu serialises")
    metadata = {}
    if pmt.is_dict(pmt.car(message)):
        digest = pmt.dict_ref(pmt.car(message), pmt.intern("layout"), pmt.PMT_NIL)
        if pmt.is_symbol(digest):
            metadata["layout"] = pmt.symbol_to_string(digest)
    return metadata, np.array(pmt.c32vector_elements(pmt.cdr(message)), dtype=np.complex64)


class MagnitudeLimiter(gr.hier_block2):
    """Limits the magnitude of every sample and keeps its phase: x * limit / max(|x|, limit).

    Args:
        limit: greatest magnitude, > 0.
    """

    def __init__(self, limit: float) -> None:
        gr.hier_block2.__init__(
            self,
            "magnitude_limiter",
            gr.io_signature(1, 1, gr.sizeof_gr_complex),
            gr.io_signature(1, 1, gr.sizeof_gr_complex),
        )
        # max_ff rather than rail_ff: a rail's precision is that of its upper bound.
        greatest = blocks.max_ff(1)
        divisor = blocks.float_to_complex()
        quotient = blocks.divide_cc()
        self.connect(self, (quotient, 0))
        self.connect(self, blocks.complex_to_mag(), (greatest, 0))
        self.connect(analog.sig_source_f(0, analog.GR_CONST_WAVE, 0, 0, limit), (greatest, 1))
        self.connect(greatest, divisor, (quotient, 1))
        self.connect(quotient, blocks.multiply_const_cc(limit), self)


class Framer(gr.hier_block2):
    """Frames of one layout into samples.

    Message port `pdus`: one frame each, a dictionary and the cells that `flowgraphs.pdu.frame_cells` lists.
    Output: complex samples, `layout.frame_samples` a frame, its gap of zeros included, frames back to back unless a
    pacer puts zeros between them.

    Args:
        layout: of the frames.
        pacer: keeps the stream going between frames, see `flowgraphs.pacing`; None: it stops.

    Attributes:
        gate: the `FrameGate`, which counts frames and keeps the first error.
    """

    def __init__(self, layout: FrameLayout, pacer: Pacer | None = None) -> None:
        gr.hier_block2.__init__(self, "framer", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self.layout = layout
        self.gate = FrameGate(layout, pacer)
        pilots = layout.pilot_symbols * layout.num_active + layout.repeated_pilots.size
        size, cells = layout.fft_size, cells_per_frame(layout) + pilots
        buffered = max(2, min(BUFFERED_FRAMES, BUFFERED_CELLS // (layout.num_symbols * size)))
        active = [int(carrier) for carrier in layout.active_bins]
        data = [int(carrier) for carrier in layout.data_bins]
        tracking = [int(carrier) for carrier in layout.tracking_bins]
        leading = layout.header_symbols + layout.pilot_symbols
        to_stream = pdu.pdu_to_tagged_stream(gr.types.complex_t, LENGTH_TAG)
        to_stream.set_min_output_buffer(buffered * cells)
        allocator = digital.ofdm_carrier_allocator_cvc(
            size,
            [active] * leading + [data] * layout.data_symbols,
            [[]] * leading + [tracking] * layout.data_symbols,
            [[]] * leading + [row.tolist() for row in layout.tracking_symbols],
            [layout.preamble_a.tolist(), layout.preamble_b.tolist()],
            LENGTH_TAG,
            False,  # carriers in FFT order, DC first
        )
        allocator.set_min_output_buffer(buffered * layout.num_symbols)
        inverse = fft.fft_vcc(size, False, [], False, 1)
        inverse.set_tag_propagation_policy(gr.TPP_DONT)
        # The inverse FFT is not scaled: 1/sqrt(N) makes it unitary.
        scale = blocks.multiply_const_vcc([layout.amplitude / np.sqrt(size)] * size)
        # The prefixer refuses to add nothing.
        prefixer = (
            digital.ofdm_cyclic_prefixer(size, layout.symbol_samples)
            if layout.cp_samples
            else blocks.vector_to_stream(gr.sizeof_gr_complex, size)
        )
        limiter = MagnitudeLimiter(layout.magnitude_limit)
        self.message_port_register_hier_in("pdus")
        self.msg_connect(self, "pdus", self.gate, "pdus")
        self.msg_connect(self.gate, "frames", to_stream, "pdus")
        paced = [] if pacer is None else [pacer]
        self.connect(to_stream, allocator, inverse, scale, prefixer, *paced, limiter)
        if layout.gap_samples and pacer is None:
            occupied = layout.num_symbols * layout.symbol_samples
            gap = blocks.stream_mux(gr.sizeof_gr_complex, [occupied, layout.gap_samples])
            self.connect(limiter, (gap, 0))
            self.connect(blocks.null_source(gr.sizeof_gr_complex), (gap, 1))
            self.connect(gap, self)
        else:
            self.connect(limiter, self)
