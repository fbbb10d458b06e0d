"""Divergences over sequences: standard errors by hand, and over several prompts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from jackpot_sim.core.sequence_divergences import NAMES, ratio_of_means, sampled
from jackpot_sim.core.sequences import SampledSequences, SequenceLaws, Sequences
from tests.core.laws import normalised


def test_a_ratio_of_means_by_hand() -> None:
    # 9/4; what is left of each is −5/4, −1/4 and 3/2, whose squares add up to 31/8.
    ratio, error = ratio_of_means(np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 2.0]))
    assert ratio == 2.25
    assert error == pytest.approx(math.sqrt(31 / 8 * 3 / 2) / 4, rel=1e-14)


def test_with_equal_counts_it_is_the_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=7)
    ratio, error = ratio_of_means(values, np.ones(7))
    assert ratio == pytest.approx(values.mean(), rel=1e-13)
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(7), rel=1e-13)


def rollouts(seed: int, n: int = 12) -> SampledSequences:
    generator = np.random.default_rng(seed)
    policy, actor = (normalised(generator.normal(size=(5, 3))) for _ in range(2))

    def paths() -> Sequences:
        prefix, token = (generator.integers(0, size, size=(n, 4)) for size in (5, 3))
        return Sequences(prefix, token, np.arange(4) < generator.integers(1, 5, size=(n, 1)))

    return SampledSequences(SequenceLaws(policy, actor, policy), paths(), np.zeros(n), paths(), np.zeros(n))


def test_four_equal_prompts_have_half_the_error() -> None:
    one, four = (sampled([rollouts(1)] * count) for count in (1, 4))
    for name in NAMES:
        assert four[0][name] == pytest.approx(one[0][name], rel=1e-13), name
        assert one[1][name] > 0, name
        assert four[1][name] == pytest.approx(one[1][name] / 2, rel=1e-13), name


def test_errors_of_prompts_add_up_in_squares() -> None:
    both, *alone = (sampled(prompts) for prompts in ([rollouts(2), rollouts(3)], [rollouts(2)], [rollouts(3)]))
    for name in NAMES:
        assert both[0][name] == pytest.approx((alone[0][0][name] + alone[1][0][name]) / 2, rel=1e-13), name
        assert both[1][name] == pytest.approx(math.hypot(alone[0][1][name], alone[1][1][name]) / 2, rel=1e-13), name


def test_chi_square_of_sequences_is_the_mean_squared_ratio_of_the_actors_own() -> None:
    drawn = rollouts(4)
    actor, laws = drawn.actor, drawn.laws
    square = np.empty(len(actor))
    for row in range(len(actor)):
        at = [(s, t) for s, t, live in zip(actor.prefix[row], actor.token[row], actor.mask[row], strict=True) if live]
        square[row] = math.prod(math.exp(laws.policy_log_probs[x] - laws.actor_log_probs[x]) for x in at) ** 2
    values, errors = sampled([drawn])
    assert values["chi_square_sequence"] == pytest.approx(square.mean() - 1, rel=1e-12)
    assert errors["chi_square_sequence"] == pytest.approx(square.std(ddof=1) / math.sqrt(len(square)), rel=1e-12)


def test_chi_square_of_sequences_is_infinite_where_the_kl_is() -> None:
    """The actor never writes what makes it so; the policy's own sequences show it."""
    drawn = rollouts(5)
    impossible = drawn.laws.actor_log_probs.copy()
    impossible[drawn.policy.prefix[0, 0]] = [-math.inf, -math.inf, 0.0]
    laws = dataclasses.replace(drawn.laws, actor_log_probs=impossible)
    unseen = Sequences(drawn.actor.prefix, np.full_like(drawn.actor.token, 2), drawn.actor.mask)
    values, errors = sampled([dataclasses.replace(drawn, laws=laws, actor=unseen)])
    assert values["kl_sequence"] == values["chi_square_sequence"] == math.inf
    assert math.isnan(errors["chi_square_sequence"])


def test_only_the_spread_within_prompts_is_error() -> None:
    # Of counts 1, prompt 7 holds 1 and 3, prompt 2 holds 10, 11 and 12: Σ(x − x̄)²·n/(n − 1) is 2·2 + 2·3/2.
    values, prompt = np.array([10.0, 1.0, 11.0, 3.0, 12.0]), np.array([2, 7, 2, 7, 2])
    ratio, error = ratio_of_means(values, np.ones(5), prompt)
    assert ratio == pytest.approx(37 / 5, rel=1e-14)
    assert error == pytest.approx(math.sqrt(2 * 2 + 2 * 3 / 2) / 5, rel=1e-14)
