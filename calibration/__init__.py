"""Measurements of a radio pair that end in a calibration profile.

Known frames are sent again and again (`sounding`); what arrived of them gives carrier and clock offset, noise, delay
and the power delay profile (`link`), mixers, offsets and the amplifier (`frontend`), and the CSNR at every transmit
gain (`gain`). `session` does it in order, `benchmark` measures what it is worth. The profile itself is
`sdr.calibration_profile`; the receiver applies it.
"""
