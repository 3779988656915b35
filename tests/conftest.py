"""Settings of the whole suite."""

import os

# No test may open a window, and none may depend on the user's own choice of interpreter.
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("OTA_FASHION_MNIST", None)
