"""Simulate everything between a transmitter's samples and a recording, in NumPy."""
