"""The error that the command line of the benchmarks reports as one sentence."""


class CannotMeasureError(Exception):
    """A package or a device is missing, or the machine is too small. The message is one sentence of advice."""
