"""Batches that fit into memory: what to do when one does not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")
"""What torch says where it has no error class of its own for it."""


class BatchTooLargeError(ValueError):
    """A batch did not fit into memory.

    Attributes:
        fits: the batch size that did, 0 if not even one sequence did.
    """

    def __init__(self, message: str, fits: int) -> None:
        super().__init__(message)
        self.fits = fits


def run_fitting(run: Callable[[int], T], batch_size: int) -> T:
    """run(batch_size); where that does not fit into memory, an error that says which batch size does.

    Half the batch size is tried, then half of that, until one runs: what was asked for is never quietly
    replaced, since the batch size may be recorded, and the next run would fail again.

    Args:
        run: from a batch size to the result; it is called again from the start after a failure.
        batch_size: sequences at a time, at least 1.

    Raises:
        BatchTooLargeError: the batch does not fit; a ValueError that says what does.
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


def _attempted(run: Callable[[int], T], batch_size: int) -> tuple[bool, tuple[T, ...]]:
    """Whether it ran, and what came of it. What a failure held is given back before this returns."""
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
    """Gives back what a failed run held: its tensors first, then what torch keeps of them."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
