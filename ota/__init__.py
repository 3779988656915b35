"""The command line: one module a verb. The only package that imports all the others, and it does so lazily, inside the
verbs, so that `ota --help` and `ota doctor` answer at once and work on a machine without torch or GNU Radio."""

import os

__version__ = "0.1.0"

# Libraries read these when they are loaded, so they are set before anything else here is. Synchronisation multiplies
# many small matrices: further threads only wait for them, spinning (measured: four times slower). Threads of torch that
# wait by spinning bring decoding to a crawl on cores that other processes use too (34 s against 9 s).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
