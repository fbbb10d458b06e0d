"""Tokens that are left out of every figure: how many for each reason, and a sample of where they stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

SAMPLES = 5
"""The places that are kept for each reason."""


class Reason(StrEnum):
    """The reasons for which a token, or a row, takes no part in any figure."""

    MASKED = "masked"
    """The dump's own mask excludes it."""
    PADDING = "padding"
    """Padding, and the first position where no log-prob exists."""
    MISSING = "missing"
    """NaN, None or null stands for a log-prob."""
    NO_ADVANTAGE = "no-advantage"
    """The advantage is NaN or null where other tokens have one."""
    ZERO = "zero-placeholder"
    """One side is exactly 0.0 where the other is far from it."""
    ONE = "one-placeholder"
    """Exactly +1.0, which stands for no log-prob."""
    POSITIVE = "positive"
    """A log-prob above 0 by more than rounding."""
    INFINITE = "infinite"
    """−inf or +inf."""
    ALL_ZERO = "all-zero-column"
    """A whole column of zeros: the log-probs were never computed."""
    MISALIGNED = "misaligned"
    """One side of its sequence is moved by one place."""
    DUPLICATE = "duplicate"
    """The same sequence from another parallel rank."""
    BAD_ROW = "bad-row"
    """A row or line that cannot be read, which --skip-bad leaves out."""


@dataclass
class LeftOut:
    """The tokens (rows, for `bad-row`) left out for each reason, with the first places of each."""

    count: dict[Reason, int] = field(default_factory=dict)
    sample: dict[Reason, list[str]] = field(default_factory=dict)

    def add(self, reason: Reason, count: int, places: Iterable[str] = ()) -> None:
        """Counts tokens; of the places only as many are kept as the sample holds."""
        if count:
            self.count[reason] = self.count.get(reason, 0) + count
            kept = self.sample.setdefault(reason, [])
            for place in places:
                if len(kept) >= SAMPLES:
                    break
                kept.append(place)
