"""Problems that are rows of small integers, of which a hash of the integers decides whether they are held out.

So training and evaluation never share a problem, in any run, and neither needs a list of the other's problems.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.checks import check_integers, check_shape
from jackpot_sim.core.hashing import splitmix64
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.training.tasks.base import Problem

HELD_OUT_SHARE = 0.05
"""The share of all problems that training never sees, in expectation over problems."""

MOST_HELD_OUT = 20_000
"""The most held-out problems that can be asked for where there are too many problems to list."""

_LISTED = 2**20
"""The most problems that are listed to find held-out ones; of more, held-out ones are drawn."""

_CHUNK = 4096


@dataclass(frozen=True)
class Grid:
    """A grid of integers below `sizes`, whose rows are parted into training and evaluation.

    Attributes:
        name: the key of the fixed draws of held-out rows.
        sizes: column i of a row lies in [0, sizes[i]).
        key: a function from rows, (n, columns), to the integers that are hashed, (n, any); rows of equal keys stay
            together, so that 1+2 is not learned from 2+1.
    """

    name: str
    sizes: tuple[int, ...]
    key: Callable[[Ints], Ints]

    def training(self, generator: np.random.Generator, n: int) -> Ints:
        """n rows drawn uniformly, with replacement, from those that are not held out; shape (n, columns).

        Raises:
            ValueError: n is not a count.
        """
        check_count("n", n, 0)
        rows = self._drawn(generator, n)
        while len(again := np.flatnonzero(self.is_held_out(rows))):
            rows[again] = self._drawn(generator, len(again))
        return rows

    def held_out(self, n: int) -> Ints:
        """n different held-out rows in a fixed order, shape (n, columns); all of them if they are fewer."""
        check_count("n", n, 0)
        generator = keyed_generator(0, "held out", self.name, self.sizes)
        rows = self._listed(generator) if math.prod(self.sizes) <= _LISTED else self._drawn_held_out(generator, n)
        return rows[:n]

    def is_held_out(self, rows: Ints) -> Flags:
        """A mask of the held-out rows of (n, columns), shape (n,).

        Raises:
            TypeError: rows are no integers.
            ValueError: rows have another number of columns.
        """
        check_integers(rows, "rows")
        check_shape(rows, (*rows.shape[:1], len(self.sizes)), "rows", "(n, columns)")
        key = self.key(rows).astype(np.uint64)
        state = np.zeros(len(rows), dtype=np.uint64)
        for column in range(key.shape[1]):
            state = splitmix64(state ^ key[:, column])
        # The upper 53 bits, which a float holds exactly.
        uniform = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
        held: Flags = uniform < HELD_OUT_SHARE
        return held

    def _drawn(self, generator: np.random.Generator, n: int) -> Ints:
        return generator.integers(0, self.sizes, (n, len(self.sizes)), dtype=np.int64)

    def _listed(self, generator: np.random.Generator) -> Ints:
        """The held-out rows, shuffled."""
        rows: Ints = np.indices(self.sizes, dtype=np.int64).reshape(len(self.sizes), -1).T
        return generator.permutation(rows[self.is_held_out(rows)])

    def _drawn_held_out(self, generator: np.random.Generator, n: int) -> Ints:
        """The first n different held-out rows that are drawn."""
        different: dict[tuple[int, ...], None] = {}
        while len(different) < min(n, MOST_HELD_OUT):
            rows = self._drawn(generator, _CHUNK)
            different.update(dict.fromkeys(map(tuple, rows[self.is_held_out(rows)].tolist())))
        return np.array(list(different)[:MOST_HELD_OUT], dtype=np.int64).reshape(-1, len(self.sizes))


class OfGrid(ABC):
    """A task whose problems are the rows of a grid."""

    @property
    @abstractmethod
    def _grid(self) -> Grid:
        """The rows of the task's problems."""

    @abstractmethod
    def _made(self, rows: Ints) -> tuple[Problem, ...]:
        """The problems of some rows, (n, columns)."""

    def problems(self, generator: np.random.Generator, n: int) -> tuple[Problem, ...]:
        """n problems drawn with replacement from those that are not held out."""
        return self._made(self._grid.training(generator, n))

    def held_out(self, n: int) -> tuple[Problem, ...]:
        """n held-out problems, the same in every run; all of them if they are fewer.

        A problem with the same key as one is never trained on.
        """
        return self._made(self._grid.held_out(n))

    @property
    def different(self) -> None:
        """None: training draws from all rows with replacement."""
        return
