"""Against verl's rollout correction, its semantics written out as loops, and where they differ from ours.

Read from the release 0.9.1, `verl/trainer/ppo/rollout_corr_helper.py`. It has IcePop, and its ESS clamps weights
from above alone; at b178a3c (2026-01-29) there was no IcePop, and the clamp was to [1/C, C]. Every trap that has
caught somebody has a test of that name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import log_ratios
from jackpot_sim.estimators import Aggregate, batch_normalize, combined

SAFETY = 20.0
EPSILON = 1e-8


def batch(scale: float = 0.5, seed: int = 0, rows: int = 12, length: int = 7) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    mask = np.arange(length) < generator.integers(1, length + 1, size=(rows, 1))
    return generator.normal(scale=scale, size=mask.shape), mask


def clamp(x: float) -> float:
    return min(max(x, -SAFETY), SAFETY)


def live(log_ratio: Any, mask: Any) -> list[list[float]]:
    return [[float(x) for x, kept in zip(*row, strict=True) if kept] for row in zip(log_ratio, mask, strict=True)]


def verl_weights(log_ratio: Any, mask: Any, level: str, clip: float, normalise: bool = False) -> list[list[float]]:
    """The weights of the live tokens."""
    rows = live(log_ratio, mask)
    if level == "token":
        weights = [[min(math.exp(clamp(x)), clip) for x in row] for row in rows]
        mean = sum(sum(row) for row in weights) / sum(len(row) for row in weights)
    else:
        weights = [[min(math.exp(clamp(sum(row))), clip)] * len(row) for row in rows]
        mean = sum(row[0] for row in weights) / len(weights)
    return [[w / mean for w in row] for row in weights] if normalise else weights


def verl_icepop(log_ratio: Any, mask: Any, level: str, low: float, high: float) -> list[list[float]]:
    """The weights of the live tokens: the ratio, or 0 outside the band, of each token or of its sequence."""
    weights = verl_weights(log_ratio, mask, level, math.inf)
    return [[w if low <= w <= high else 0.0 for w in row] for row in weights]


def verl_ess(weights: list[list[float]]) -> float:
    """The ESS of a batch's weights, each counted at every live token."""
    values = [w for row in weights for w in row]
    mean = sum(values) / len(values)
    return len(values) / sum((w / (mean + EPSILON)) ** 2 for w in values)


def verl_statistic(x: float, kind: str) -> float:
    x = clamp(x)
    return {"k1": -x, "k2": x * x / 2, "k3": math.exp(x) - 1 - x}[kind]


def verl_mask(log_ratio: Any, mask: Any, option: str, low: float, high: float) -> list[list[bool]]:
    """Which live tokens stay. k1 compares −ℓ with log low and log high; k2 and k3 with `high` alone."""
    *level, kind = option.split("_")

    def inside(statistic: float) -> bool:
        return math.log(low) <= statistic <= math.log(high) if kind == "k1" else statistic <= high

    kept = []
    for row in live(log_ratio, mask):
        statistics = [verl_statistic(x, kind) for x in row]
        if level == ["token"]:
            kept.append([inside(s) for s in statistics])
        else:
            how = {"sum": sum, "max": max, "mean": lambda values: sum(values) / (len(values) + EPSILON)}[level[1]]
            kept.append([inside(how(statistics))] * len(row))
    return kept


def ours(correction: Any, log_ratio: Any, mask: Any) -> tuple[list[list[float]], list[list[bool]]]:
    found = correction.weights(log_ratio, mask=mask)
    return live(found.weight, mask), [[x == 1 for x in row] for row in live(found.accept, mask)]


def flat(rows: list[list[Any]]) -> Any:
    return np.array([x for row in rows for x in row])


# --------------------------------------------------------------------- weights


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("level", "name"), [("token", "tis"), ("sequence", "sequence-tis")])
@pytest.mark.parametrize("normalise", [False, True])
def test_truncated_weights_are_verls(level: str, name: str, scale: float, normalise: bool) -> None:
    log_ratio, mask = batch(scale)
    correction = estimators.get(name, clip=2.0)
    weights, _ = ours(batch_normalize(correction) if normalise else correction, log_ratio, mask)
    expected = flat(verl_weights(log_ratio, mask, level, 2.0, normalise))
    # verl's clamp lets no weight fall below e^−20.
    np.testing.assert_allclose(flat(weights), expected, rtol=1e-12, atol=math.exp(-SAFETY) * 20)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
@pytest.mark.parametrize(("level", "name"), [("token", "icepop"), ("sequence", "sequence-mis")])
def test_icepop_is_verls_but_for_what_counts(level: str, name: str, scale: float) -> None:
    low, high = 0.5, 5.0
    dropped = 0
    for seed in range(6):
        log_ratio, mask = batch(scale, seed)
        weights, kept = ours(estimators.get(name, low=low, high=high), log_ratio, mask)
        expected = flat(verl_icepop(log_ratio, mask, level, low, high))
        np.testing.assert_allclose(np.where(flat(kept), flat(weights), 0.0), expected, rtol=1e-12)
        dropped += int((expected == 0).sum())
    assert dropped


def test_trap_verls_icepop_keeps_the_token_in_the_count() -> None:
    # verl gives the token a weight of 0 and leaves the response mask alone, so that its token mean counts it; ours
    # rejects the token, which the `accepted` denominator then leaves out and `proposed` counts, as verl does.
    log_ratio, mask = batch(1.0, 4)
    found = estimators.get("icepop", low=0.5, high=2.0).weights(log_ratio, mask=mask)
    weights = flat(verl_icepop(log_ratio, mask, "token", 0.5, 2.0))
    verl = weights.sum() / len(weights)
    total = float((found.accept * found.weight)[mask].sum())
    assert total / int(mask.sum()) == pytest.approx(verl, rel=1e-12)
    rate = float(found.accept[mask].mean())
    assert 0.1 < rate < 0.9
    assert total / float(found.accept[mask].sum()) == pytest.approx(verl / rate, rel=1e-12)


def test_trap_the_safety_clamp_gives_weight_to_what_the_policy_never_writes() -> None:
    log_ratio, mask = np.array([[-math.inf, 30.0]]), np.ones((1, 2), dtype=bool)
    assert verl_weights(log_ratio, mask, "token", math.inf) == [[math.exp(-20), math.exp(20)]]
    assert ours(estimators.get("is"), log_ratio, mask)[0] == [[0.0, math.exp(30)]]


def test_trap_the_safety_clamp_acts_on_each_token_of_a_sequences_mask() -> None:
    # S = 30 − 20: verl sees 20 − 20 = 0, a ratio of 1, and keeps a sequence whose ratio is e^10.
    log_ratio, mask = np.array([[30.0, -20.0]]), np.ones((1, 2), dtype=bool)
    assert verl_mask(log_ratio, mask, "seq_sum_k1", 0.5, 2.0) == [[True, True]]
    correction = estimators.get("sequence-mask-k1", low=0.5, high=2.0, aggregate="sum", inverted=True)
    assert ours(correction, log_ratio, mask)[1] == [[False, False]]


def test_trap_sequence_means_the_sum_in_verl_and_the_mean_in_ms_swift() -> None:
    log_ratio, mask = np.log([[1.2, 1.2, 1.2]]), np.ones((1, 3), dtype=bool)
    assert verl_weights(log_ratio, mask, "sequence", 2.0)[0] == pytest.approx([1.728] * 3)
    assert ours(estimators.get("sequence-tis"), log_ratio, mask)[0][0] == pytest.approx([1.728] * 3)
    assert ours(estimators.get("geometric-tis"), log_ratio, mask)[0][0] == pytest.approx([1.2] * 3)


# ----------------------------------------------------------------------- masks

OPTIONS = [
    ("token_k1", "mask-k1", {"inverted": True}, 0.6, 1.4),
    ("token_k2", "mask-k2", {}, 0.0, 0.1),
    ("token_k3", "mask-k3", {}, 0.0, 0.1),
    ("seq_sum_k1", "sequence-mask-k1", {"inverted": True, "aggregate": "sum"}, 0.3, 3.0),
    ("seq_mean_k1", "sequence-mask-k1", {"inverted": True}, 0.85, 1.1),
    *(
        (f"seq_{how}_{kind}", f"sequence-mask-{kind}", {"aggregate": how}, 0.0, bound)
        for kind in ("k2", "k3")
        for how, bound in (("sum", 0.4), ("mean", 0.1), ("max", 0.3))
    ),
]


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.5])
@pytest.mark.parametrize(("option", "name", "parameters", "low", "high"), OPTIONS, ids=[o[0] for o in OPTIONS])
def test_masks_are_verls(option: str, name: str, parameters: Any, low: float, high: float, scale: float) -> None:
    bounds = {"low": low, "high": high} if name.endswith("k1") else {"bound": high}
    correction = estimators.get(name, **bounds, **parameters)
    kept = []
    for seed in range(8):
        log_ratio, mask = batch(scale, seed)
        kept.append(ours(correction, log_ratio, mask)[1])
        assert kept[-1] == verl_mask(log_ratio, mask, option, low, high)
    assert scale != 0.5 or 0.1 < np.mean(flat([x for each in kept for x in each])) < 0.95


def test_trap_k1_bounds_act_on_the_inverse_ratio() -> None:
    log_ratio, mask = np.log([[1.5, 0.65]]), np.ones((1, 2), dtype=bool)
    assert verl_mask(log_ratio, mask, "token_k1", 0.6, 1.4) == [[True, False]]
    assert ours(estimators.get("mask-k1", low=0.6, high=1.4), log_ratio, mask)[1] == [[False, True]]
    assert ours(estimators.get("mask-k1", low=0.6, high=1.4, inverted=True), log_ratio, mask)[1] == [[True, False]]


def test_several_criteria_and_a_weight_are_combined_as_verl_does() -> None:
    log_ratio, mask = batch(0.4, 3)
    band = estimators.get("mask-k1", low=0.7, high=3.0, inverted=True)
    worst = estimators.get("sequence-mask-k2", bound=0.2)
    correction = combined(batch_normalize(estimators.get("tis", clip=2.0)), band, worst)
    weights, kept = ours(correction, log_ratio, mask)
    np.testing.assert_allclose(flat(weights), flat(verl_weights(log_ratio, mask, "token", 2.0, True)), rtol=1e-12)
    by_token = flat(verl_mask(log_ratio, mask, "token_k1", 0.7, 3.0))
    by_sequence = flat(verl_mask(log_ratio, mask, "seq_max_k2", 0.0, 0.2))
    np.testing.assert_array_equal(flat(kept), by_token & by_sequence)
    assert 0 < np.mean(flat(kept)) < min(np.mean(by_token), np.mean(by_sequence))


# ----------------------------------------------------------------------- traps


@pytest.mark.parametrize("placeholder", [0.0, 1.0, math.nan, -math.inf])
@pytest.mark.parametrize("name", ["tis", "mask-k3", "sequence-tis", "geometric-tis", "sequence-mask-k3", "m2po"])
def test_trap_placeholder_log_probs_of_tool_tokens_do_not_count(name: str, placeholder: float) -> None:
    # 0.0 for tokens that no policy wrote (SkyRL, ROLL) and +1.0 (open-instruct) fake a divergence.
    policy, actor = np.array([[-1.0, -3.0, -0.5]]), np.array([[-1.1, placeholder, -0.4]])
    mask = np.array([[True, False, True]])
    found = estimators.get(name).weights(policy - actor, mask=mask)
    expected = estimators.get(name).weights((policy - actor)[:, [0, 2]])
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_array_equal(x, [[y[0, 0], 0.0, y[0, 1]]])


def test_trap_the_denominator_after_rejection() -> None:
    # verl rejects by taking tokens out of the response mask, and its token mean then counts kept tokens;
    # the original count gives an update smaller by the acceptance rate.
    log_ratio, mask = batch(0.5, 1)
    accept = estimators.get("mask-k2", bound=0.1).weights(log_ratio, mask=mask).accept
    losses = np.where(mask, 1.0, 0.0)
    over_kept = (losses * accept).sum() / accept.sum()
    over_all = (losses * accept).sum() / mask.sum()
    rate = accept[mask].mean()
    assert 0.1 < rate < 0.9
    assert over_kept == pytest.approx(1.0)
    assert over_all == pytest.approx(rate)


# ----------------------------------------------------------------- diagnostics


def test_kl_figures_are_verls() -> None:
    log_ratio, mask = batch(0.5, 2)
    values = [x for row in live(log_ratio, mask) for x in row]
    for kind in ("k1", "k2", "k3"):
        found = log_ratios.masked_mean(getattr(log_ratios, kind)(log_ratio), mask)
        assert float(found) == pytest.approx(sum(verl_statistic(x, kind) for x in values) / len(values), rel=1e-13)


def test_chi_square_figures_are_verls() -> None:
    log_ratio, mask = batch(0.5, 2)
    rows = live(log_ratio, mask)
    tokens = [math.exp(clamp(x)) ** 2 for row in rows for x in row]
    sequences = [math.exp(2 * clamp(sum(row))) for row in rows]
    for how, squares in ((None, tokens), (Aggregate.SUM, sequences)):
        found = float(log_ratios.chi_square(log_ratio, mask, how))
        assert found == pytest.approx(sum(squares) / len(squares) - 1, rel=1e-12)


def test_ess_of_tokens_is_verls() -> None:
    log_ratio, mask = batch(1.0, 2)
    for correction, weights in (
        (estimators.get("tis", clip=2.0), verl_weights(log_ratio, mask, "token", 2.0)),
        (estimators.get("icepop", low=0.5, high=5.0), verl_icepop(log_ratio, mask, "token", 0.5, 5.0)),
    ):
        found = correction.weights(log_ratio, mask=mask)
        ess = float(log_ratios.effective_sample_size(found.accept * found.weight, mask))
        assert ess == pytest.approx(verl_ess(weights), rel=1e-7)


def test_trap_verls_ess_of_sequences_counts_tokens() -> None:
    log_ratio, mask = batch(0.5, 2)
    weight = estimators.get("sequence-tis", clip=2.0).weights(log_ratio, mask=mask).weight
    by_token = float(log_ratios.effective_sample_size(weight, mask))
    assert by_token == pytest.approx(verl_ess(verl_weights(log_ratio, mask, "sequence", 2.0)), rel=1e-7)
    by_sequence = float(log_ratios.effective_sample_size(weight[:, 0]))
    assert abs(by_sequence - by_token) > 0.005


def test_trap_empty_rows_count_in_verls_sequence_figures() -> None:
    # A row without a token has S = 0 there, and adds a ratio of 1 to the mean over sequences.
    log_ratio, mask = batch(0.5, 2)
    mask[::3] = False
    rows = live(log_ratio, mask)
    verl = sum(math.exp(2 * clamp(sum(row))) for row in rows) / len(rows) - 1
    full = [row for row in rows if row]
    honest = sum(math.exp(2 * sum(row)) for row in full) / len(full) - 1
    found = float(log_ratios.chi_square(log_ratio, mask, Aggregate.SUM))
    assert found == pytest.approx(honest, rel=1e-12)
    assert verl == pytest.approx(honest * len(full) / len(rows), rel=1e-12)


def test_trap_the_safety_clamp_bounds_verls_chi_square() -> None:
    log_ratio, mask = np.array([[12.0, 13.0]]), np.ones((1, 2), dtype=bool)
    assert float(log_ratios.chi_square(log_ratio, mask, Aggregate.SUM)) == pytest.approx(math.exp(50), rel=1e-12)
    assert math.exp(2 * clamp(25.0)) == math.exp(40)
