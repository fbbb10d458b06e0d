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
    """

    of: Shape = lambda sizes: ()

    @override
    def allowed(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        return shape == self.of(sizes)


def sized(letters: str, of: Shape, make: Make) -> Sized:
    """An argument of a shape that is made from letters."""
    return Sized(tuple(letters.split()), lambda generator, shape, sizes: make(generator, of(sizes), sizes), of=of)
