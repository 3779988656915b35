"""Measurements of a radio pair that end in a calibration profile.

Known frames are sent again and again (`sounding`); what arrived of them gives carrier and clock offset, noise, delay
and the power delay profile (`link`). The profile itself is `sdr.calibration_profile`, and the receiver applies it.
"""
