"""Keep captured samples: SigMF recordings, datasets of many captures, recordings of other tools."""
