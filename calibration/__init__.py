"""Measure a radio pair, and put what was found into a calibration profile.

Known frames are sent again and again; what arrived of them gives everything else. In reading order:

- `calibration.session`: a calibration from the first sample to the profile.
- `calibration.sounding`: sends known frames, and brings what arrived onto one time axis; `calibration.arrivals` puts
  frames on the transmitter's schedule, `calibration.taps` estimates their taps.
- `calibration.frequency`: CFO, SFO and how they move.
- `calibration.link`, `calibration.fading`: noise, delay, power delay profile, and how the channel changes.
- `calibration.frontend`, `calibration.spectrum`: mixers, offsets, the amplifier; the spectrum as sent.
- `calibration.gain`: the CSNR at every transmit gain.
- `calibration.antennas`: several receiving antennas against the first.
- `calibration.figures`: a picture of a profile.

The profile itself is `sdr.calibration_profile`; the receiver applies it.
"""
