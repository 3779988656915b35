"""Synchronisation: find frames, estimate timing, carrier and clock offset, noise."""
