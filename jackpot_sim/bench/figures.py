"""How near we come to what the paper published."""

from __future__ import annotations

from collections.abc import Iterator

from jackpot_sim.bench.timing import Finding


def figure2() -> Iterator[Finding]:
    """The points of Figure 2, from the sweep that draws it."""
    yield from ()
