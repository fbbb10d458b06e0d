"""Training without PPO's clip: [J] finds that only Jackpot is then both stable and fast.

Stable is what loses no run in most seeds, and unstable what loses most runs, by the rule of
`training.statistics.mostly`. How fast a method is shows in its mean accuracy over the whole run, paired by seed.
RB-Jackpot is Jackpot without the noise of its mask, and training on-policy needs no correction: neither counts
among the others.

    python -m paper_figures.no_clipping
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from paper_figures.command import Made
from paper_figures.training import curves
from paper_figures.training.curves import name_of
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import (
    ON_POLICY,
    Claim,
    difference,
    mostly,
    of,
    per_run,
    stable,
    told_lost,
    verdict,
)

NAME = "no_clipping"

_OURS = ("jackpot", "rao-blackwell", ON_POLICY)
_NEAR = 0.95
"""Of Jackpot's mean accuracy over the run: at least this is as fast."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether only Jackpot is stable and fast."""
    return draw(NAME, "KL and accuracy of training without PPO's clip.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its table."""
    found.need(("jackpot",), found.settings)
    others = [method for method in found.methods if method not in _OURS]
    found.need(others or ("none",))
    figure, _ = curves.curves(found)
    runs = per_run(found)
    claims = [_stable(runs), *(_worse(runs, other) for other in others)]
    told, agrees = verdict(found, claims)
    return Made(figure, curves.tables(found, runs, "Without PPO's clip"), told, agrees)


def _stable(runs: pd.DataFrame) -> Claim:
    at = of(runs, "jackpot", "lost_at")
    return Claim("Jackpot is stable without PPO's clip", stable(at), f"Jackpot: {told_lost(at)}")


def _worse(runs: pd.DataFrame, other: str) -> Claim:
    """Whether another method loses most runs, or is slower than Jackpot.

    It is neither where it ends as fast as Jackpot and does not lose most runs, or is seen to be faster.
    """
    at, name = of(runs, other, "lost_at"), name_of(other)
    faster = difference(of(runs, "jackpot", "mean_accuracy"), of(runs, other, "mean_accuracy"))
    as_fast = difference(of(runs, other, "mean_accuracy"), _NEAR * of(runs, "jackpot", "mean_accuracy"))
    unstable = mostly(at.notna())
    fast = bool(as_fast.above) or faster.above is False
    holds = True if unstable or faster.above else False if fast and unstable is False else None
    told = f"{name}: {told_lost(at)}; Jackpot − {name} in mean accuracy over the run {faster}"
    return Claim(f"{name} is unstable, or slower than Jackpot", holds, told)


if __name__ == "__main__":
    sys.exit(main())
