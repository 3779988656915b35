"""What both ends of the air agree on, in NumPy alone.

Modules in signal-path order:

- `sdr.symbols`, `sdr.header`, `sdr.framing`: coded images, the frame header, frames.
- `sdr.layout`: numerology and everything that derives from its seed.
- `sdr.modem`: the OFDM reference modem.
- `sdr.air.impairments`: multipath, carrier offset, delay, noise, clipping.
- `sdr.recordings.recording`, `sdr.settings`, `sdr.radios.open`: captures, radio settings, radios.
- `sdr.errors`: the error tree of the whole project.

The package needs NumPy 1.24 or newer and the standard library to import; `sigmf` and `zmq` are imported where they are
used. The distribution is called `diffcom-ota`: an unrelated project on the package index is called `sdr`, and
`DISTRIBUTION` lets a program tell which of the two it has imported.
"""

DISTRIBUTION = "diffcom-ota"
"""Name of the distribution that this package belongs to."""
