"""What the paper says of no correction, TIS and Jackpot between two models (its Figures 1, 4 and 5), put to runs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from paper_figures.training.statistics import (
    ON_POLICY,
    Claim,
    difference,
    fall,
    geometric,
    interval,
    mostly,
    of,
    stable,
    told_lost,
)

NEEDED = (ON_POLICY, "none", "tis", "jackpot")

STABLE = 300
"""Steps for which the paper's Jackpot is stable."""
NEAR = 0.95
"""Of the on-policy accuracy: at least this is near it. Ours: the paper has no number."""
ABOUT = 2.0
"""Within this factor is "about"."""


def claims(runs: pd.DataFrame, paper: pd.DataFrame) -> list[Claim]:
    """The claims, over seeds; runs that are lost are counted by the rule of `mostly`.

    Args:
        runs: figures of runs on-policy, with no correction, with TIS and with Jackpot, see `per_run`.
        paper: the KLs that it shows, by `method`.
    """
    return [_collapses(runs), _later(runs), _stable(runs), _low(runs, paper), _near(runs)]


def differences(runs: pd.DataFrame) -> str:
    """Jackpot − TIS and RB − Jackpot in last accuracy, in a sentence."""
    pairs = [("Jackpot − TIS", "jackpot", "tis"), ("RB − Jackpot", "rao-blackwell", "jackpot")]
    told = [
        f"{name} {difference(of(runs, first, 'accuracy'), of(runs, second, 'accuracy'))}"
        for name, first, second in pairs
        if {first, second} <= {*runs.index.get_level_values("method")}
    ]
    return f"Last accuracy, paired by seed, with 95 % intervals: {'; '.join(told)}."


def _collapses(runs: pd.DataFrame) -> Claim:
    at = of(runs, "none", "lost_at")
    told = f"no correction: {told_lost(at)}; {fall(runs, 'none')}"
    return Claim("without a correction training collapses", mostly(at.notna()), told)


def _later(runs: pd.DataFrame) -> Claim:
    tis, none = of(runs, "tis", "lost_at"), of(runs, "none", "lost_at")
    late = tis > none.reindex(tis.index)  # not where either is not lost
    both = {mostly(tis.notna()), mostly(late)}
    holds = False if False in both else None if None in both else True
    told = f"TIS: {told_lost(tis)}, later than no correction of the same seed in {late.sum()}; {fall(runs, 'tis')}"
    return Claim("TIS collapses too, but later", holds, told)


def _stable(runs: pd.DataFrame) -> Claim:
    at, asked = of(runs, "jackpot", "lost_at"), int(of(runs, "jackpot", "asked").min())
    steps = min(asked, STABLE)
    told = f"Jackpot: {told_lost(at)}, of {asked} steps; {fall(runs, 'jackpot')}"
    return Claim(f"Jackpot is stable for {steps} steps", stable(at.where(at <= steps)), told)


def _low(runs: pd.DataFrame, paper: pd.DataFrame) -> Claim:
    ours = {method: geometric(of(runs, method, "kl")) for method in ("none", "tis", "jackpot")}
    shown = {method: (relation, float(kl)) for method, relation, kl, _ in paper.itertuples(index=False)}
    target = shown["jackpot"][1]
    log_kl = np.log(of(runs, "jackpot", "kl"))
    room = difference(pd.Series(math.log(ABOUT * target), log_kl.index), log_kl)
    holds = False if mostly(np.isinf(log_kl)) else room.above
    told = ", ".join(
        f"{name} {ours[method]:.2g} (paper {shown[method][0]} {shown[method][1]:g})"
        for method, name in (("none", "no correction"), ("tis", "TIS"), ("jackpot", "Jackpot"))
    )
    return Claim(f"Jackpot's KL stays at about {target:g}", holds, f"KL at the end, nats: {told}")


def _near(runs: pd.DataFrame) -> Claim:
    ours, best = of(runs, "jackpot", "accuracy"), of(runs, ON_POLICY, "accuracy")
    share = interval((ours / best).dropna())
    told = f"Jackpot keeps {_percent(share.mean)} of it" + (
        f" [{_percent(share.low)}, {_percent(share.high)}]" if share.pairs > 1 else ""
    )
    return Claim("Jackpot comes near the on-policy accuracy", difference(ours, NEAR * best).above, told)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
