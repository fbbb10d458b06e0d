"""The growth of bias and variance with the length of a sequence and with the mismatch per token.

Corrections of single tokens leave prefixes to the actor's law. Liu & Li (2025) bound the bias of such a
correction by O(T²Δ), where Δ is the total variation per token. A bound is not a rate: here every
sequence of tiny models is enumerated, and the bias fitted as T^α Δ^β. T tokens have T(T − 1)/2 pairs of tokens,
none at T = 1, so the fit begins at T = 3, and the exponent of T(T − 1)/2 itself on the same lengths is reported
beside it. Corrections of sequences have variance in place of that bias: E[e^{2S}] = 1 + χ²(sequence), which for
independent states of equal χ² is (1 + χ²)^T.

Figures are geometric means over seeds, with standard errors; models are new for every length and seed.

    python -m paper_figures.bias_variance_length
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from . import fits
from .bias_variance_panels import MAIN_REWARD, draw
from .command import Made, report_table, run
from .fits import Fitted
from .records import Loaded

NAME = "bias_variance_length"

FIRST_LENGTH = 3
"""The least T of the fits: T(T − 1) is far from T² below."""
LARGEST_KL = 0.01
"""The largest KL of the fits: a bias as large as the gradient cannot grow as Δ does."""
BOUND_IN_LENGTH, BOUND_IN_DISTANCE = 2.0, 1.0
"""The exponents of the bound."""
DISTANCE_TOLERANCE = 0.15
"""The largest deviation of the fitted exponent of Δ from the bound's."""

BOUNDED = ("is", "tis", "rao-blackwell(jackpot)")
"""The corrections of single tokens, for which the bound holds."""
FITTED = ("none", *BOUNDED)
SIZES = {"absolute": "‖ĝ − g‖", "bias": "‖ĝ − g‖/‖g‖"}


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether the bias stays within the bound's exponents."""
    return run(NAME, "Bias and variance against the length of sequences and the mismatch per token.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its tables."""
    rows = measured(loaded)
    table, growth = exponents(rows), second_moments(rows)
    bounded, relative = (table[(table["size"] == size) & table["estimator"].isin(BOUNDED)] for size in SIZES)
    others = by_reward(rows)
    elsewhere = others[others["estimator"].isin(BOUNDED) & (others["reward"] != MAIN_REWARD)]
    linear = (bounded["distance"] - BOUND_IN_DISTANCE).abs() <= DISTANCE_TOLERANCE
    agrees = bool(_within(bounded) and _within(elsewhere) and linear.all())
    pooled = growth.iloc[-1]
    verdict = (
        f"VERDICT: the bias of corrections of single tokens {'stays' if agrees else 'DOES NOT stay'} within O(T²Δ): "
        f"{_each(bounded, 'length', 'T')} (at most {BOUND_IN_LENGTH:g} within two standard errors; "
        f"T(T − 1)/2 itself has {pair_exponent(rows):.2f} here), {_each(bounded, 'distance', 'Δ')} "
        f"({BOUND_IN_DISTANCE:g} ± {DISTANCE_TOLERANCE:g}). Relative to ‖g‖: {_each(relative, 'length', 'T')}. "
        f"With other rewards or trained models ‖ĝ − g‖ has {elsewhere['length'].min():.2f} to "
        f"{elsewhere['length'].max():.2f}. log(1 + χ²) of sequences is {_with_error(pooled, 'c')} of T times that of "
        "tokens, and 1 for independent states of equal χ²."
    )
    report = [_exponents_table(table), _rewards_table(others), _moments_table(growth), _variance_table(rows)]
    return Made(draw(rows), report, verdict, agrees)


def measured(loaded: Loaded) -> pd.DataFrame:
    """The records with ‖ĝ − g‖ as `absolute`, the reward, and the models that rows share as `cluster`."""
    rewards = {text: _reward(json.loads(text)) for text in loaded.records["environment"].unique()}
    rows = loaded.records
    return rows.assign(
        absolute=rows["bias"] * np.sqrt(rows["grad_norm_sq"]),
        reward=rows["environment"].map(rewards),
        cluster=rows["seed"].astype(str) + " " + rows["length"].astype(str),
    )


def _reward(environment: Mapping[str, Any]) -> str:
    """The kind of the reward; models that were first trained on the small language count as another."""
    return str(environment["reward"]["kind"]) + (", trained" if environment["pretrain_steps"] else "")


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each estimator and size of the bias: exponents in T and Δ, and in KL in place of Δ."""
    shown = rows[(rows["reward"] == MAIN_REWARD) & (rows["length"] >= FIRST_LENGTH)]
    shown = shown[shown["target_kl"] <= LARGEST_KL]
    out = []
    for size in SIZES:
        for name in FITTED:
            of = shown[shown["estimator"] == name]
            in_distance, in_kl = (_fit(of, size, column) for column in ("total_variation", "kl_policy_actor"))
            fitted = {"length": in_distance["T"], "distance": in_distance["distance"], "kl": in_kl["distance"]}
            out.append({"size": size, "estimator": name} | _columns(fitted))
    return pd.DataFrame(out)


def by_reward(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each reward and estimator: the exponent of ‖ĝ − g‖ in T at the KLs that all rewards share."""
    shared = set.intersection(*(set(of["target_kl"]) for _, of in rows.groupby("reward")))
    shown = rows[rows["target_kl"].isin(shared) & (rows["length"] >= FIRST_LENGTH)]
    out = []
    for (reward, name), of in shown[shown["estimator"].isin(FITTED)].groupby(["reward", "estimator"], sort=False):
        fitted = fits.power_law(of["absolute"], {"length": of["length"]}, of["cluster"])
        out.append({"reward": reward, "estimator": name} | _columns(fitted))
    return pd.DataFrame(out)


def second_moments(rows: pd.DataFrame) -> pd.DataFrame:
    """c in log(1 + χ²(sequence)) = c·T·log(1 + χ²(token)), by KL, and last over all KLs; a single token has c = 1."""
    cells = rows[(rows["reward"] == MAIN_REWARD) & (rows["length"] > 1)].drop_duplicates("cell")
    ratio = np.log1p(cells["chi_square_sequence"]) / (cells["length"] * np.log1p(cells["chi_square"]))
    cells = cells.assign(ratio=ratio)
    out = []
    for kl, of in [*cells.groupby("target_kl"), (np.nan, cells)]:
        # One number for each model, since the KLs of one model are not independent draws.
        logs = fits.geometric(np.exp(np.log(of["ratio"]).groupby(of["cluster"]).mean()))
        growth = fits.power_law(of["ratio"], {"growth": of["length"]}, of["cluster"])
        centre = float(np.exp(logs.value))
        out.append({"target_kl": kl} | _columns({"c": Fitted(centre, centre * logs.se)} | growth))
    return pd.DataFrame(out)


def pair_exponent(rows: pd.DataFrame) -> float:
    """The exponent of T(T − 1)/2 itself on the lengths of the fit."""
    lengths = np.array(sorted(each for each in rows["length"].unique() if each >= FIRST_LENGTH), dtype=np.float64)
    return float(np.polyfit(np.log(lengths), np.log(lengths * (lengths - 1)), 1)[0])


def _fit(of: pd.DataFrame, size: str, distance: str) -> dict[str, Fitted]:
    return fits.power_law(of[size], {"T": of["length"], "distance": of[distance]}, of["cluster"])


def _within(bounded: pd.DataFrame) -> bool:
    """True where no exponent in T is above the bound's by more than two standard errors."""
    return bool((bounded["length"] - 2 * bounded["length_se"] <= BOUND_IN_LENGTH).all())


def _columns(fitted: dict[str, Fitted]) -> dict[str, float]:
    return {f"{name}{end}": x for name, of in fitted.items() for end, x in (("", of.value), ("_se", of.se))}


def _with_error(row: pd.Series[float], name: str) -> str:
    return f"{row[name]:.2f} ± {row[f'{name}_se']:.2f}"


def _each(bounded: pd.DataFrame, name: str, symbol: str) -> str:
    exponents_in_words = (f"{_SHORT[row['estimator']]} {_with_error(row, name)}" for _, row in bounded.iterrows())
    return f"exponents in {symbol} {', '.join(exponents_in_words)}"


_SHORT = {"none": "none", "is": "IS", "tis": "TIS", "rao-blackwell(jackpot)": "Jackpot"}


def _exponents_table(table: pd.DataFrame) -> Table:
    title = f"Exponents for T ≥ {FIRST_LENGTH} and KL ≤ {LARGEST_KL:g}, reward {MAIN_REWARD} (± standard error)"
    out = report_table(title, "size of the bias", "estimator", "in T", "in Δ", "in KL")
    out.columns[1].justify = "left"
    for size, rows in table.groupby("size", sort=False):
        for _, row in rows.iterrows():
            figures = (_with_error(row, name) for name in ("length", "distance", "kl"))
            out.add_row(SIZES[str(size)], row["estimator"], *figures)
        out.add_section()
    return out


def _rewards_table(table: pd.DataFrame) -> Table:
    out = report_table("The exponent of ‖ĝ − g‖ in T by reward, at the KL that all share", "reward", *FITTED)
    for reward, rows in table.groupby("reward", sort=False):
        by_name = {str(row["estimator"]): row for _, row in rows.iterrows()}
        out.add_row(str(reward), *(_with_error(by_name[name], "length") for name in FITTED))
    return out


def _moments_table(growth: pd.DataFrame) -> Table:
    title = "log(1 + χ²) of sequences over T times that of tokens, T ≥ 2"
    out = report_table(title, "KL per token", "c", "exponent of c in T")
    for _, row in growth.iterrows():
        kl = "all" if np.isnan(row["target_kl"]) else f"{row['target_kl']:g}"
        out.add_row(kl, _with_error(row, "c"), _with_error(row, "growth"))
    return out


def _variance_table(rows: pd.DataFrame) -> Table:
    longest = rows[(rows["reward"] == MAIN_REWARD) & (rows["length"] == rows["length"].max())]
    kls = sorted(longest["target_kl"].unique())
    title = f"Variance over the on-policy one at T = {rows['length'].max()} (geometric mean ×/ standard error)"
    out = report_table(title, "estimator", *(f"KL {kl:g}" for kl in kls))
    for name, of in longest.groupby("estimator", sort=False):
        means = [fits.geometric(of[of["target_kl"] == kl]["variance"]) for kl in kls]
        out.add_row(str(name), *(f"{np.exp(each.value):.3f} ×/ {np.exp(each.se):.2f}" for each in means))
    return out


if __name__ == "__main__":
    sys.exit(main())
