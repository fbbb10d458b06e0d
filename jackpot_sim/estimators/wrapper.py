"""Corrections made of another one: whatever they do not change is the inner one's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jackpot_sim.estimators.base import Correction, Level


@dataclass(frozen=True)
class Wrapper(Correction):
    """A correction around another; a subclass says what it changes."""

    of: Correction

    @property
    def level(self) -> Level:
        """That of the inner correction."""
        return self.of.level

    @property
    def unit(self) -> Level:
        """That of the inner correction."""
        return self.of.unit

    @property
    def looks_at_batch(self) -> bool:
        """Whether the inner correction does."""
        return self.of.looks_at_batch

    @property
    def draws_mask(self) -> bool:
        """Whether the inner correction does."""
        return self.of.draws_mask

    @property
    def carries_reference_ratio(self) -> bool:
        """Whether the inner correction does."""
        return self.of.carries_reference_ratio

    @property
    def overlap_lam(self) -> Any | None:
        """That of the inner correction."""
        return self.of.overlap_lam

    def parameters(self) -> dict[str, Any]:
        """Those of the inner correction."""
        return self.of.parameters()

    def at(self, rows: slice) -> Correction:
        """See `Correction.at`."""
        return dataclasses.replace(self, of=self.of.at(rows))
