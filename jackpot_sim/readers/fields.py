"""The fields of a dump as arrays: out of lists, numpy arrays and torch tensors, with NaN where the dump has None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.foreign import Foreign

A = TypeVar("A", bound=NDArray[Any])


@dataclass(frozen=True, eq=False)
class Fields:
    """The fields of one sequence or of one batch, by name; a field that is None counts as absent.

    Of several names that frameworks gave a field over time, the first that is there is taken.

    Attributes:
        content: the fields.
        place: where they stand, as errors name it.
        file: the name of the file, in which some frameworks write the step and the rank.
    """

    content: Mapping[str, Any]
    place: str
    file: str = ""

    def get(self, *names: str) -> Foreign:
        """The field as it stands, None where it is absent."""
        return next((value for name in names if (value := self.content.get(name)) is not None), None)

    def needed(self, name: str) -> Foreign:
        """The field as it stands.

        Raises:
            DumpError: it is absent.
        """
        if (value := self.content.get(name)) is None:
            raise self.error(f"{name} is missing")
        return value

    def floats(self, *names: str, shape: tuple[int, ...] | None = None) -> Floats | None:
        """The field as float64, NaN for None.

        Raises:
            DumpError: it holds something else than numbers, or has another shape.
        """
        return self._array(names, shape, lambda values: np.asarray(values, dtype=np.float64))

    def ints(self, *names: str, shape: tuple[int, ...] | None = None) -> Ints | None:
        """The field as int64.

        Raises:
            DumpError: it holds something else than whole numbers, or has another shape.
        """
        return self._array(names, shape, _whole)

    def flags(self, *names: str, shape: tuple[int, ...] | None = None) -> Flags | None:
        """The field as flags: True where the number is not 0.

        Raises:
            DumpError: it holds something else than numbers, or has another shape.
        """
        return self._array(names, shape, _nonzero)

    def per_token(self, length: int, *names: str) -> Floats | None:
        """The field as float64 of shape (length,), where it may be one number for all tokens.

        Raises:
            DumpError: it holds something else than numbers, or has another shape.
        """
        found = self.floats(*names)
        if found is not None and found.size == 1:
            return np.full(length, found.item())
        return self.floats(*names, shape=(length,))

    def number(self, *names: str) -> float | None:
        """The field, where it is one number; None where it is anything else."""
        value = self.get(*names)
        if isinstance(value, str | Mapping) or value is None:
            return None
        found = self.floats(*names)
        return float(found.item()) if found is not None and found.size == 1 else None

    def whole(self, *names: str) -> int | None:
        """The field, where it is one whole number; None where it is anything else."""
        found = self.number(*names)
        return None if found is None or not found.is_integer() else int(found)

    def text(self, *names: str) -> str | None:
        """The field, where it is text; None where it is anything else."""
        value = self.get(*names)
        return value if isinstance(value, str) else None

    def error(self, problem: str) -> DumpError:
        """The error of these fields."""
        return DumpError(f"{self.place}: {problem}")

    def _array(self, names: Sequence[str], shape: tuple[int, ...] | None, convert: Callable[[Any], A]) -> A | None:
        name = next((each for each in names if self.content.get(each) is not None), None)
        if name is None:
            return None
        try:
            found = convert(numbers(self.content[name]))
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(f"{name} cannot be read: {error}") from error
        if shape is not None and found.shape != shape:
            raise self.error(f"{name} has shape {found.shape} where the tokens have {shape}")
        return found


def numbers(values: Foreign) -> NDArray[Any]:
    """Numbers as a numpy array of their shape, out of a number, nested lists, a numpy array or a torch tensor.

    Raises:
        TypeError: something else stands among them.
        ValueError: rows have different lengths.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16.
        values = (values.double() if values.is_floating_point() else values).numpy()
    elif isinstance(values, list | tuple) and any(hasattr(each, "detach") for each in values):
        values = [numbers(each) if hasattr(each, "detach") else each for each in values]
    if isinstance(values, list) and {*map(type, values)} == {float, type(None)}:
        return np.array(values, dtype=np.float64)  # as below, and fast
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise ValueError("its rows have different lengths") from error
    if found.dtype == object:
        found = np.asarray(_with_nan(values), dtype=np.float64)
    if found.dtype.kind not in "biuf":
        raise TypeError("it holds text where numbers are expected")
    return found


def _whole(values: NDArray[Any]) -> Ints:
    if values.dtype.kind == "f" and not np.all(np.isfinite(values) & (values == np.round(values))):
        raise ValueError("it must hold whole numbers")
    return np.asarray(values, dtype=np.int64)


def _nonzero(values: NDArray[Any]) -> Flags:
    if np.any(np.isnan(values)):
        raise ValueError("it must hold a flag for each token")
    return np.asarray(values != 0)


def _with_nan(values: Foreign) -> Foreign:
    """Nested lists with NaN for None; anything but numbers is refused, and numpy would make numbers out of text."""
    if values is None:
        return float("nan")
    if isinstance(values, Real):
        return values
    if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str | bytes):
        return [_with_nan(each) for each in values]
    raise TypeError(f"it holds {type(values).__name__} where numbers are expected")
