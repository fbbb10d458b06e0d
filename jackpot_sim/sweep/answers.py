"""The first answer of a run in words: what the best correction saves there, and what it saves farther off."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from jackpot_sim.sweep.legends import has_updates
from jackpot_sim.sweep.resolved import lost, thin
from jackpot_sim.sweep.summary import NONE, best_of, describe


class _Case(NamedTuple):
    """An environment's best estimator beside no correction."""

    place: str
    kinds: tuple[object, ...]
    kl: float
    best: str
    least: float
    none: float
    bias: float
    """The share of the error without correction that is bias."""

    @classmethod
    def of(cls, rows: pd.DataFrame, records: pd.DataFrame) -> _Case | None:
        """None where the figures do not tell, or no correction was left out."""
        none = rows[rows["estimator"] == NONE]
        best, least = best_of(rows)
        if none.empty or not best or lost(rows) or thin(rows):
            return None
        name, knob, _ = describe(rows, records)
        first, error = rows.iloc[0], none["mse"].mean()
        kinds, kl = (first["env_kind"], first["base_kind"]), rows["kl_policy_actor"].mean()
        bias = (none["bias"] ** 2).mean() / error
        return cls(f"{name}, {knob}", kinds, kl, best, least, error, bias)


def in_a_line(rows: pd.DataFrame, records: pd.DataFrame) -> str:
    """The first figures of an environment whose cells are done: its KL, and the least MSE beside that of none."""
    name, knob, distance = describe(rows, records)
    best, least = best_of(rows)
    none = rows.loc[rows["estimator"] == NONE, "mse"].mean()
    beside = "" if math.isnan(none) else f", none {none:.3g}"
    return f"{name}, {knob}: KL {distance}" + (f"; least MSE {best} {least:.3g}{beside}" if best else "")


def explained(records: pd.DataFrame) -> str:
    """One or two sentences on the first environment of exact records; empty where they tell nothing."""
    exact = records[records["method"] == "exact"]
    if exact.empty or not has_updates(exact):
        return ""
    cases = [_Case.of(rows, exact) for _, rows in exact.groupby("environment", sort=False)]
    first = cases[0]
    if first is None:
        return ""
    if first.least >= 1:
        return (
            f"First ({first.place}): no update at all is best, as at so few samples noise outweighs the gradient: more "
            "--n-samples, or fewer and surer tokens, change that."
        )
    told = (
        f"First ({first.place}): with {first.best} the update has {first.least / first.none:.0%} of the error that it "
        f"has without correction, of which {first.bias:.0%} is bias and the rest is noise"
    )
    alike = [each for each in cases if each and each.kinds == first.kinds and each.kl > first.kl and each.least < 1]
    farthest = max(alike, key=lambda each: each.kl, default=None)
    if farthest is None:
        return f"{told}."
    return (
        f"{told}. At KL {farthest.kl:.2g} bias is {farthest.bias:.0%} of it, and {farthest.best} leaves "
        f"{farthest.least / farthest.none:.0%}."
    )
