"""The theorems behind OBRS as laws, which broken implementations must break.

Each law is a function `check_…(impl, pair)` of an implementation and two laws. It holds for the
project's own implementation on whatever hypothesis finds; and for each law there are implementations,
broken on purpose, that it must refuse. T1 and T2 are those of `jackpot_sim.core.obrs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import obrs
from jackpot_sim.core.numerics import log_ratio
from tests.cases import each, every
from tests.core.laws import (
    F_DIVERGENCES,
    Law,
    Pair,
    feasible_rules,
    law_pairs,
    meet_budget,
    normalised,
    of_probabilities,
)

SHARES = (1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0)
"""Budgets to try, as shares of the attainable maximum."""


@dataclass(frozen=True)
class Implementation:
    """What the laws are about: the four functions of `jackpot_sim.core.obrs`."""

    acceptance_probability: Callable[[Any, Any], Any]
    overlap: Callable[[Any, Any, Any], Any]
    accepted_log_probs: Callable[[Any, Any, Any], Any]
    solve_lam: Callable[[Any, Any, Any], Any]


OURS = Implementation(obrs.acceptance_probability, obrs.overlap, obrs.accepted_log_probs, obrs.solve_lam)


# ------------------------------------------------------------------- helpers


def probabilities(log_probs: Any) -> Any:
    return np.exp(np.asarray(log_probs, dtype=np.longdouble))


def reference_terms(pair: Pair, lam: float) -> Any:
    """min(q, p/λ) in extended precision."""
    return np.minimum(pair.q, pair.p / np.longdouble(lam))


def lam_grid(pair: Pair) -> list[float]:
    """Below, at, between and above the kinks of Z, ascending."""
    kinks = np.unique(np.clip(pair.ratios, 1e-290, 1e290))
    between = np.sqrt(kinks[1:] * kinks[:-1])
    return sorted({float(x) for x in (*kinks, *between, kinks[0] / 10, kinks[-1] * 10, 1.0)})


def no_larger(after: float, before: float, slack: float = 1e-12) -> bool:
    return after <= before * (1 + 1e-9) + slack


def refusal(function: Callable[..., Any], *args: Any) -> str:
    """The message of the ValueError that the call raises, or nothing if it returns."""
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


def budgets(pair: Pair) -> list[float]:
    return [share * pair.attainable for share in SHARES]


# ---------------------------------------------------------------------- laws


def check_divergences_fall_with_lam(impl: Implementation, pair: Pair) -> None:
    """T1: D_f(p‖q̃_λ) does not increase with λ, and never passes the value for q on supp p."""
    conditioned = np.where(np.isfinite(pair.policy), pair.q, 0) / np.longdouble(pair.attainable)
    laws = [probabilities(impl.accepted_log_probs(pair.policy, pair.actor, lam)) for lam in lam_grid(pair)]
    for name, divergence in F_DIVERGENCES.items():
        before = divergence(pair.p, conditioned)
        for accepted in laws:
            after = divergence(pair.p, accepted)
            assert no_larger(after, before), f"{name} rose from {before} to {after}"
            before = after


def check_end_points(impl: Implementation, pair: Pair) -> None:
    """T1: q conditioned on supp p at λ → 0, and p itself for λ ≥ max r where p ≪ q."""
    conditioned = np.where(np.isfinite(pair.policy), pair.q, 0) / np.longdouble(pair.attainable)
    grid = lam_grid(pair)
    if np.min(pair.ratios) > grid[0]:
        lowest = probabilities(impl.accepted_log_probs(pair.policy, pair.actor, grid[0]))
        np.testing.assert_allclose(lowest, conditioned, rtol=1e-11, atol=1e-290)
    if not np.any(np.isfinite(pair.policy) & ~np.isfinite(pair.actor)):
        for lam in (float(np.max(pair.ratios)) * (1 + 1e-12), float(np.max(pair.ratios)) * 10):
            accepted = impl.accepted_log_probs(pair.policy, pair.actor, lam)
            np.testing.assert_allclose(accepted, pair.policy, rtol=1e-12, atol=1e-11)
            for name, divergence in F_DIVERGENCES.items():
                assert abs(divergence(pair.p, probabilities(accepted))) < 1e-11, name


def check_kl_gain(impl: Implementation, pair: Pair) -> None:
    """KL(p‖q̃) ≤ KL(p‖q) for every λ > 0; equal up to min r, and less by a provable amount beyond.

    With x = r/λ, KL(p‖q) − KL(p‖q̃) ≥ Σ_{x<1} q(1 − x + λ x log x) for λ ≤ 1, and T1 carries the value
    at λ = 1 to every larger λ.
    """
    kl, (p, q) = F_DIVERGENCES["kl"], (pair.p, pair.q)
    before = kl(p, q)
    on_actor = q > 0
    r = p[on_actor] / q[on_actor]
    for lam in lam_grid(pair):
        after = kl(p, probabilities(impl.accepted_log_probs(pair.policy, pair.actor, lam)))
        if np.isinf(before):
            assert np.isinf(after)
            continue
        x, scale = r / np.longdouble(min(lam, 1.0)), min(lam, 1.0)
        low = x < 1
        x_log_x = np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)
        gain = float(np.sum((q[on_actor] * (1 - x + scale * x_log_x))[low]))
        assert before - after >= gain * (1 - 1e-9) - 1e-11 * (1 + before)
        if lam <= np.min(r):
            assert abs(before - after) <= 1e-11 * (1 + before)
        if gain > 1e-9 * (1 + before):
            assert after < before


def check_acceptance_is_a_rule_with_that_law(impl: Implementation, pair: Pair) -> None:
    """a ∈ [0, 1], Σ q a = Z = Σ min(q, p/λ), q a / Z is the accepted law, and a is 1 wherever r ≥ λ."""
    on_actor = np.isfinite(pair.actor)
    ratio = log_ratio(pair.policy, pair.actor)
    for lam in lam_grid(pair):
        accept = np.asarray(impl.acceptance_probability(ratio, lam))
        assert np.all((accept >= 0) & (accept <= 1))
        assert np.all(accept[on_actor & (ratio >= math.log(lam) + 1e-9)] == 1)
        z = float(impl.overlap(pair.policy, pair.actor, lam))
        terms = reference_terms(pair, lam)
        assert z == pytest.approx(float(np.sum(terms)), rel=1e-11, abs=1e-300)
        joint = np.where(on_actor, pair.q * accept, 0)
        np.testing.assert_allclose(joint, terms, rtol=1e-11, atol=1e-290)
        accepted = impl.accepted_log_probs(pair.policy, pair.actor, lam)
        assert abs(float(np.sum(probabilities(accepted))) - 1) < 1e-12
        np.testing.assert_allclose(probabilities(accepted), terms / np.sum(terms), rtol=1e-11, atol=1e-290)


def check_no_rule_is_better(impl: Implementation, pair: Pair, others: list[tuple[float, Law]] | None = None) -> None:
    """T2: no rule with the same budget gives a smaller D_f(p‖·), for any f.

    OBRS gets 1e−9 less, which by T1 can only help it: a rule meets its budget up to rounding, and where
    p is tiny that rounding alone moves Neyman's χ² by all of its value.
    """
    if others is None:
        rng = np.random.default_rng(len(pair.policy))
        others = []
        for budget in budgets(pair)[2:]:
            for wish in (rng.random(pair.actor.shape), np.exp(np.clip(log_ratio(pair.policy, pair.actor) / 2, -9, 0))):
                others.append((budget, meet_budget(wish, pair.actor, budget)))
    for full_budget, rule in others:
        budget = full_budget * (1 - 1e-9)
        lam = float(impl.solve_lam(pair.policy, pair.actor, budget))
        z = float(impl.overlap(pair.policy, pair.actor, lam))
        assert z == pytest.approx(budget, rel=1e-9, abs=1e-12)
        best = probabilities(impl.accepted_log_probs(pair.policy, pair.actor, lam))
        for other in (pair.q * rule, 0.9 * z * best + 0.1 * pair.q * rule):
            for name, divergence in F_DIVERGENCES.items():
                value, rival = divergence(pair.p, best), divergence(pair.p, other / np.sum(other))
                assert no_larger(value, rival, 1e-11), f"{name}: {value} at OBRS, {rival} for another rule"


def check_budget_is_met_exactly(impl: Implementation, pair: Pair) -> None:
    """Z(solve_lam(ā)) = ā, up to a few roundings of 1, for every attainable ā."""
    for budget in budgets(pair):
        lam = float(impl.solve_lam(pair.policy, pair.actor, budget))
        z = float(np.sum(reference_terms(pair, lam)))
        at_maximum = budget > pair.attainable - 2e-12
        assert abs(z - budget) < (2e-12 if at_maximum else 2e-14), f"Z is {z} for a budget of {budget}"


def check_lam_is_unique_below_the_maximum(impl: Implementation, pair: Pair) -> None:
    """solve_lam inverts Z where Z falls, and gives min r over the shared support where Z is flat."""
    lowest = float(np.min(pair.ratios))
    if lowest > 1e-290:
        at_maximum = float(impl.solve_lam(pair.policy, pair.actor, pair.attainable))
        assert at_maximum == pytest.approx(lowest, rel=1e-11)
    for lam in lam_grid(pair):
        budget = float(np.sum(reference_terms(pair, lam)))
        slope = float(np.sum(pair.p[pair.p < lam * (1 - 1e-9) * pair.q])) / lam  # −dZ/d log λ
        if budget < pair.attainable - 1e-6 and slope > 1e-9:
            assert float(impl.solve_lam(pair.policy, pair.actor, budget)) == pytest.approx(lam, rel=1e-13 / slope)


def check_budgets_beyond_the_maximum_are_refused(impl: Implementation, pair: Pair) -> None:
    """ā > q(supp p) would accept tokens with p = 0; the error says how much is attainable."""
    for budget in (pair.attainable + 1e-9, pair.attainable + 0.01, 0.0, -0.5):
        message = refusal(impl.solve_lam, pair.policy, pair.actor, budget)
        assert "acceptance_rate" in message
        if budget > 0:
            assert f"{pair.attainable:.9g}"[:6] in message


def check_overlap_in_inverse_lam(impl: Implementation, pair: Pair) -> None:
    """Z(μ = 1/λ) is non-decreasing and concave, and λZ ≤ 1."""
    grid = [lam for lam in lam_grid(pair) if 1e-200 < lam < 1e200]
    mus = [1 / lam for lam in grid]
    values = [float(impl.overlap(pair.policy, pair.actor, 1 / mu)) for mu in mus]
    for i, (lam, value) in enumerate(zip(grid, values, strict=True)):
        assert lam * value <= 1 + 1e-12
        for j in range(i):
            assert value <= values[j] * (1 + 1e-12)
            middle = float(impl.overlap(pair.policy, pair.actor, 2 / (mus[i] + mus[j])))
            assert middle >= (value + values[j]) / 2 - 1e-13


def check_overlap_at_one(impl: Implementation, pair: Pair) -> None:
    """Z(1) = 1 − TV(p, q)."""
    distance = float(F_DIVERGENCES["total_variation"](pair.p, pair.q))
    assert float(impl.overlap(pair.policy, pair.actor, 1.0)) == pytest.approx(1 - distance, abs=1e-13)


def check_small_budgets_give_the_policy(impl: Implementation, pair: Pair) -> None:
    """For ā ≤ 1/max r, where p ≪ q, λ = 1/ā and the accepted law is p itself."""
    if np.any(np.isfinite(pair.policy) & ~np.isfinite(pair.actor)) or np.max(pair.ratios) > 1e6:
        return
    for share in (1 - 1e-9, 0.5, 1e-3):
        budget = share / float(np.max(pair.ratios))
        lam = float(impl.solve_lam(pair.policy, pair.actor, budget))
        if budget < pair.attainable - 1e-11:
            assert lam * budget == pytest.approx(1, rel=1e-10)
        accepted = impl.accepted_log_probs(pair.policy, pair.actor, lam)
        np.testing.assert_allclose(accepted, pair.policy, rtol=1e-9, atol=1e-9)


def check_disjoint_supports(impl: Implementation, pair: Pair) -> None:
    """Nothing can be accepted: Z = 0, and there is no law and no λ to give."""
    hole = np.full_like(pair.policy, -np.inf)
    policy, actor = np.concatenate([pair.policy, hole]), np.concatenate([hole, pair.actor])
    assert float(impl.overlap(policy, actor, 1.0)) == 0
    assert "share no token" in refusal(impl.accepted_log_probs, policy, actor, 1.0)
    assert "share no token" in refusal(impl.solve_lam, policy, actor, 0.5)


def check_one_token(impl: Implementation, pair: Pair) -> None:
    """With one token, Z = min(1, 1/λ), the accepted law is certain, and λ = 1/ā."""
    certain = np.zeros(1)
    for lam in (0.25, 1.0, 4.0):
        assert float(impl.overlap(certain, certain, lam)) == pytest.approx(min(1, 1 / lam), rel=1e-15)
        assert float(impl.accepted_log_probs(certain, certain, lam)[0]) == pytest.approx(0, abs=1e-15)
    for budget in (1e-9, 0.25, 1.0):
        assert float(impl.solve_lam(certain, certain, budget)) == pytest.approx(1 / budget, rel=1e-14)


def check_equal_laws(impl: Implementation, pair: Pair) -> None:
    """With p = q, a = min(1, 1/λ) for every token, and the accepted law stays q."""
    for lam in (1e-3, 1.0, 1.5, 1e3):
        assert float(impl.overlap(pair.actor, pair.actor, lam)) == pytest.approx(min(1, 1 / lam), rel=1e-13)
        accepted = impl.accepted_log_probs(pair.actor, pair.actor, lam)
        np.testing.assert_allclose(accepted, pair.actor, rtol=1e-13, atol=1e-13)
    for budget in (1e-6, 0.3, 1.0):
        assert float(impl.solve_lam(pair.actor, pair.actor, budget)) == pytest.approx(1 / budget, rel=1e-12)


def check_extreme_lam(impl: Implementation, pair: Pair) -> None:
    """λ of 1e−12 and of 1e12 keep all their digits."""
    for lam in (1e-12, 1e12):
        terms = reference_terms(pair, lam)
        z = float(impl.overlap(pair.policy, pair.actor, lam))
        assert z == pytest.approx(float(np.sum(terms)), rel=1e-12)
        accepted = probabilities(impl.accepted_log_probs(pair.policy, pair.actor, lam))
        np.testing.assert_allclose(accepted, terms / np.sum(terms), rtol=1e-11, atol=1e-290)


def check_float32(impl: Implementation, pair: Pair) -> None:
    """float32 in, float32 out, and right to its own precision."""
    if not pair.moderate:
        return
    narrow = Pair(pair.policy.astype(np.float32), pair.actor.astype(np.float32))
    for lam in (0.5, 1.0, 3.0):
        z = impl.overlap(narrow.policy, narrow.actor, lam)
        accepted = impl.accepted_log_probs(narrow.policy, narrow.actor, lam)
        assert z.dtype == accepted.dtype == np.float32
        assert float(z) == pytest.approx(float(np.sum(reference_terms(narrow, lam))), rel=3e-5)
    lam = impl.solve_lam(narrow.policy, narrow.actor, 0.4 * pair.attainable)
    assert lam.dtype == np.float32
    assert float(np.sum(reference_terms(narrow, float(lam)))) == pytest.approx(0.4 * pair.attainable, rel=3e-5)


def check_permutations(impl: Implementation, pair: Pair) -> None:
    """Renaming the tokens renames the accepted law, and changes neither Z nor λ."""
    order = np.random.default_rng(1).permutation(len(pair.policy))
    renamed = Pair(pair.policy[order], pair.actor[order])
    for lam in (0.5, 1.0, 2.0):
        z, z_renamed = (float(impl.overlap(x.policy, x.actor, lam)) for x in (pair, renamed))
        assert z_renamed == pytest.approx(z, rel=1e-14)
        accepted = np.asarray(impl.accepted_log_probs(pair.policy, pair.actor, lam))
        accepted_renamed = impl.accepted_log_probs(renamed.policy, renamed.actor, lam)
        np.testing.assert_allclose(accepted_renamed, accepted[order], rtol=1e-13, atol=1e-13)
    lams = [float(impl.solve_lam(x.policy, x.actor, 0.6 * pair.attainable)) for x in (pair, renamed)]
    spread = np.sum(pair.p[pair.shared & (pair.p < lams[0] * pair.q)]) / lams[0]
    if spread > 1e-3:  # elsewhere λ is ill-conditioned, though Z is not
        assert lams[1] == pytest.approx(lams[0], rel=1e-10)


LAWS: dict[str, Callable[[Implementation, Pair], None]] = {
    name.removeprefix("check_"): law for name, law in list(globals().items()) if name.startswith("check_")
}


# ------------------------------------------------- ours keeps every law


def _seeded(seed: int, vocab: int, scale: float) -> Pair:
    rng = np.random.default_rng(seed)
    actor = rng.normal(size=vocab)
    return Pair(normalised(actor + scale * rng.normal(size=vocab)), normalised(actor))


CASES = {
    "mild": _seeded(0, 6, 0.3),
    "wild": _seeded(1, 8, 2.0),
    "small": _seeded(2, 3, 1.0),
    "quarters": Pair(of_probabilities(0.5, 0.25, 0.125, 0.125), of_probabilities(0.125, 0.25, 0.125, 0.5)),
    "policy hole": Pair(of_probabilities(0.6, 0.4, 0.0), of_probabilities(0.3, 0.3, 0.4)),
    "actor hole": Pair(of_probabilities(0.5, 0.2, 0.3), of_probabilities(0.6, 0.4, 0.0)),
    "holes": Pair(of_probabilities(0.0, 0.1, 0.6, 0.3), of_probabilities(0.2, 0.7, 0.0, 0.1)),
    "equal": Pair(of_probabilities(0.7, 0.2, 0.1), of_probabilities(0.7, 0.2, 0.1)),
    "extreme": Pair(normalised([0.0, -700.0, -1.0]), normalised([-700.0, 0.0, -1.0])),
    "nearly one": Pair(normalised([0.0, -30.0]), normalised([-30.0, 0.0])),
}


def check_law(law: str, implementation: Any, pair: Pair) -> None:
    """The law by that name; it asserts."""
    LAWS[law](implementation, pair)


@each("law, case", every(LAWS, CASES))
def test_law_on_cases(law: str, case: str) -> None:
    check_law(law, OURS, CASES[case])


@pytest.mark.parametrize("law", LAWS)
@given(pair=law_pairs())
def test_law(law: str, pair: Pair) -> None:
    check_law(law, OURS, pair)


@given(data=st.data(), pair=law_pairs())
def test_no_drawn_rule_is_better(data: st.DataObject, pair: Pair) -> None:
    check_no_rule_is_better(OURS, pair, [data.draw(feasible_rules(pair))])


@pytest.mark.parametrize("law", ["end_points", "small_budgets_give_the_policy", "kl_gain"])
@given(pair=law_pairs(absolutely_continuous=True))
def test_law_where_the_actor_covers_the_policy(law: str, pair: Pair) -> None:
    check_law(law, OURS, pair)


LARGE_VOCAB = 151_936


@pytest.mark.parametrize("law", ["budget_is_met_exactly", "overlap_at_one", "small_budgets_give_the_policy", "float32"])
def test_law_on_a_large_vocabulary(law: str) -> None:
    check_law(law, OURS, _seeded(3, LARGE_VOCAB, 0.5))


def test_no_rule_is_better_on_a_large_vocabulary() -> None:
    pair = _seeded(4, LARGE_VOCAB, 0.5)
    wish = np.random.default_rng(5).random(LARGE_VOCAB)
    check_no_rule_is_better(OURS, pair, [(0.8, meet_budget(wish, pair.actor, 0.8))])


def test_divergences_fall_with_lam_on_a_large_vocabulary() -> None:
    pair = _seeded(6, LARGE_VOCAB, 0.5)
    for name, divergence in F_DIVERGENCES.items():
        values = [
            divergence(pair.p, probabilities(obrs.accepted_log_probs(pair.policy, pair.actor, lam)))
            for lam in (1e-3, 0.7, 1.0, 2.0)
        ]
        assert values == sorted(values, reverse=True), name


@pytest.mark.nightly
@each("law, seed", every(LAWS, range(20)))
def test_law_on_long_laws(law: str, seed: int) -> None:
    vocab = int(np.random.default_rng(seed).integers(13, 120))
    check_law(law, OURS, _seeded(seed, vocab, [0.1, 1.0, 3.0, 10.0][seed % 4]))


# --------------------------------------------- against a convex solver (T2)

KL_LIKE = ("kl", "reverse_kl", "jensen_shannon", "chi_square", "neyman", "hellinger", "alpha_3")
"""Strictly convex f: the optimal rule is unique, so it can be compared too."""


def solver_objective(name: str, p: Law, accepted: Any) -> Any:
    """D_f(p‖accepted) as a convex cvxpy expression of the accepted law."""
    import cvxpy as cp

    match name:
        case "kl":
            return cp.sum(cp.rel_entr(p, accepted))
        case "reverse_kl":
            return cp.sum(cp.rel_entr(accepted, p))
        case "total_variation":
            return cp.norm1(accepted - p) / 2
        case "jensen_shannon":
            middle = (accepted + p) / 2
            return (cp.sum(cp.rel_entr(p, middle)) + cp.sum(cp.rel_entr(accepted, middle))) / 2
        case "chi_square":
            return cp.sum(cp.multiply(p**2, cp.inv_pos(accepted))) - 1
        case "neyman":
            return cp.sum(cp.multiply(1 / p, cp.square(accepted))) - 1
        case "hellinger":
            return 1 - cp.sum(cp.multiply(np.sqrt(p), cp.sqrt(accepted)))
        case "alpha_half":
            return 4 * (1 - cp.sum(cp.multiply(np.sqrt(p), cp.sqrt(accepted))))
        case "alpha_2":
            return (cp.sum(cp.multiply(p**2, cp.inv_pos(accepted))) - 1) / 2
        case "alpha_3":
            return (cp.sum(cp.multiply(p, cp.power(cp.multiply(1 / p, accepted), -2))) - 1) / 6
        case "triangular":  # Σ (p − s)²/(p + s) = Σ [(p + s) − 4ps/(p + s)], and ps/(p + s) = p − p²/(p + s)
            return cp.sum(4 * cp.multiply(p**2, cp.inv_pos(p + accepted)) - 3 * p + accepted)
        case _:
            raise KeyError(name)


def solve_by_cone_program(name: str, pair: Pair, budget: float) -> tuple[float, Law]:
    """The least D_f(p‖s/ā) over accepted joint masses s_i = q_i a_i in [0, q_i] with Σ s = ā."""
    import cvxpy as cp

    p, q = np.exp(pair.policy), np.exp(pair.actor)
    mass = cp.Variable(len(q))
    objective = solver_objective(name, p, mass / budget)
    problem = cp.Problem(cp.Minimize(objective), [mass >= 0, mass <= q, cp.sum(mass) == budget])
    problem.solve(solver="CLARABEL")
    assert problem.status == "optimal"
    return float(problem.value), np.asarray(mass.value)


def check_convex_solver_agrees(impl: Implementation, name: str, pair: Pair, budget: float) -> None:
    """T2 by another road: the solver finds the same optimum, and does not beat it."""
    best, mass = solve_by_cone_program(name, pair, budget)
    lam = float(impl.solve_lam(pair.policy, pair.actor, budget))
    accepted = probabilities(impl.accepted_log_probs(pair.policy, pair.actor, lam))
    value = float(F_DIVERGENCES[name](pair.p, accepted))
    assert value <= best + 2e-6 * (1 + best), f"the solver is better: {best} against {value}"
    assert value >= best - 2e-6 * (1 + best), f"better than the optimum: {value} against {best}"
    if name in KL_LIKE:
        np.testing.assert_allclose(np.asarray(accepted * budget, dtype=np.float64), mass, atol=2e-3)


SOLVER_CASES = [(seed, 3 + seed, budget) for seed, budget in enumerate((0.25, 0.5, 0.7, 0.8, 0.9, 0.97))]


@each("name, case", every(F_DIVERGENCES, SOLVER_CASES))
def test_convex_solver_agrees(name: str, case: tuple[int, int, float]) -> None:
    seed, vocab, budget = case
    pytest.importorskip("cvxpy")
    check_convex_solver_agrees(OURS, name, _seeded(100 + seed, vocab, 0.8), budget)


@pytest.mark.parametrize("name", ["kl", "total_variation", "chi_square"])
def test_convex_solver_refuses_broken_rules(name: str) -> None:
    pytest.importorskip("cvxpy")
    for mutant in ("square root of the ratio", "likeliest tokens of the actor first", "thinning"):
        with pytest.raises(AssertionError):
            check_convex_solver_agrees(MUTANTS[mutant], name, _seeded(102, 5, 0.8), 0.7)


# ------------------------------------------- broken implementations, refused


def from_rule(rule: Callable[[Law, Law, float], Law]) -> Implementation:
    """A consistent implementation of another rule a(log p, log q, λ), with λ found by bisection."""

    def overlap(policy: Law, actor: Law, lam: float) -> Any:
        return np.sum(np.exp(actor) * rule(policy, actor, lam))

    def accepted(policy: Law, actor: Law, lam: float) -> Law:
        with np.errstate(divide="ignore", invalid="ignore"):
            joint = np.exp(actor) * rule(policy, actor, lam)
            return np.asarray(np.log(joint / np.sum(joint)))

    def solve(policy: Law, actor: Law, budget: float) -> Any:
        low, high = -600.0, 600.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if overlap(policy, actor, math.exp(middle)) > budget else (low, middle)
        return np.exp(high)

    # The rules below depend on the pair; through the ratio alone an actor of equal parts must do.
    def accept(ratio: Law, lam: float) -> Law:
        return rule(ratio, np.zeros_like(ratio), lam)

    return Implementation(accept, overlap, accepted, solve)


def _likeliest_first(policy: Law, actor: Law, lam: float) -> Law:
    order = np.argsort(-actor, kind="stable")
    q = np.exp(actor[order])
    room = min(1.0, 1 / lam) - np.concatenate([[0.0], np.cumsum(q)[:-1]])
    accept = np.empty_like(actor)
    accept[order] = np.clip(room / np.where(q > 0, q, 1.0), 0, 1)
    return accept


def _ratio_power(power: float) -> Callable[[Law, Law, float], Law]:
    return lambda policy, actor, lam: np.exp(np.minimum(0, power * (log_ratio(policy, actor) - math.log(lam))))


def _times_lam(policy: Law, actor: Law, lam: float) -> Law:
    return np.asarray(np.exp(np.minimum(0, log_ratio(policy, actor) + math.log(lam))))


def _floored(policy: Law, actor: Law, lam: float) -> Law:
    return np.asarray(np.exp(np.minimum(0, np.maximum(log_ratio(policy, actor), -5.0) - math.log(lam))))


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    def narrow(policy: Law, actor: Law, third: Any) -> Any:
        return np.asarray(function(policy.astype(np.float32), actor.astype(np.float32), third), dtype=np.float64)

    return narrow


def _without_last_token(policy: Law, actor: Law, lam: float) -> Any:
    return np.sum(np.exp(np.minimum(actor, policy - math.log(lam)))[:-1])


def _last_token_favoured(policy: Law, actor: Law, lam: float) -> Law:
    accepted = np.array(obrs.accepted_log_probs(policy, actor, lam))
    accepted[-1] += 0.01
    return normalised(accepted)


def _as_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: np.asarray(function(*args), dtype=np.float64)


def _unnormalised(policy: Law, actor: Law, lam: float) -> Law:
    return np.asarray(np.minimum(actor, policy - math.log(lam)))


def _lam_without_refusal(policy: Law, actor: Law, budget: float) -> Any:
    attainable = np.sum(np.exp(actor[np.isfinite(policy)]))
    return obrs.solve_lam(policy, actor, min(max(budget, 1e-9), attainable))


MUTANTS: dict[str, Implementation] = {
    "ratio times lam": from_rule(_times_lam),
    "square root of the ratio": from_rule(_ratio_power(0.5)),
    "square of the ratio": from_rule(_ratio_power(2.0)),
    "likeliest tokens of the actor first": from_rule(_likeliest_first),
    "thinning": from_rule(lambda policy, actor, lam: np.full_like(actor, min(1.0, 1 / lam))),
    "ratio floored": from_rule(_floored),
    "acceptance clipped at 0.999": from_rule(lambda p, q, lam: np.minimum(_ratio_power(1.0)(p, q, lam), 0.999)),
    "acceptance alone clipped at 0.999": replace(
        OURS, acceptance_probability=lambda ratio, lam: np.minimum(obrs.acceptance_probability(ratio, lam), 0.999)
    ),
    "lam off by 1e-6": replace(OURS, solve_lam=lambda p, q, a: obrs.solve_lam(p, q, a) * (1 + 1e-6)),
    "lam is the inverse budget": replace(OURS, solve_lam=lambda p, q, a: np.float64(1 / a)),
    "lam never refuses": replace(OURS, solve_lam=_lam_without_refusal),
    "not normalised": replace(OURS, accepted_log_probs=_unnormalised),
    "accepted law is the actor's": replace(OURS, accepted_log_probs=lambda policy, actor, lam: actor),
    "accepted law at the inverse lam": replace(
        OURS, accepted_log_probs=lambda p, q, lam: obrs.accepted_log_probs(p, q, 1 / lam)
    ),
    "overlap of the squares": replace(OURS, overlap=lambda p, q, lam: obrs.overlap(p, q, lam) ** 2),
    "overlap divided by lam": replace(OURS, overlap=lambda p, q, lam: obrs.overlap(p, q, 1.0) / lam),
    "overlap without the last token": replace(OURS, overlap=_without_last_token),
    "overlap floored": replace(OURS, overlap=lambda p, q, lam: np.maximum(obrs.overlap(p, q, lam), 1e-6)),
    "last token favoured": replace(OURS, accepted_log_probs=_last_token_favoured),
    "everything in float32": replace(
        OURS,
        overlap=_in_float32(obrs.overlap),
        accepted_log_probs=_in_float32(obrs.accepted_log_probs),
        solve_lam=_in_float32(obrs.solve_lam),
    ),
    "float64 out": replace(OURS, overlap=_as_float64(obrs.overlap)),
}

REFUSALS = [
    ("divergences_fall_with_lam", "ratio times lam"),
    ("divergences_fall_with_lam", "accepted law at the inverse lam"),
    ("divergences_fall_with_lam", "not normalised"),
    ("end_points", "accepted law is the actor's"),
    ("end_points", "square root of the ratio"),
    ("end_points", "ratio floored"),
    ("kl_gain", "accepted law is the actor's"),
    ("kl_gain", "likeliest tokens of the actor first"),
    ("acceptance_is_a_rule_with_that_law", "acceptance clipped at 0.999"),
    ("acceptance_is_a_rule_with_that_law", "acceptance alone clipped at 0.999"),
    ("acceptance_is_a_rule_with_that_law", "not normalised"),
    ("acceptance_is_a_rule_with_that_law", "square root of the ratio"),
    ("no_rule_is_better", "square root of the ratio"),
    ("no_rule_is_better", "square of the ratio"),
    ("no_rule_is_better", "likeliest tokens of the actor first"),
    ("no_rule_is_better", "thinning"),
    ("no_rule_is_better", "acceptance clipped at 0.999"),
    ("no_rule_is_better", "lam off by 1e-6"),
    ("budget_is_met_exactly", "lam off by 1e-6"),
    ("budget_is_met_exactly", "lam is the inverse budget"),
    ("budget_is_met_exactly", "everything in float32"),
    ("budget_is_met_exactly", "ratio times lam"),
    ("lam_is_unique_below_the_maximum", "lam off by 1e-6"),
    ("lam_is_unique_below_the_maximum", "ratio floored"),
    ("budgets_beyond_the_maximum_are_refused", "lam never refuses"),
    ("budgets_beyond_the_maximum_are_refused", "thinning"),
    ("overlap_in_inverse_lam", "overlap of the squares"),
    ("acceptance_is_a_rule_with_that_law", "overlap divided by lam"),
    ("extreme_lam", "overlap divided by lam"),
    ("overlap_in_inverse_lam", "ratio times lam"),
    ("overlap_at_one", "overlap of the squares"),
    ("overlap_at_one", "acceptance clipped at 0.999"),
    ("overlap_at_one", "everything in float32"),
    ("small_budgets_give_the_policy", "square of the ratio"),
    ("small_budgets_give_the_policy", "lam off by 1e-6"),
    ("small_budgets_give_the_policy", "last token favoured"),
    ("disjoint_supports", "overlap floored"),
    ("disjoint_supports", "not normalised"),
    ("disjoint_supports", "thinning"),
    ("one_token", "not normalised"),
    ("one_token", "acceptance clipped at 0.999"),
    ("one_token", "lam off by 1e-6"),
    ("equal_laws", "not normalised"),
    ("equal_laws", "likeliest tokens of the actor first"),
    ("equal_laws", "lam off by 1e-6"),
    ("extreme_lam", "overlap floored"),
    ("extreme_lam", "everything in float32"),
    ("extreme_lam", "ratio floored"),
    ("float32", "float64 out"),
    ("float32", "thinning"),
    ("permutations", "overlap without the last token"),
    ("permutations", "last token favoured"),
]


@each("law, mutant", REFUSALS)
def test_law_refuses_a_broken_implementation(law: str, mutant: str) -> None:
    def on_all_cases() -> None:
        for pair in CASES.values():
            LAWS[law](MUTANTS[mutant], pair)

    with pytest.raises(AssertionError):
        on_all_cases()


def test_every_law_and_every_mutant_is_tried() -> None:
    assert {law for law, _ in REFUSALS} == set(LAWS)
    assert {mutant for _, mutant in REFUSALS} == set(MUTANTS)
