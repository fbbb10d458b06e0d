"""Doors, and the ways to knock at them wrongly.

A door is a public function with arguments that fit. A knock replaces one of them by an array of another shape or dtype,
of another library, or by a list. The function must refuse it in one sentence that names an argument, or give the
result that it gives for the arguments that fit. Anything else, above all a plausible number, is a fault.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Values: TypeAlias = NDArray[Any]
Sizes: TypeAlias = Mapping[str, int]
Make: TypeAlias = Callable[[np.random.Generator, tuple[int, ...], Sizes], Values]

LONGEST = 400
"""The most characters of an error."""


@dataclass(frozen=True)
class Given:
    """An array argument: its shape in letters, and a function that makes one.

    Attributes:
        shape: a letter for each axis; "1" or another number is an axis of that length, "*x" an axis x whose length is
            free, and "..." stands for any axes in front (two, where an array is made).
        make: a random array of a given shape, for these sizes of the letters.
        also: other shapes that the function documents.
        any_shape: True where the documented shape is "any".
        any_dtype: True where any real dtype means the same.
    """

    shape: tuple[str, ...]
    make: Make
    also: tuple[tuple[str, ...], ...] = ()
    any_shape: bool = False
    any_dtype: bool = False

    def allowed(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True for the shapes that the function documents."""
        return self.any_shape or any(_fits(shape, each, sizes) for each in (self.shape, *self.also))


@dataclass(frozen=True)
class Door:
    """A public function with its array arguments.

    Attributes:
        call: the function, or a function that calls a method.
        given: the array arguments by name.
        fixed: the other arguments, for these sizes and this generator.
        name: the name in reports; the function's own by default.
        torch: True where the function takes tensors.
        numpy: True where the function takes numpy arrays.
        letters: letters that `fixed` needs besides those of the shapes.
        says: other names by which errors call an argument: fields of objects that are made of the arrays.
    """

    call: Callable[..., object]
    given: Mapping[str, Given]
    fixed: Callable[[np.random.Generator, Sizes], Mapping[str, Any]] = lambda generator, sizes: {}
    name: str = ""
    torch: bool = True
    numpy: bool = True
    letters: tuple[str, ...] = ()
    says: tuple[str, ...] = ()

    def __str__(self) -> str:
        own = f"{self.call.__module__}.{self.call.__qualname__}"
        return (self.name or own).removeprefix("jackpot_sim.")

    @property
    def axes(self) -> tuple[str, ...]:
        """The letters whose sizes a knock chooses."""
        every = [letter.removeprefix("*") for given in self.given.values() for letter in given.shape]
        letters = dict.fromkeys(letter for letter in (*every, *self.letters) if letter != "...")
        return tuple(letter for letter in letters if not letter.isdecimal())


class Outcome(StrEnum):
    """The outcomes of a knock; all but the first two are faults."""

    REFUSED = "refused"
    """A ValueError or TypeError of one sentence that names an argument."""
    RIGHT = "right"
    """The result of the arguments that fit."""
    RAW = "raw error"
    """Another exception, or one that names no argument: an error of a library from somewhere inside."""
    PLAUSIBLE = "plausible number"
    """Another result."""


@dataclass(frozen=True)
class Knock:
    """A wrong call and its outcome."""

    door: str
    argument: str
    way: str
    sizes: Sizes
    outcome: Outcome
    said: str = ""

    @property
    def is_fault(self) -> bool:
        """True unless the call was refused, or right."""
        return self.outcome in (Outcome.RAW, Outcome.PLAUSIBLE)

    def __str__(self) -> str:
        sizes = ", ".join(f"{letter} = {size}" for letter, size in self.sizes.items())
        return f"{self.door}({self.argument}: {self.way}) with {sizes}: {self.outcome}; {self.said}"


def _numbers(shape: tuple[str, ...], sizes: Sizes) -> tuple[int, ...]:
    front = (2, 3) if shape[:1] == ("...",) else ()
    plain = [letter.removeprefix("*") for letter in (shape[1:] if front else shape)]
    return (*front, *(int(each) if each.isdecimal() else sizes[each] for each in plain))


def _fits(shape: tuple[int, ...], letters: tuple[str, ...], sizes: Sizes) -> bool:
    if letters[:1] == ("...",):
        letters, shape = letters[1:], shape[max(0, len(shape) - len(letters) + 1) :]
    lengths = [None if letter.startswith("*") else _numbers((letter,), sizes)[0] for letter in letters]
    return len(shape) == len(letters) and all(n in (m, None) or m is None for m, n in zip(shape, lengths, strict=True))


def wrong_shapes(x: Values) -> Iterator[tuple[str, Values]]:
    """The array with an axis more, less, of length 1, longer or shorter; transposed, flat, and one of its numbers."""
    yield "an axis more at the end", x[..., None]
    yield "an axis more at the front", x[None]
    if x.ndim:
        yield "flat", x.reshape(-1)
        yield "one number", x.reshape(-1)[0]
        yield "as many columns as rows", np.repeat(x[..., None], x.shape[-1], axis=-1)
    if x.ndim > 1:
        yield "transposed", x.T
    for axis in range(x.ndim):
        yield f"axis {axis} missing", x.take(0, axis=axis)
        yield f"axis {axis} of length 1", x.take([0], axis=axis)
        yield f"axis {axis} longer", np.concatenate([x, x.take([0], axis=axis)], axis=axis)
        if x.shape[axis] > 1:
            yield f"axis {axis} shorter", x.take(range(x.shape[axis] - 1), axis=axis)


def wrong_dtypes(x: Values) -> Iterator[tuple[str, Values]]:
    """The array in dtypes of another kind."""
    kinds = {"b": (np.int64, np.uint8, np.float64), "i": (np.float64, np.bool_), "f": (np.int64, np.bool_)}
    for dtype in (*kinds[x.dtype.kind.replace("u", "i")], np.complex128):
        yield np.dtype(dtype).name, x.astype(dtype)
    yield "strings", x.astype(str)


def knocks(door: Door, sizes: Sizes, seed: int, library: Callable[[Values], Any] = np.asarray) -> Iterator[Knock]:
    """Wrong calls of a door, one argument at a time, with arrays of numpy, or as torch tensors."""
    arrays = _arrays(door, sizes, seed)
    fits = _call(door, {name: library(x) for name, x in arrays.items()}, sizes, seed)
    if isinstance(fits, Exception):
        raise AssertionError(f"{door} refuses arguments that fit, with sizes {dict(sizes)}: {fits!r}") from fits
    for name, x in arrays.items():
        given, others = door.given[name], {key: library(y) for key, y in arrays.items() if key != name}
        wrong: list[tuple[str, Any]] = [
            (f"shape {y.shape}, {way}", library(np.asarray(y)))
            for way, y in wrong_shapes(x)
            if not given.allowed(y.shape, sizes)
        ]
        if not given.any_dtype:
            wrong += [(way, library(y)) for way, y in wrong_dtypes(x) if library is np.asarray or way != "strings"]
        wrong.append(("a list", x.tolist()))
        if others:
            wrong.append(("another library", torch.as_tensor(x) if library is np.asarray else x))
        for way, y in wrong:
            result = _call(door, {**others, name: y}, sizes, seed)
            yield Knock(str(door), name, way, sizes, *_judged(door, result, fits, way))


def _arrays(door: Door, sizes: Sizes, seed: int) -> dict[str, Values]:
    generator = np.random.default_rng(seed)
    return {name: given.make(generator, _numbers(given.shape, sizes), sizes) for name, given in door.given.items()}


def _call(door: Door, arrays: Mapping[str, Any], sizes: Sizes, seed: int) -> object:
    """The result, or the exception."""
    fixed = door.fixed(np.random.default_rng(seed + 1), sizes)
    with np.errstate(all="ignore"):
        try:
            return door.call(**arrays, **fixed)
        except Exception as error:
            return error


def _judged(door: Door, result: object, fits: object, way: str) -> tuple[Outcome, str]:
    if not isinstance(result, Exception):
        same = _equal(result, fits)
        return (
            (Outcome.RIGHT, "")
            if same
            else (Outcome.PLAUSIBLE, f"{result!r} for {fits!r}".replace("\n", " ")[:LONGEST])
        )
    said = str(result)
    # An array of a strange library is named by its type, not by the argument that holds it.
    names = (*door.given, *door.says, *inspect.signature(door.call).parameters)
    named = way in ("a list", "another library", "strings") or any(name in said for name in names)
    fine = isinstance(result, ValueError | TypeError) and named and "\n" not in said and 0 < len(said) <= LONGEST
    return (Outcome.REFUSED if fine else Outcome.RAW), f"{type(result).__name__}: {said}"


def _equal(first: object, second: object) -> bool:
    """True for results that hold equal arrays of equal shapes."""
    one, other = list(_leaves(first)), list(_leaves(second))
    if len(one) != len(other):
        return False
    return all(x.shape == y.shape and _close(x, y) for x, y in zip(one, other, strict=True))


def _close(x: Values, y: Values) -> bool:
    if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        return bool(np.array_equal(x, y))
    return bool(np.allclose(x.astype(np.float64), y.astype(np.float64), rtol=1e-5, atol=1e-7, equal_nan=True))


def _leaves(value: object) -> Iterator[Values]:
    if isinstance(value, torch.Tensor):
        yield value.detach().numpy()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _leaves(getattr(value, each.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, np.ndarray | np.generic | float | int):
        yield np.asarray(value)


def floats(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Normal numbers: log-ratios, advantages."""
    return generator.normal(size=shape)


def laws(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Log-probabilities of laws over the last axis."""
    logits = generator.normal(size=shape)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


def numbers(low: float, high: float) -> Make:
    """A maker of numbers between two ends."""
    return lambda generator, shape, sizes: generator.uniform(low, high, size=shape)


def negative(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Log-probabilities of single tokens."""
    return generator.uniform(-4.0, -0.1, size=shape)


def masks(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Masks of sequences of 1 to `length` tokens, along the last axis."""
    lengths = generator.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    return np.asarray(np.arange(shape[-1]) < lengths)


def ids(below: str) -> Make:
    """A maker of integers below the size of a letter."""
    return lambda generator, shape, sizes: generator.integers(0, sizes[below], size=shape)


def shares(generator: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> Values:
    """Positive numbers that add up to 1."""
    weights = generator.uniform(0.1, 1.0, size=shape)
    return np.asarray(weights / weights.sum())


def array(
    shape: str,
    make: Make = floats,
    *also: str,
    any_shape: bool = False,
    any_dtype: bool = False,
) -> Given:
    """An argument, with shapes as words: "states vocab"; "" is a number."""
    words = tuple(tuple(each.split()) for each in also)
    return Given(tuple(shape.split()), make, words, any_shape, any_dtype)
