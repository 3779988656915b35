"""The command line: one module a verb, which checks what it is given, calls the lab, and prints.

It imports everything else, but lazily, inside the verbs, so that `ota --help` and `ota doctor` answer at once and work
on a machine without torch or GNU Radio.
"""

import os

__version__ = "0.1.0"

# Libraries read these when they are loaded, so they are set before anything else here is. Synchronisation multiplies
# many small matrices, for which further threads only wait, spinning; so do those of torch, on cores that others need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
