"""Run GNU Radio, which lives here only: flowgraphs as processes of their own, and what starts and stops them.

In the interpreter that has GNU Radio, with nothing else but NumPy >= 1.24, in the order of the signal:

- `flowgraphs.framer`: frames as PDUs in, OFDM samples out.
- `flowgraphs.transmit`, `flowgraphs.channel`, `flowgraphs.receive`: the three flowgraphs.
- `flowgraphs.fading`: blocks that the channel needs and GNU Radio lacks.
- `flowgraphs.iio_ends`, `flowgraphs.uhd_ends`: radios as ends of a flowgraph.
- `flowgraphs.process`: what all flowgraph processes have in common.
- `flowgraphs.benchmark_ofdm`: GNU Radio's own OFDM receiver, for comparison.

In the receiver's interpreter, without `gnuradio`:

- `flowgraphs.pdu`: frames as PDUs.
- `flowgraphs.supervisor`: starts, watches and stops flowgraph processes.
- `flowgraphs.link`: the whole link over ZMQ loopback.
- `flowgraphs.radio_link`: the link over radios.
"""
