"""Simulated updates of sequences: against exact moments, with honest errors, on tables of any size."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.sequences import SampledSequences, SequenceLaws, Sequences
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.sequences import sampled as rollouts
from jackpot_sim.estimators.states.moments import Denominator
from tests.estimators import sequence_brute as brute
from tests.estimators.cells import columns
from tests.estimators.sequence_brute import Prompt, Shape
from tests.estimators.sequence_cells import enumeration, feature_table, random_prompt, unequal_prompts, without

SHAPE = Shape(3, 3, 1)
TREE = PrefixTree(*SHAPE)
PROMPTS = {updated: [random_prompt(SHAPE, seed, updated=updated) for seed in (40, 41)] for updated in (False, True)}
CORRECTIONS = [
    *(estimators.get(name) for name in ("none", "obrs", "sequence-is", "sequence-tis", "geometric-is")),
    *(estimators.get("tis", clip=1.2), estimators.get("jackpot", c1=0.8), estimators.get("veto", threshold=0.4)),
    estimators.combined(estimators.get("jackpot"), estimators.get("sequence-mis", high=2.0)),
    *(estimators.centred(estimators.get(name)) for name in ("none", "jackpot", "topr")),
]


def draw(prompt: Prompt, n: int, generator: np.random.Generator) -> SampledSequences:
    laws = enumeration(SHAPE, prompt).laws
    # A(y) by where a sequence ends and with which token.
    rows = {prefix: row for row, prefix in enumerate(brute.prefixes(SHAPE))}
    value = np.zeros((TREE.prefixes, TREE.vocab))
    for y, advantage in prompt.advantage.items():
        value[rows[y[:-1]], y[-1]] = advantage

    def sequences(log_probs: Any) -> tuple[Sequences, Any]:
        drawn = TREE.draw(log_probs, generator.random((n, SHAPE.length)))
        last = np.arange(n), drawn.mask.sum(axis=1) - 1
        return drawn, value[drawn.prefix[last], drawn.token[last]]

    return SampledSequences(laws, *sequences(laws.actor_log_probs), *sequences(laws.policy_log_probs), SHAPE.end)


@cache
def drawn(updated: bool, seed: int, n: int) -> list[SampledSequences]:
    generator = np.random.default_rng(seed)
    return [draw(prompt, n, generator) for prompt in PROMPTS[updated]]


@cache
def referee(updated: bool, in_parameters: bool = False) -> enumerated.Referee:
    features = parameters(updated) if in_parameters else None
    return enumerated.Referee([enumeration(SHAPE, prompt) for prompt in PROMPTS[updated]], features)


@cache
def parameters(updated: bool) -> list[Any]:
    """Two parameters that every logit depends on linearly."""
    slope = np.random.default_rng(0).normal(size=(TREE.prefixes, TREE.vocab, 2))
    tables = [feature_table(SHAPE, brute.logits(SHAPE, prompt)) for prompt in PROMPTS[updated]]
    return [table @ slope.reshape(-1, 2) for table in tables]


def z_scores(found: Any, exact: Any) -> dict[str, float]:
    """By how many standard errors figures are off; those without any must be right."""
    expected = columns(exact) | {"kl_prefix": exact.kl_prefix}
    out = {}
    for name, value in found.value.items():
        error = found.standard_error[name]
        if name in expected and error < 1e-12:
            assert value == pytest.approx(expected[name], abs=1e-10), name
        elif name in expected and not math.isnan(error):
            out[name] = (value - expected[name]) / error
    return out


@pytest.mark.parametrize(
    ("updated", "in_parameters", "known"),
    [(False, False, True), (False, True, False), (True, False, False), (True, True, True)],
)
def test_the_exact_moments_lie_within_the_stated_errors(updated: bool, in_parameters: bool, known: bool) -> None:
    replicates, n = 50, 500
    judge = referee(updated, in_parameters)
    scores: list[tuple[float, str, str]] = []
    for seed, correction in enumerate(CORRECTIONS):
        weighed = judge.weigh(correction)
        for denominator in Denominator:
            found = rollouts.estimate(
                drawn(updated, 10 * seed + 2 * known + in_parameters, replicates * n),
                correction,
                np.random.default_rng(seed),
                replicates=replicates,
                denominator=denominator,
                truth=judge.truth() if known else None,
                features=parameters(updated) if in_parameters else None,
            )
            assert (found.n_samples, found.replicates) == (n, replicates)
            exact = weighed.moments(denominator, n)
            scores += [(abs(z), name, repr(correction)) for name, z in z_scores(found, exact).items()]
    # Figures of one cell, and of denominators, share their draws. 4 SE is exceeded once in 16,000; here are about 350.
    assert len(scores) > 200
    assert [score for score in scores if score[0] > 4] == []
    assert np.mean([z > 2 for z, _, _ in scores]) < 0.16


@pytest.mark.parametrize("target", ["p_ref", "p_new"])
def test_both_targets(target: str) -> None:
    correction, truth = estimators.get("jackpot", c1=math.inf, c2=1.2), referee(True).truth()
    exact = referee(True).weigh(correction, target).moments("accepted", 500)
    found = rollouts.estimate(
        drawn(True, 7, 25_000),
        correction,
        np.random.default_rng(1),
        replicates=50,
        denominator="accepted",
        target=target,
        truth=truth,
    )
    scores = z_scores(found, exact)
    assert len(scores) == 11
    assert max(map(abs, scores.values())) < 4, scores


@pytest.mark.parametrize(
    "correction",
    [
        estimators.get("m2po", threshold=0.1),
        estimators.batch_normalize(estimators.get("tis", clip=1.2)),
        estimators.batch_normalize(estimators.get("sequence-tis", clip=1.2)),
        # This one looks at the advantages of its own batch.
        estimators.batch_normalize(
            estimators.combined(estimators.get("tis", clip=1.2), estimators.get("opsm", delta=0.05))
        ),
    ],
    ids=repr,
)
def test_large_batches_come_to_their_limit(correction: Any) -> None:
    limit, truth = referee(False).weigh(correction), referee(False).truth()
    off = []
    for n, replicates in ((2, 200), (500, 50)):
        found = rollouts.estimate(
            drawn(False, 8, n * replicates), correction, np.random.default_rng(2), replicates=replicates, truth=truth
        )
        off.append(z_scores(found, limit.moments("proposed", n)))
    # The variance of batch-normalised weights has the noise of the mean, which the limit has not.
    for name in ("gain", "bias_sq", "ess_fraction", "acceptance_rate"):
        assert abs(off[1].get(name, 0.0)) < 4, (name, off)
    assert max(abs(z) for z in off[0].values()) > 2.5, off


def test_the_rate_accepted_counts_the_tokens_of_all_prompts_alike() -> None:
    prompts, correction = unequal_prompts(SHAPE, 45), estimators.get("obrs", lam=1.0)
    judge = enumerated.Referee([enumeration(SHAPE, prompt) for prompt in prompts])
    exact, generator = judge.weigh(correction).moments("accepted", 1000), np.random.default_rng(11)
    assert abs(exact.per_state.acceptance_rate.mean() - exact.acceptance_rate) > 0.03
    found = rollouts.estimate(
        [draw(prompt, 1000 * 200, generator) for prompt in prompts],
        correction,
        generator,
        replicates=200,
        denominator="accepted",
        truth=judge.truth(),
    )
    scores = z_scores(found, exact)
    assert {"gain", "bias_sq", "variance", "mse"} <= set(scores)
    assert max(map(abs, scores.values())) < 4, scores


def test_on_policy_variance_is_right_for_as_few_as_two_samples() -> None:
    correction, replicates = estimators.get("tis", clip=1.2), 1000
    found = rollouts.estimate(
        drawn(False, 12, 2 * replicates), correction, np.random.default_rng(1), replicates=replicates
    )
    scores = z_scores(found, referee(False).weigh(correction).moments("proposed", 2))
    assert found.standard_error["variance"] < 0.1 * found.value["variance"]
    assert abs(scores["variance"]) < 4, scores
    assert abs(scores["mse"]) < 4, scores


def test_errors_are_as_large_as_they_say() -> None:
    correction, exact = estimators.get("jackpot"), referee(False).weigh(estimators.get("jackpot"))
    found = [
        rollouts.estimate(
            drawn(False, 100 + seed, 6000),
            correction,
            np.random.default_rng(seed),
            replicates=30,
            denominator="accepted",
        )
        for seed in range(40)
    ]
    figures = columns(exact.moments("accepted", 200))
    for name in ("bias_sq", "gain", "variance", "mse", "direction_bias", "ess_fraction", "kl_effective", "kl_accepted"):
        values, stated = ([getattr(each, kind)[name] for each in found] for kind in ("value", "standard_error"))
        spread = np.std(values, ddof=1)
        assert 1 / 1.5 < spread / math.sqrt(np.mean(np.square(stated))) < 1.5, (name, spread)
        assert abs(np.mean(values) - figures[name]) < 4 * spread / math.sqrt(40), name


def test_the_squared_bias_of_an_unbiased_correction_is_centred() -> None:
    found = [
        rollouts.estimate(
            drawn(False, 200 + seed, 1200), estimators.get("sequence-is"), np.random.default_rng(seed), replicates=20
        )
        for seed in range(40)
    ]
    values = np.array([each.value["bias_sq"] for each in found])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / math.sqrt(len(values))
    assert 8 <= np.sum(values < 0) <= 32
    for each in found:
        assert math.isnan(each.value["bias"]) == (each.value["bias_sq"] < 0)
        assert math.isnan(each.value["kl_effective"])  # no single draw knows it


# ------------------------------------------------------------------------------------ the sums


@pytest.mark.parametrize("in_parameters", [False, True])
def test_sparse_inner_products_are_those_of_explicit_vectors(in_parameters: bool) -> None:
    replicates, n = 4, 3
    each, phi = drawn(False, 3, replicates * n)[0], brute.logits(SHAPE, PROMPTS[False][0])
    features = parameters(False)[0] if in_parameters else None
    pull = np.random.default_rng(4).normal(size=each.actor.mask.shape)
    if features is not None:
        rows = {prefix: row for row, prefix in enumerate(brute.prefixes(SHAPE))}
        phi = {(s, x): features[rows[s], x] for s, x in phi}
    explicit: list[list[Any]] = []
    for sequences in (each.actor, each.policy):
        explicit.append([0.0] * replicates)
        for i, (tokens, live) in enumerate(zip(sequences.token, sequences.mask, strict=True)):
            y = tuple(tokens[live].tolist())
            explicit[-1][i // n] = explicit[-1][i // n] + brute.score(phi, y, list(pull[i, : len(y)]))
    mine, theirs = (
        rollouts._Updates.of(each, sequences, pull, replicates, features) for sequences in (each.actor, each.policy)
    )
    np.testing.assert_allclose(mine.dot(mine), [[x @ y for y in explicit[0]] for x in explicit[0]], atol=1e-12)
    np.testing.assert_allclose(mine.dot(theirs), [[x @ y for y in explicit[1]] for x in explicit[0]], atol=1e-12)


def visited_only(each: SampledSequences) -> tuple[SampledSequences, Any]:
    """The same with tables of the prefixes that were visited, and their rows."""
    both = (each.actor, each.policy)
    rows = np.unique(np.concatenate([paths.prefix[paths.mask] for paths in both]))
    renamed = [
        dataclasses.replace(paths, prefix=np.where(paths.mask, np.searchsorted(rows, paths.prefix), 0))
        for paths in both
    ]
    laws = each.laws
    few = SequenceLaws(laws.policy_log_probs[rows], laws.actor_log_probs[rows], laws.reference_log_probs[rows])
    return dataclasses.replace(each, laws=few, actor=renamed[0], policy=renamed[1]), rows


@pytest.mark.parametrize("name", ["none", "jackpot", "sequence-tis"])
def test_tables_may_hold_visited_prefixes_alone(name: str) -> None:
    whole = drawn(True, 5, 6)
    parts = [visited_only(each) for each in whole]
    assert any(len(rows) < TREE.prefixes for _, rows in parts)
    for denominator in Denominator:
        for features in (None, parameters(True)):
            few = None if features is None else [f[rows] for f, (_, rows) in zip(features, parts, strict=True)]
            expected, found = (
                rollouts.estimate(
                    given,
                    estimators.get(name),
                    np.random.default_rng(6),
                    replicates=3,
                    denominator=denominator,
                    features=own,
                )
                for given, own in ((whole, features), ([each for each, _ in parts], few))
            )
            for kind in ("value", "standard_error"):
                mine, theirs = getattr(found, kind), getattr(expected, kind)
                assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-11, nan_ok=True), (kind, denominator)


def test_the_same_generator_gives_the_same() -> None:
    first, second, other = (
        rollouts.estimate(drawn(False, 5, 60), estimators.get("jackpot"), np.random.default_rng(seed), replicates=3)
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first.value["variance"] != other.value["variance"]


# --------------------------------------------------------------------------------------- support


def holed(policy: tuple[int, ...] | None, actor: tuple[int, ...]) -> Prompt:
    """Token 0 after the prefix `actor` is out of the actor's reach, and the prefix `policy` out of the policy's."""
    prompt = random_prompt(SHAPE, 42)
    if policy is not None:
        without(prompt.policy, policy[:-1], policy[-1])
    without(prompt.actor, actor, 0)
    return prompt


@pytest.mark.parametrize("name", ["none", "is", "jackpot"])
def test_only_what_the_policy_reaches_can_be_out_of_reach(name: str) -> None:
    for prompt, endless in ((holed(None, (2,)), True), (holed((2,), (2,)), False)):
        exact = enumerated.exact([enumeration(SHAPE, prompt)], estimators.get(name))
        assert (exact.kl_effective == math.inf) == endless
        each = draw(prompt, 20_000, np.random.default_rng(3))
        found = rollouts.estimate([each], estimators.get(name), np.random.default_rng(4), replicates=20)
        for column in ("kl_accepted", "kl_effective", "kl_prefix"):
            value, error = getattr(exact, column), found.standard_error[column]
            assert found.value[column] == pytest.approx(value, abs=1e-12 if endless else 4 * error + 1e-12), column


@pytest.mark.parametrize(
    ("prefix", "token", "loses_prefixes"), [((2, 2), 0, False), ((2,), 0, True), ((2,), SHAPE.end, False)]
)
def test_a_violation_too_rare_to_be_drawn_is_infinite_all_the_same(
    prefix: tuple[int, ...], token: int, loses_prefixes: bool
) -> None:
    prompt = random_prompt(SHAPE, 44)
    row = {each: index for index, each in enumerate(brute.prefixes(SHAPE))}[prefix]
    prompt.policy[prefix][:] = [1e-4 if x == token else (1 - 1e-4) / 2 for x in range(SHAPE.vocab)]
    without(prompt.actor, prefix, token)
    each = draw(prompt, 300, np.random.default_rng(5))
    there = each.policy.mask & (each.policy.prefix == row)
    assert there.any()
    assert not (there & (each.policy.token == token)).any()
    for name in ("none", "is", "jackpot"):
        exact = enumerated.exact([enumeration(SHAPE, prompt)], estimators.get(name))
        found = rollouts.estimate([each], estimators.get(name), np.random.default_rng(6), replicates=10).value
        assert exact.kl_accepted == exact.kl_effective == math.inf
        assert found["kl_accepted"] == found["kl_effective"] == math.inf, name
        # Beyond the last token, and beyond the end token, there is no prefix to be lost.
        assert (exact.kl_prefix == math.inf) == loses_prefixes
        assert (found["kl_prefix"] == math.inf) == loses_prefixes, name


def test_an_update_that_keeps_nothing_is_nan() -> None:
    correction = estimators.get("mis", low=50.0, high=60.0)
    for denominator in ("accepted", "self_normalized"):
        found = rollouts.estimate(
            drawn(False, 5, 60), correction, np.random.default_rng(1), replicates=3, denominator=denominator
        )
        assert found.value["acceptance_rate"] == 0.0
        assert math.isnan(found.value["bias_sq"])


# ----------------------------------------------------------------------------------------- errors


def first(drawn: SampledSequences, n: int) -> SampledSequences:
    """The first n sequences of either policy."""
    policies = ((drawn.actor, drawn.actor_advantage), (drawn.policy, drawn.policy_advantage))
    cut = [part for each, advantage in policies for part in (each.take(slice(n)), advantage[:n])]
    return SampledSequences(drawn.laws, *cut, drawn.end_token)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((6, 6), {"replicates": 2}, "replicates must be at least 3, got 2"),
        ((7, 7), {}, r"\[7\] sequences per prompt cannot be split evenly among 3 replicates"),
        ((6, 9), {}, r"\[6, 9\] sequences per prompt cannot be split evenly"),
        ((0, 0), {}, r"\[0\] sequences per prompt cannot be split evenly"),
        ((6, 6), {"denominator": "kept"}, "kept"),
        ((6, 6), {"target": "p_old"}, "p_old"),
        ((6, 6), {"target": "p_new"}, "tis cannot target p_new"),
    ],
)
def test_errors_name_the_argument(sizes: tuple[int, int], options: dict[str, Any], message: str) -> None:
    generator = np.random.default_rng(0)
    given = [first(draw(prompt, 9, generator), n) for prompt, n in zip(PROMPTS[False], sizes, strict=True)]
    with pytest.raises(ValueError, match=message):
        rollouts.estimate(given, estimators.get("tis"), generator, **({"replicates": 3} | options))
