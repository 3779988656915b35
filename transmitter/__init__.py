"""Images to symbols to frames: the only place where that is done."""
