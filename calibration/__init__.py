"""Measurements of a radio that end in a calibration profile.

This version ships no calibration: carrier offset, noise and gain are estimated anew for every frame by
`receiver.sync`, and nothing here is read by any stage. The package marks the place, and its import rule (`sdr` and
`receiver` only) is checked like every other.
"""
