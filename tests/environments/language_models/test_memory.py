"""What is said of a batch that does not fit."""

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from jackpot_sim.environments.language_models.memory import BatchTooLargeError, run_fitting  # noqa: E402


class Machine:
    """Runs batches of at most `fits`, and fails as it is told to beyond."""

    def __init__(self, fits: int, error: BaseException) -> None:
        self.fits, self.error, self.tried = fits, error, list[int]()

    def run(self, batch_size: int) -> str:
        self.tried.append(batch_size)
        if batch_size > self.fits:
            raise self.error
        return f"ran {batch_size}"


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


def test_a_batch_that_fits_runs_once() -> None:
    machine = Machine(64, ERRORS[0])
    assert run_fitting(machine.run, 64) == "ran 64"
    assert machine.tried == [64]
    assert run_fitting(lambda size: None, 3) is None


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
def test_the_error_says_what_fits(error: BaseException) -> None:
    machine = Machine(11, error)
    with pytest.raises(
        BatchTooLargeError, match=r"^out of memory at batch_size=64: 8 fits; give batch_size 8$"
    ) as caught:
        run_fitting(machine.run, 64)
    assert machine.tried == [64, 32, 16, 8]
    assert caught.value.fits == 8
    assert isinstance(caught.value, ValueError)


def test_one_sequence_that_does_not_fit_says_so() -> None:
    machine = Machine(0, ERRORS[0])
    with pytest.raises(BatchTooLargeError, match="one sequence alone does not fit") as caught:
        run_fitting(machine.run, 5)
    assert machine.tried == [5, 2, 1]
    assert caught.value.fits == 0


def test_other_errors_pass() -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of range")):
        machine = Machine(0, error)
        with pytest.raises(type(error), match=str(error)):
            run_fitting(machine.run, 8)
        assert machine.tried == [8]


class Held:
    """What only a collection frees, since it refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_a_failure_held_is_given_back_before_the_next_run() -> None:
    held = list[weakref.ref[Held]]()

    def run(batch_size: int) -> None:
        assert not any(each() is not None for each in held)
        here = Held()
        held.append(weakref.ref(here))
        if batch_size > 2:
            raise MemoryError

    gc.disable()
    try:
        with pytest.raises(BatchTooLargeError, match="2 fits"):
            run_fitting(run, 8)
    finally:
        gc.enable()
    assert len(held) == 3


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        run_fitting(lambda size: size, 0)
