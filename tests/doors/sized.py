"""Array arguments whose shape follows from the sizes in another way than letter by letter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from typing_extensions import override

from tests.doors.harness import Given, Make, Sizes

Shape: TypeAlias = Callable[[Sizes], tuple[int, ...]]


@dataclass(frozen=True)
class Sized(Given):
    """An argument whose shape is a function of the sizes.

    Attributes:
        of: the shape.
        free: the axes that may have any length.
    """

    of: Shape = lambda sizes: ()
    free: tuple[int, ...] = ()

    @override
    def allowed(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        wanted = self.of(sizes)
        same = all(axis in self.free or n == m for axis, (n, m) in enumerate(zip(shape, wanted, strict=False)))
        return len(shape) == len(wanted) and same


def sized(letters: str, of: Shape, make: Make, free: tuple[int, ...] = ()) -> Sized:
    """An argument of a shape that is made from letters."""
    return Sized(
        tuple(letters.split()), lambda generator, shape, sizes: make(generator, of(sizes), sizes), of=of, free=free
    )


def free(letters: str, make: Make, axes: tuple[int, ...] | None = None) -> Sized:
    """An argument whose axes are letters, some of which (by default all) may have any length."""
    names = tuple(letters.split())
    every = tuple(range(len(names)))
    return sized(letters, lambda sizes: tuple(sizes[name] for name in names), make, every if axes is None else axes)
