"""Training without PPO's clip: [J] finds that only Jackpot is then both stable and fast.

A method is stable if it loses no run in most seeds, and unstable if it loses most runs, by the rule of
`training.statistics.mostly`. Its speed is its mean accuracy over the whole run, paired by seed. RB-Jackpot is Jackpot
without the noise of its mask, and training on-policy needs no correction: neither counts among the other methods.

    python -m paper_figures.no_clipping
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from .command import Made
from .training import curves
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import (
    ON_POLICY,
    Claim,
    difference,
    lost_in_words,
    mostly,
    of,
    per_run,
    stable,
    verdict,
)

NAME = "no_clipping"

_OURS = ("jackpot", "rao-blackwell", ON_POLICY)
_NEAR = 0.95
"""The least share of Jackpot's mean accuracy over the run that counts as equally fast."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether only Jackpot is stable and fast."""
    return draw(NAME, "KL and accuracy of training without PPO's clip.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    trained.need(("jackpot",), trained.settings)
    trained.need(_others(trained) or ("none",))
    figure, _ = curves.curves(trained)
    runs = per_run(trained)
    sentence, agrees = verdict(trained, claims_of(trained))
    return Made(figure, curves.tables(trained, runs, "Without PPO's clip"), sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claims, and what these runs say of them."""
    runs = per_run(trained)
    return [_stable(runs), *(_worse(runs, other) for other in _others(trained))]


def _others(trained: Trained) -> list[str]:
    return [method for method in trained.methods if method not in _OURS]


def _stable(runs: pd.DataFrame) -> Claim:
    at = of(runs, "jackpot", "lost_at")
    return Claim("Jackpot is stable without PPO's clip", stable(at), f"Jackpot: {lost_in_words(at)}")


def _worse(runs: pd.DataFrame, other: str) -> Claim:
    """The claim that another method loses most runs, or is slower than Jackpot.

    The claim fails if the method is as fast as Jackpot, or faster, and does not lose most runs.
    """
    at, name = of(runs, other, "lost_at"), name_of(other)
    faster = difference(of(runs, "jackpot", "mean_accuracy"), of(runs, other, "mean_accuracy"))
    as_fast = difference(of(runs, other, "mean_accuracy"), _NEAR * of(runs, "jackpot", "mean_accuracy"))
    unstable = mostly(at.notna())
    fast = bool(as_fast.above) or faster.above is False
    holds = True if unstable or faster.above else False if fast and unstable is False else None
    because = f"{name}: {lost_in_words(at)}; Jackpot − {name} in mean accuracy over the run {faster}"
    return Claim(f"{name} is unstable, or slower than Jackpot", holds, because)


if __name__ == "__main__":
    sys.exit(main())
