"""The paper's claims about no correction, TIS and Jackpot between two models (its Figures 1, 4 and 5), put to runs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .statistics import (
    ON_POLICY,
    Claim,
    difference,
    fall,
    geometric,
    interval,
    lost_in_words,
    mostly,
    of,
    stable,
)

NEEDED = (ON_POLICY, "none", "tis", "jackpot")

STABLE = 300
"""The number of steps for which the paper's Jackpot is stable."""
NEAR = 0.95
"""The least share of the on-policy accuracy that counts as near it: our choice, since the paper has no number."""
ABOUT = 2.0
"""The factor within which a KL is "about" another."""


def claims(runs: pd.DataFrame, paper: pd.DataFrame) -> list[Claim]:
    """The claims over seeds, of which those about lost runs are decided by the rule of `mostly`.

    Args:
        runs: the figures of each run, see `per_run`: on-policy, without a correction, with TIS and with Jackpot.
        paper: the KLs that the paper shows, by `method`.
    """
    return [_collapses(runs), _later(runs), _stable(runs), _low(runs, paper), _near(runs)]


def differences(runs: pd.DataFrame) -> str:
    """The differences Jackpot − TIS and RB − Jackpot in last accuracy, in a sentence."""
    pairs = [("Jackpot − TIS", "jackpot", "tis"), ("RB − Jackpot", "rao-blackwell", "jackpot")]
    parts = [
        f"{name} {difference(of(runs, first, 'accuracy'), of(runs, second, 'accuracy'))}"
        for name, first, second in pairs
        if {first, second} <= {*runs.index.get_level_values("method")}
    ]
    return f"Last accuracy, paired by seed, with 95 % intervals: {'; '.join(parts)}."


def _collapses(runs: pd.DataFrame) -> Claim:
    at = of(runs, "none", "lost_at")
    because = f"no correction: {lost_in_words(at)}; {fall(runs, 'none')}"
    return Claim("without a correction training collapses", mostly(at.notna()), because)


def _later(runs: pd.DataFrame) -> Claim:
    tis, none = of(runs, "tis", "lost_at"), of(runs, "none", "lost_at")
    late = tis > none.reindex(tis.index)  # False where either is not lost
    both = {mostly(tis.notna()), mostly(late)}
    holds = False if False in both else None if None in both else True
    because = (
        f"TIS: {lost_in_words(tis)}, later than no correction of the same seed in {late.sum()}; {fall(runs, 'tis')}"
    )
    return Claim("TIS collapses too, but later", holds, because)


def _stable(runs: pd.DataFrame) -> Claim:
    at, asked = of(runs, "jackpot", "lost_at"), int(of(runs, "jackpot", "asked").min())
    steps = min(asked, STABLE)
    because = f"Jackpot: {lost_in_words(at)}, of {asked} steps; {fall(runs, 'jackpot')}"
    return Claim(f"Jackpot is stable for {steps} steps", stable(at.where(at <= steps)), because)


def _low(runs: pd.DataFrame, paper: pd.DataFrame) -> Claim:
    ours = {method: geometric(of(runs, method, "kl")) for method in ("none", "tis", "jackpot")}
    shown = {method: (relation, float(kl)) for method, relation, kl, _ in paper.itertuples(index=False)}
    target = shown["jackpot"][1]
    kl = of(runs, "jackpot", "kl")
    log_kl = pd.Series(np.log(kl.to_numpy(dtype=np.float64)), kl.index)
    room = difference(pd.Series(math.log(ABOUT * target), log_kl.index), log_kl)
    holds = False if mostly(log_kl.abs() == math.inf) else room.above
    because = "KL at the end, nats: " + ", ".join(
        f"{name} {ours[method]:.2g} (paper {shown[method][0]} {shown[method][1]:g})"
        for method, name in (("none", "no correction"), ("tis", "TIS"), ("jackpot", "Jackpot"))
    )
    ends = interval(log_kl)
    if ends.pairs > 1 and math.isfinite(ends.mean):
        because += f"; Jackpot's interval {math.exp(ends.low):.2g} to {math.exp(ends.high):.2g}"
    return Claim(f"Jackpot's KL stays at about {target:g}", holds, because)


def _near(runs: pd.DataFrame) -> Claim:
    ours, best = of(runs, "jackpot", "accuracy"), of(runs, ON_POLICY, "accuracy")
    share = interval((ours / best).dropna())
    because = f"Jackpot keeps {_percent(share.mean)} of it" + (
        f" [{_percent(share.low)}, {_percent(share.high)}]" if share.pairs > 1 else ""
    )
    return Claim("Jackpot comes near the on-policy accuracy", difference(ours, NEAR * best).above, because)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
