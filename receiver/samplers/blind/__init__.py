"""Decode without knowing the channel."""
