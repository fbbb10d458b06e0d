"""The verdicts of `real_model` on what the paper says of KL, acceptance and Z."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import records
from .real_model_actors import K, at_k

ORDER_OF_MAGNITUDE = 10.0
NEAR_FORMULA = 1.25
"""The factor within which a rejected share agrees with the closed form."""
NOISE = 2.0
"""The number of standard errors beyond which a share of Z lies above or below the paper's."""
FAR = 4.0
"""The number of standard errors from which a miss of a batch's mean counts."""
QUANTISED = ("llama-cpp", "quantized-weights", "quantized-kv", "precision")
"""The kinds of actors that compute the same model in coarser numbers."""
PAPERS_ORDER = ("stale", "quantized-kv fp8-e4m3", "sliding-window", "fewer-layers")
"""Our stand-ins for the paper's four causes, in the order that it gives them."""


@dataclass(frozen=True)
class Claim:
    """A verdict: a sentence, and whether the paper's claim holds; None where it is ours, or nothing shows it."""

    sentence: str
    holds: bool | None


def judge(actors: pd.DataFrame, ways: pd.DataFrame) -> list[Claim]:
    """The verdict on each claim."""
    return [
        _of_share(actors, ways),
        _of_order(actors),
        _of_two_models(actors),
        _of_formula(actors),
        _of_kappa(actors, ways),
    ]


def _of_share(actors: pd.DataFrame, ways: pd.DataFrame) -> Claim:
    """The paper's share of Z at k = 20."""
    least = float(records.published("topk_accuracy")["percent"].iloc[0]) / 100
    found = at_k(actors, ways, "top-k")
    kept, error = found["kept"], NOISE * found["kept_se"]
    more, less = kept - error > least, kept + error < least
    holds = False if less.any() else True if more.all() else None
    which = f", and less for {_listed(kept[less].index)}" if less.any() else ""
    return Claim(
        f"(1) That the top {K} hold more than {least:.0%} of Z {_holds(holds)}: they hold {kept.min():.1%} to "
        f"{kept.max():.1%} of it, beyond {NOISE:g} standard errors more than {least:.0%} for {int(more.sum())} of "
        f"{len(kept)} actors{which}.",
        holds,
    )


def _of_order(actors: pd.DataFrame) -> Claim:
    """The order of the paper's four causes."""
    found = {}
    for each in PAPERS_ORDER:
        kind, _, form = each.partition(" ")
        of = actors[(actors["kind"] == kind) & actors["label"].str.contains(form, regex=False)]
        if of.empty:
            return Claim(f"(2) The order of the causes: the records lack {kind}.", None)
        first = of.iloc[int(of["kl"].argmin())]
        found[str(first["label"])] = float(first["kl"])
    values = list(found.values())
    holds = all(one < other for one, other in itertools.pairwise(values))
    listed = ", ".join(f"{name} {_short(kl)}" for name, kl in found.items())
    return Claim(
        f"(2) That staleness, an fp8 KV cache, sparse attention and another model lie in this order of KL "
        f"{_holds(holds)}, at our steps, our learning rate and our window: {listed} nats.",
        holds,
    )


def _of_two_models(actors: pd.DataFrame) -> Claim:
    """The distance of another model over that of quantised ones."""
    other = actors[actors["kind"] == "fewer-layers"]
    same = actors[actors["kind"].isin(QUANTISED)]
    if other.empty or same.empty:
        return Claim("(3) The distance of another model: the records lack it.", None)
    ratio = pd.Series(float(other["kl"].min()) / same["kl"].to_numpy(), same["label"])
    short = ratio[ratio < ORDER_OF_MAGNITUDE]
    which = "" if short.empty else f", not of {_listed(short.index)}"
    return Claim(
        f"(3) That another model is {ORDER_OF_MAGNITUDE:g} times further than quantised ones {_holds(short.empty)} for "
        f"a pruned one: {_short(ratio.min())} times {ratio.idxmin()} at least, and {ORDER_OF_MAGNITUDE:g} or more for "
        f"{len(ratio) - len(short)} of {len(ratio)}{which}.",
        short.empty,
    )


def _of_formula(actors: pd.DataFrame) -> Claim:
    """The rejected share beside the closed form."""
    ratio = pd.Series((actors["rejected"] / actors["expected"]).to_numpy(), actors["label"])
    apart = np.exp(np.abs(np.log(ratio)))
    wrong = ratio[apart > NEAR_FORMULA]
    which = "" if wrong.empty else f", not of {_listed(wrong.index)}"
    return Claim(
        f"(4) The rejected share is {ratio.min():.2f} ({ratio.idxmin()}) to {ratio.max():.2f} ({ratio.idxmax()}) times "
        f"that of Gaussian log-ratios at the same KL: within a factor of {NEAR_FORMULA:g} for "
        f"{len(ratio) - len(wrong)} of {len(ratio)}{which}.",
        None,
    )


def _of_kappa(actors: pd.DataFrame, ways: pd.DataFrame) -> Claim:
    """κ for the batch, and state by state."""
    plain, kappa, ours = (at_k(actors, ways, way) for way in ("top-k", "bias-corrected", "calibrated"))
    # Masks of which none, or nearly none, rejects show less noise than they have.
    overlap, error = kappa["overlap_compared"].to_numpy(), kappa["kept_se"].to_numpy()
    rejecting = np.sqrt((1 - overlap) / overlap / kappa["tokens"].to_numpy())
    misses = np.abs(kappa["kept"].to_numpy() - 1) / np.maximum(error, rejecting)
    worse = int((kappa["error"] > plain["error"]).sum())
    right = bool(np.all(misses < FAR))
    return Claim(
        f"(5) That κ is right on average {_holds(right)}: it misses by {misses.max():.1f} standard errors at most. "
        f"State by state κ·Z_k errs by {kappa['error'].min():.1%} to {kappa['error'].max():.1%} of Z, more than Z_k "
        f"for {worse} of {len(kappa)} actors, and the calibrated bracket by {ours['error'].min():.2%} to "
        f"{ours['error'].max():.2%}.",
        right,
    )


def _holds(holds: bool | None) -> str:
    return "is open" if holds is None else "holds" if holds else "DOES NOT hold"


def _listed(labels: pd.Index[str]) -> str:
    return ", ".join(map(str, labels))


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"
