"""The receiver: from recordings of radio samples to posterior-sampled images (PyTorch)."""
