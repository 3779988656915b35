"""Simulate everything between a transmitter's samples and a recording, in NumPy.

In reading order:

- `sdr.air.impairments`: one function for each thing that the air and the radios do to samples.
- `sdr.air.amplifier`: the power amplifier.
- `sdr.air.delay_line`: 3GPP delay lines with Doppler.
- `sdr.air.chain`: all of them as one seeded chain over a whole capture.
- `sdr.air.stream`: the same over samples that come in pieces.
"""
