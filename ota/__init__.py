"""The command line: one module a verb. The only package that imports all the others, and it does so lazily, inside the
verbs, so that `ota --help` and `ota doctor` answer at once and work on a machine without torch or GNU Radio."""

__version__ = "0.1.0"
