"""The one error that the benchmarks' command line turns into a sentence."""


class CannotMeasureError(Exception):
    """Something is missing, or too large for the machine. Its message is one sentence that says what to do."""
