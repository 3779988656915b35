"""The transmitter: images to symbols to frames to samples."""
