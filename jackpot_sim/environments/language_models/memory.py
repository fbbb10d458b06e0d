"""Runs whose batches must fit into memory, and the error of one that does not."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")
"""Parts of torch's messages where it raises a plain RuntimeError."""


class BatchTooLargeError(ValueError):
    """A batch did not fit into memory.

    Attributes:
        fits: a batch size that does fit, 0 if not even one sequence does.
    """

    def __init__(self, message: str, fits: int) -> None:
        super().__init__(message)
        self.fits = fits


def run_fitting(run: Callable[[int], T], batch_size: int) -> T:
    """The result of run(batch_size); where that does not fit into memory, an error that says which batch size does.

    Half the batch size is tried, then half of that, until one runs. The batch size that was asked for is never quietly
    replaced: it may be recorded, and the next run would fail again.

    Args:
        run: from a batch size to the result; it is called again from the start after a failure.
        batch_size: sequences at a time, at least 1.

    Raises:
        BatchTooLargeError: the batch does not fit; a ValueError that says which size does.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    done, result = _attempted(run, batch_size)
    if done:
        return result[0]
    smaller = batch_size // 2
    while smaller and not _attempted(run, smaller)[0]:
        smaller //= 2
    if smaller:
        raise BatchTooLargeError(
            f"out of memory at batch_size={batch_size}: {smaller} fits; give batch_size {smaller}", smaller
        )
    raise BatchTooLargeError(
        f"out of memory at batch_size={batch_size}, and one sequence alone does not fit either: take shorter "
        "sequences, a smaller model, fp16 or bf16, or another device",
        0,
    )


def peak_resident() -> float:
    """The peak memory of the process so far, torch's included, which Python's own tracing cannot see; GiB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _attempted(run: Callable[[int], T], batch_size: int) -> tuple[bool, tuple[T, ...]]:
    """True and the result, or False and nothing, once the memory of the failure is given back."""
    try:
        return True, (run(batch_size),)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    _free()
    return False, ()


def _is_out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError that says so too.
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def _free() -> None:
    """Gives back the memory of a failed run: its tensors first, then those that torch caches."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
