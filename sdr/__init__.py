"""Keep what both ends of the air agree on, in NumPy alone.

In reading order, which is that of the signal:

- `sdr.symbols`: coded images on their way into frames.
- `sdr.convolutional_code`, `sdr.header`: the frame header and its code.
- `sdr.carriers`, `sdr.layout`: the numerology of a waveform, and all that derives from its seed.
- `sdr.framing`: images into frames and back.
- `sdr.modem`: frames into samples and back: the OFDM reference modem.
- `sdr.air`: what the air and the radios do to samples.
- `sdr.radios`: radios behind one URI; `sdr.settings` says how one is set.
- `sdr.recordings`: captured samples and their files.
- `sdr.emulated`: radios that exist in software only.
- `sdr.calibration_profile`: what is known about a pair of radios.

Below all of them: `sdr.errors` (the error tree of the whole project), `sdr.files` (the only place that renames),
`sdr.documents` (TOML and JSON into dataclasses), `sdr.options` (key=value), `sdr.progress`.

The package needs NumPy 1.24 or newer and the standard library to import; `sigmf` and `zmq` are imported where they are
used. The distribution is called `diffcom-ota`: an unrelated project on the package index is called `sdr`, and
`DISTRIBUTION` lets a program see which of the two it has imported.
"""

DISTRIBUTION = "diffcom-ota"
"""Name of the distribution that this package belongs to."""
