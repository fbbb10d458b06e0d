"""Moments where a trainer takes its ratios and gradients of other laws: by enumeration, and against draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.support import BelievedLaws, on_support
from jackpot_sim.environments.recorded import LogProbs, believed
from jackpot_sim.environments.states.advantage import BinaryReward
from jackpot_sim.environments.states.base_laws import LmLike
from jackpot_sim.environments.states.perturbed import LogitNoise
from jackpot_sim.environments.states.truncated import TopPTruncation
from jackpot_sim.estimators.states import moments, sampled
from tests.cases import each, every
from tests.conftest import ToLibrary
from tests.core.laws import normalised
from tests.estimators.brute import Cell, Seen, rule_of, spread
from tests.estimators.cells import assert_same, random_cell

NAMES = ("none", "tis", "mis", "obrs", "jackpot")


def cut(cell: Cell, keep: int = 4) -> Cell:
    """The actor cut to its `keep` likeliest tokens."""
    order = np.argsort(np.argsort(-cell.actor, axis=-1), axis=-1)
    return Cell(cell.policy, normalised(np.where(order < keep, cell.actor, -np.inf)), cell.advantage)


CELL = cut(random_cell(3, 6))
TOLD = {
    "support": BelievedLaws(on_support(CELL.policy, CELL.actor), CELL.actor),
    "raw": BelievedLaws(CELL.policy, random_cell(3, 6).actor),
}


def enumerated(told: BelievedLaws, correction: Any, denominator: str) -> tuple[float, float]:
    """bias² and variance, token by token: f̂(x) = A(x)(e_x − p̂), drawn from q, against g = E_p[A(x)(e_x − p)]."""
    error = noise = signal = own = 0.0
    rule = rule_of(correction)
    for log_p, log_q, advantage, p_hat, q_hat in zip(
        *CELL, np.exp(told.policy_log_probs), np.exp(told.actor_log_probs), strict=True
    ):
        p, q, vocab = np.exp(log_p), np.exp(log_q), len(log_p)
        z = sum(min(q_hat[x], p_hat[x]) for x in range(vocab))
        drawn = [x for x in range(vocab) if q[x] > 0]
        rules = {x: rule(Seen(p_hat[x] / q_hat[x], z, p_hat[x], q_hat[x], advantage[x])) for x in drawn}
        true = {x: advantage[x] * (np.eye(vocab)[x] - p) for x in range(vocab)}
        feature = {x: advantage[x] * (np.eye(vocab)[x] - p_hat) for x in range(vocab)}
        g = sum(p[x] * true[x] for x in range(vocab))
        mean = sum(q[x] * a * w * feature[x] for x, (a, w) in rules.items())
        weight = sum(q[x] * a * w for x, (a, w) in rules.items())
        nothing = np.zeros(vocab)
        if denominator == "self_normalized":
            estimate = mean / weight
            kept = {x: w * (feature[x] - estimate) / weight for x, (_, w) in rules.items()}
        else:
            estimate = mean
            kept = {x: w * feature[x] for x, (_, w) in rules.items()}
        outcomes = [(q[x] * a, kept[x]) for x, (a, _) in rules.items()]
        outcomes += [(q[x] * (1 - a), nothing) for x, (a, _) in rules.items()]
        noise += spread(outcomes)
        error += (estimate - g) @ (estimate - g)
        signal += g @ g
        own += spread([(p[x], true[x]) for x in range(vocab)])
    return error / signal, noise / own


@each("told, name, denominator", every(TOLD, NAMES, ("proposed", "self_normalized")))
def test_every_token_by_hand(told: str, name: str, denominator: str) -> None:
    correction = estimators.get(name)
    found = moments.exact(*CELL, correction, denominator=denominator, believed=TOLD[told])
    bias_sq, variance = enumerated(TOLD[told], correction, denominator)
    assert found.bias**2 == pytest.approx(bias_sq, rel=1e-10)
    assert found.variance == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("denominator", ["proposed", "accepted", "self_normalized"])
def test_laws_that_are_the_true_ones_change_nothing(denominator: str, xp: ToLibrary) -> None:
    cell, jackpot = [xp(x) for x in random_cell(5, 8)], estimators.get("jackpot")
    told = BelievedLaws(cell[0] * 1.0, cell[1])
    plain = moments.exact(*cell, jackpot, denominator=denominator, n_samples=9)
    assert_same(moments.exact(*cell, jackpot, denominator=denominator, n_samples=9, believed=told), plain)


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("name", ["tis", "jackpot"])
def test_draws_agree(told: str, name: str) -> None:
    given = *CELL, estimators.get(name)
    exact = moments.exact(*given, n_samples=40, believed=TOLD[told])
    drawn = sampled.estimate(*given, np.random.default_rng(1), n_samples=40, replicates=400, believed=TOLD[told])
    for figure, wanted in {
        "bias_sq": exact.bias**2,
        "variance": exact.variance,
        "mse": exact.mse,
        "acceptance_rate": exact.acceptance_rate,
        "ess_fraction": exact.ess_fraction,
    }.items():
        error = drawn.standard_error[figure]
        assert error >= 0
        assert abs(drawn.value[figure] - wanted) <= 4 * error + 1e-12, (figure, drawn.value[figure], wanted, error)


def test_a_cut_policy_on_its_support_is_the_policy_gradient_of_the_cut_policy() -> None:
    """On policy but for the cut: every weight is 1, and the update's mean is E_{p/S}[A·∇log(p/S)], a biased target."""
    policy, _, advantage = random_cell(4, 6, seed=3)
    actor = cut(Cell(policy, policy, advantage)).actor
    told = BelievedLaws(on_support(policy, actor), actor)
    q = np.exp(actor)
    wanted = q * (advantage - np.sum(q * advantage, axis=-1, keepdims=True))
    true = np.exp(policy) * (advantage - np.sum(np.exp(policy) * advantage, axis=-1, keepdims=True))
    bias_sq = np.sum((wanted - true) ** 2) / np.sum(true**2)
    assert bias_sq > 0.01
    for name in NAMES:
        found = moments.exact(policy, actor, advantage, estimators.get(name), believed=told)
        assert found.bias**2 == pytest.approx(bias_sq, rel=1e-10), name
        assert found.ess_fraction == pytest.approx(1, rel=1e-12), name


def test_importance_sampling_on_the_support_is_unbiased_for_the_policy_as_it_was_cut() -> None:
    q = np.exp(TOLD["support"].policy_log_probs)
    wanted, true = (
        p * (CELL.advantage - np.sum(p * CELL.advantage, axis=-1, keepdims=True)) for p in (q, np.exp(CELL.policy))
    )
    bias_sq = np.sum((wanted - true) ** 2) / np.sum(true**2)
    found = moments.exact(*CELL, estimators.get("is"), believed=TOLD["support"])
    assert found.bias**2 == pytest.approx(bias_sq, rel=1e-10)


def test_against_the_whole_policy_processed_ratios_have_the_least_bias() -> None:
    """The figures of docs/real-models.md: states like those of text, noise on the actor's logits, cut by top-p 0.8."""
    found: dict[LogProbs, list[float]] = {told: [] for told in LogProbs}
    for seed in range(3):
        noisy = LogitNoise(sigma=0.3, base=LmLike(vocab=1000, states=64), advantage=BinaryReward()).build(seed).pair
        actor = TopPTruncation(p=0.8).actor_law(noisy.actor_log_probs)(0.8)
        for told, biases in found.items():
            seen = believed(told, noisy.policy_log_probs, actor, noisy.actor_log_probs)
            given = noisy.policy_log_probs, actor, noisy.advantage, estimators.get("tis")
            biases.append(moments.exact(*given, believed=seen).bias)
    means = {told: round(float(np.mean(biases)), 2) for told, biases in found.items()}
    assert means == {LogProbs.PROCESSED: 0.18, LogProbs.RAW: 0.28, LogProbs.SUPPORT: 0.29}


def test_laws_of_other_states_are_refused() -> None:
    told = BelievedLaws(CELL.policy[:2], CELL.actor[:2])
    for call in (
        lambda: moments.exact(*CELL, estimators.get("tis"), believed=told),
        lambda: sampled.estimate(*CELL, estimators.get("tis"), np.random.default_rng(0), n_samples=2, believed=told),
    ):
        with pytest.raises(ValueError, match="has shape"):
            call()
