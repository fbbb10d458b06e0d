"""The doors of the corrections: `weights` of each registered one, and what makes corrections from arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.corrections.at_budget import at_budget
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.corrections.centring import coefficients, expected_with_tail, on_stored, with_tail
from jackpot_sim.estimators.corrections.composed import centred, combined, rao_blackwell
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from tests.doors.harness import Door, Given, Values, array, floats, laws, masks, negative, numbers, shares

CORRECTIONS = {name: estimators.get(name) for name in estimators.names()} | {
    "rao_blackwell(jackpot)": rao_blackwell(estimators.get("jackpot")),
    "centred(jackpot)": centred(estimators.get("jackpot")),
    "batch_normalize(tis)": batch_normalize(estimators.get("tis")),
    "combined(jackpot, gspo)": combined(estimators.get("jackpot"), estimators.get("gspo")),
}
BESIDE = ("n 1", "1 length", "1 1", "")
FIELDS: Mapping[str, Given] = {
    "log_ratio": array("n length"),
    "policy_log_probs": array("n length", negative),
    "actor_log_probs": array("n length", negative),
    "overlap": array("n 1", numbers(0.3, 0.9), "n length", *BESIDE, any_dtype=True),
    "mask": array("n length", masks),
    "advantages": array("n 1", floats, "n length", *BESIDE, any_dtype=True),
}
JACKPOT = estimators.get("jackpot")
STORED: Mapping[str, Given] = {
    "policy_log_probs": array("states k", laws),
    "actor_log_probs": array("states k", laws),
    "overlap": array("states", numbers(0.3, 0.9), any_dtype=True),
    "advantages": array("states", floats, any_dtype=True),
}
LAM = array("n 1", numbers(0.5, 2.0), "n length", *BESIDE, any_dtype=True)


def door(name: str, correction: Correction) -> Door:
    """`Correction.weights`, with the fields that the correction needs and a mask."""
    needed = {"log_ratio", "mask", *correction.needs}
    given = {field: each for field, each in FIELDS.items() if field in needed}
    if correction.carries_reference_ratio:
        given["log_reference_ratio"] = array("n length")

    def weights(log_ratio: Any, **fields: Any) -> TokenWeights:
        return correction.weights(log_ratio, **fields)

    return Door(weights, given, name=f"estimators.corrections.{name}.weights")


def with_lam(log_ratio: Any, lam: Any) -> TokenWeights:
    """The weights of a correction with a λ of an array."""
    return estimators.get("obrs", lam=lam).weights(log_ratio)


def in_the_limit(name: str) -> Door:
    """`Correction.in_the_limit` of a correction that looks at the batch."""
    correction = CORRECTIONS[name]

    def limit(log_ratio: Values, probability: Values) -> TokenWeights:
        return correction.in_the_limit(Tokens(log_ratio), probability).weights(log_ratio)

    given = {"log_ratio": array("n *length"), "probability": array("n", shares)}
    return Door(limit, given, name=f"estimators.corrections.{name}.in_the_limit")


DOORS = (
    *(door(name, correction) for name, correction in CORRECTIONS.items()),
    Door(Tokens, FIELDS, name="estimators.corrections.inputs.Tokens"),
    Door(with_lam, {"log_ratio": array("*n *length"), "lam": LAM}, name="estimators.corrections.obrs.weights[lam]"),
    *(in_the_limit(name) for name in ("m2po", "batch_normalize(tis)")),
    Door(
        lambda **arrays: at_budget(estimators.get("obrs"), **arrays),
        {
            "policy_log_probs": array("states vocab", laws),
            "actor_log_probs": array("states vocab", laws),
            "acceptance_rate": array("states", numbers(0.2, 0.8), "", any_dtype=True),
        },
        name="estimators.corrections.at_budget.at_budget",
    ),
    Door(with_tail, {"log_probs": array("... k", laws, any_shape=True)}),
    Door(
        lambda **arrays: expected_with_tail(JACKPOT, **arrays),
        STORED | {"log_reference_ratio": array("states k")},
        name="estimators.corrections.centring.expected_with_tail",
    ),
    Door(
        coefficients,
        {"expected": array("states k", numbers(0.5, 2.0))}
        | {name: STORED[name] for name in ("policy_log_probs", "actor_log_probs")},
    ),
    Door(lambda **arrays: on_stored(JACKPOT, **arrays), STORED, name="estimators.corrections.centring.on_stored"),
)

_IN = "estimators.corrections"
EXEMPT: Mapping[str, str] = {
    f"{_IN}.correction.Correction.weights": "each registered correction has a door of its own",
    **dict.fromkeys(
        (
            f"{_IN}.{name}.in_the_limit"
            for name in (
                *("batch.BatchNormalized", "batch.SecondMomentMask", "composed.Combined", "composed.RaoBlackwell"),
                "correction.Correction",
            )
        ),
        "one check for all, of the doors m2po.in_the_limit and batch_normalize(tis).in_the_limit",
    ),
    **dict.fromkeys(
        (
            f"{_IN}.{name}.pieces"
            for name in (
                *(
                    "clipped.ClippedObjective",
                    "composed.Centred",
                    "composed.RaoBlackwell",
                    "correction.Correction",
                    "jackpot.Jackpot",
                ),
                *("shaped.ClippedWeight", "shaped.TaperedWeight", "token.NoCorrection"),
                *("jackpot.OverlapTruncatedImportanceSampling", "token.ImportanceSampling", "token.RejectionSampling"),
                *("token.TruncatedImportanceSampling", "composed.Centred"),
            )
        ),
        "called by `path` with the overlap that it has computed",
    ),
    f"{_IN}.pieces.Piece": "a number or a path of thresholds, which `path` checks",
    f"{_IN}.inputs.only_live": "called by `Correction.weights` after its checks",
    f"{_IN}.parameters.log_of": "any number or array, made like another",
}
"""Public functions that take arrays and have no door, with the reason."""
