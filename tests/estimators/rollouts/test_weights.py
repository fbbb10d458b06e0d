"""Corrections of scored tokens: what tables of prefixes say of the same sequences, and plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.obrs import overlap
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.sequences import SampledSequences
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.estimators import Correction, Denominator, Level, TokenWeights, UpdateTarget
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.estimators.sequences import sampled as rollouts
from jackpot_sim.estimators.sequences import updates
from tests.estimators.sequence_brute import Shape
from tests.estimators.sequence_cells import enumeration, unequal_prompts

SHAPE, REPLICATES, N = Shape(3, 3, 1), 4, 6
TREE = PrefixTree(*SHAPE)

CORRECTIONS = [
    *(estimators.get(name) for name in ("none", "is", "tis", "obrs", "jackpot", "sequence-is", "geometric-tis")),
    *(estimators.get("mis", low=0.8, high=1.5), estimators.get("m2po", threshold=0.05)),
    estimators.get("opsm", delta=0.05),
    estimators.combined(estimators.get("jackpot"), estimators.get("sequence-mis", high=2.0)),
    estimators.batch_normalize(estimators.get("sequence-tis", clip=1.2)),
    estimators.rao_blackwell(estimators.get("jackpot", c1=0.9)),
]


def tables() -> list[SampledSequences]:
    generator = np.random.default_rng(1)
    out = []
    for prompt in unequal_prompts(SHAPE, 3):
        laws = enumeration(SHAPE, prompt).laws
        actor, policy = (
            TREE.draw(each, generator.random((REPLICATES * N, SHAPE.length)))
            for each in (laws.actor_log_probs, laws.policy_log_probs)
        )
        worth = generator.normal(size=(2, REPLICATES * N))
        out.append(SampledSequences(laws, actor, worth[0], policy, worth[1], SHAPE.end))
    return out


TABLES = tables()
REPLICATE = np.tile(np.repeat(np.arange(REPLICATES) * 7 - 3, N), 2)
ORDER = np.random.default_rng(9).permutation(len(REPLICATE))
"""Sequences need not lie replicate by replicate."""


def scored_rollouts() -> tuple[ScoredRollouts, Any]:
    """The actor's sequences, shuffled, with NaN at padding; and Z(1) at every token."""
    columns: list[list[Any]] = [[], [], [], [], [], []]
    for index, each in enumerate(TABLES):
        laws, actor = each.laws, each.actor
        z = np.asarray(overlap(laws.policy_log_probs, laws.actor_log_probs, 1.0))
        given = [actor.gather(table) for table in (laws.policy_log_probs, laws.actor_log_probs, z)]
        for column, values in zip(
            columns,
            [*(np.where(actor.mask, x, np.nan) for x in given), actor.mask, each.actor_advantage],
            strict=False,
        ):
            column.append(values)
        columns[5].append(np.full(len(actor), index))
    policy, actor_, z, mask, advantage, prompt = (np.concatenate(column)[ORDER] for column in columns)
    return ScoredRollouts(policy, actor_, mask, advantage, prompt), z


SCORED, Z = scored_rollouts()


def from_tables(correction: Correction) -> TokenWeights:
    """What `rollouts.estimate` weighs the same sequences with, in the shuffled order."""
    parts = [updates.Proposals(each.laws, each.actor, each.actor_advantage) for each in TABLES]
    pairs = rollouts._weigh(parts, correction, UpdateTarget.REFERENCE, REPLICATES)
    return TokenWeights(*(np.concatenate(column)[ORDER] for column in zip(*pairs, strict=True)))


@pytest.mark.parametrize("correction", CORRECTIONS, ids=repr)
def test_weights_are_those_of_the_tables(correction: Correction) -> None:
    found = scored.weigh(SCORED, correction, Z, replicate=REPLICATE[ORDER])
    expected = from_tables(correction)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, np.where(SCORED.mask, theirs, 0.0), rtol=1e-12, atol=1e-14)
    assert all(np.all(field[~SCORED.mask] == 0) for field in found)


@pytest.mark.parametrize("denominator", list(Denominator))
@pytest.mark.parametrize("correction", CORRECTIONS, ids=repr)
def test_denominators_and_figures_are_those_of_the_tables(correction: Correction, denominator: Denominator) -> None:
    pair = scored.weigh(SCORED, correction, Z, replicate=REPLICATE[ORDER])
    mask, weight = scored.draw(SCORED, pair, np.random.default_rng(5))
    found = scored.scale(SCORED, mask, weight, denominator, correction.unit, REPLICATE[ORDER])
    back = np.argsort(ORDER)
    draws = rollouts._Draws(2, REPLICATES, None)
    for index, each in enumerate(TABLES):
        rows = back[index * REPLICATES * N : (index + 1) * REPLICATES * N]
        draws.count(index, each.actor, mask[rows], weight[rows], correction.unit)
    expected = 1 / (N * draws.scale(denominator, N))
    np.testing.assert_allclose(found[back], np.repeat(expected.ravel(), N), rtol=1e-12)
    value, error = scored.weight_figures(SCORED, mask, weight, correction.unit, REPLICATE[ORDER])
    kept, tokens, w, w_sq, units = (
        getattr(draws, name).sum(axis=0) for name in ("kept", "tokens", "weight", "weight_sq", "units")
    )
    assert value["acceptance_rate"] == pytest.approx(kept.sum() / tokens.sum(), rel=1e-12)
    assert value["ess_fraction"] == pytest.approx(w.sum() ** 2 / (w_sq.sum() * units.sum()), rel=1e-12)
    left_out = np.array([np.delete(kept, r).sum() / np.delete(tokens, r).sum() for r in range(REPLICATES)])
    jackknife = math.sqrt((REPLICATES - 1) * left_out.var())
    assert error["acceptance_rate"] == pytest.approx(jackknife, rel=1e-12, abs=1e-15)


def test_a_batch_is_a_replicate() -> None:
    correction = estimators.batch_normalize(estimators.get("tis", clip=1.2))
    apart = scored.weigh(SCORED, correction, replicate=REPLICATE[ORDER])
    together = scored.weigh(SCORED, correction)
    assert np.max(np.abs(apart.weight - together.weight)) > 1e-3
    for rows in scored._batches(REPLICATE[ORDER]):
        live = SCORED.mask[rows]
        assert np.mean(apart.weight[rows][live]) == pytest.approx(1.0)
    assert np.mean(together.weight[SCORED.mask]) == pytest.approx(1.0)


def test_a_mask_keeps_as_often_as_it_should() -> None:
    pair = scored.weigh(SCORED, estimators.get("obrs", lam=1.5), np.ones(SCORED.mask.shape))
    generator = np.random.default_rng(2)
    drawn = [scored.draw(SCORED, pair, generator) for _ in range(2000)]
    rate = np.mean([mask for mask, _ in drawn], axis=0)
    assert np.max(np.abs(rate - pair.accept)) < 5 * 0.5 / math.sqrt(2000)
    for mask, weight in drawn[:20]:
        assert not np.any(mask & ~SCORED.mask)
        np.testing.assert_array_equal(weight, np.where(mask, pair.weight, 0.0))


def test_stated_errors_of_figures_are_those_over_batches() -> None:
    generator = np.random.default_rng(3)
    values, errors = [], []
    for _ in range(80):
        actor = generator.normal(size=(200, 5)) - 5
        policy = actor + 0.5 * generator.normal(size=(200, 1)) + 0.3 * generator.normal(size=(200, 5))
        each = ScoredRollouts(policy, actor, np.ones((200, 5), bool), np.ones(200), np.zeros(200, int))
        pair = scored.weigh(each, estimators.get("jackpot"), np.ones((200, 5)))
        mask, weight = scored.draw(each, pair, generator)
        value, error = scored.weight_figures(each, mask, weight, Level.TOKEN, np.repeat(np.arange(20), 10))
        values.append(list(value.values()))
        errors.append(list(error.values()))
    ratio = np.std(values, axis=0, ddof=1) / np.sqrt(np.mean(np.square(errors), axis=0))
    assert np.all((ratio > 0.75) & (ratio < 1.33)), ratio


def test_nothing_kept_has_no_denominator() -> None:
    mask, weight = np.zeros(SCORED.mask.shape, dtype=bool), np.zeros(SCORED.mask.shape)
    for denominator in (Denominator.ACCEPTED, Denominator.SELF_NORMALIZED):
        found = scored.scale(SCORED, mask, weight, denominator, Level.TOKEN, REPLICATE[ORDER])
        assert np.all(np.isnan(found))
    value, error = scored.weight_figures(SCORED, mask, weight, Level.SEQUENCE, REPLICATE[ORDER])
    assert value["acceptance_rate"] == 0
    assert math.isnan(value["ess_fraction"])
    assert math.isnan(error["ess_fraction"])


# ------------------------------------------------------------------------------------------ errors


def test_an_overlap_that_is_needed_is_asked_for() -> None:
    with pytest.raises(ValueError, match="jackpot needs overlap"):
        scored.weigh(SCORED, estimators.get("jackpot"))
    with pytest.raises(ValueError, match="overlap holds NaN or a negative number"):
        scored.weigh(SCORED, estimators.get("jackpot"), np.full(SCORED.mask.shape, np.nan))
    with pytest.raises(ValueError, match=r"overlap has shape \(2, 3\)"):
        scored.weigh(SCORED, estimators.get("jackpot"), np.ones((2, 3)))


def test_errors_name_the_argument() -> None:
    mask, weight = SCORED.mask, np.ones(SCORED.mask.shape)
    with pytest.raises(ValueError, match=r"replicate has shape \(2,\), not \(48,\): one number per sequence"):
        scored.weigh(SCORED, estimators.get("none"), replicate=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"weight has shape \(48,\)"):
        scored.scale(SCORED, mask, np.ones(48), "proposed", Level.TOKEN, REPLICATE)
    with pytest.raises(ValueError, match=r"mask has shape \(48,\)"):
        scored.weight_figures(SCORED, mask[:, 0], weight, Level.TOKEN, REPLICATE)
    with pytest.raises(ValueError, match="kept"):
        scored.scale(SCORED, mask, weight, "kept", Level.TOKEN, REPLICATE)
    with pytest.raises(ValueError, match="replicate names 2 replicates"):
        scored.weight_figures(SCORED, mask, weight, Level.TOKEN, np.arange(48) % 2)


def test_masks_of_numbers_and_masks_of_padding_are_refused() -> None:
    weight = np.ones(SCORED.mask.shape)
    for measure in (
        lambda mask: scored.scale(SCORED, mask, weight, "accepted", Level.TOKEN, REPLICATE),
        lambda mask: scored.weight_figures(SCORED, mask, weight, Level.TOKEN, REPLICATE),
    ):
        for kind in (np.int64, np.uint8, np.float64):
            with pytest.raises(TypeError, match="mask must be boolean"):
                measure(SCORED.mask.astype(kind))
        with pytest.raises(ValueError, match="mask keeps what is no token"):
            measure(np.ones_like(SCORED.mask))
        for wrong in (SCORED.mask.T, SCORED.mask[:, :1], SCORED.mask[:1], SCORED.mask[..., None]):
            with pytest.raises(ValueError, match="mask has shape"):
                measure(wrong)


@pytest.mark.parametrize("kind", [np.float64, np.bool_])
def test_replicates_are_integers_of_one_axis(kind: type) -> None:
    mask, weight = SCORED.mask, np.ones(SCORED.mask.shape)
    for measure in (
        lambda replicate: scored.scale(SCORED, mask, weight, "accepted", Level.TOKEN, replicate),
        lambda replicate: scored.weight_figures(SCORED, mask, weight, Level.TOKEN, replicate),
        lambda replicate: scored.weigh(SCORED, estimators.get("none"), replicate=replicate),
    ):
        with pytest.raises(TypeError, match="replicate must hold integers"):
            measure(REPLICATE.astype(kind))
        with pytest.raises(ValueError, match=r"replicate has shape \(48, 1\)"):
            measure(REPLICATE[:, None])
        with pytest.raises(TypeError, match="replicate must be a numpy array, got list"):
            measure(REPLICATE.tolist())


def test_a_number_per_token_does_not_broadcast() -> None:
    full, jackpot = np.ones(SCORED.mask.shape), estimators.get("jackpot")
    for wrong in (full[:, :1], full[:1], full[:, 0], full.T, full[..., None], np.ones(())):
        with pytest.raises(ValueError, match=r"overlap has shape .*one number per token"):
            scored.weigh(SCORED, jackpot, wrong)
        with pytest.raises(ValueError, match=r"overlap has shape .*one number per token"):
            scored.tokens_of_rollouts(SCORED, wrong)
        for name in ("accept", "weight"):
            pair = TokenWeights(full, full)._replace(**{name: wrong})
            with pytest.raises(ValueError, match=rf"{name} has shape .*one number per token"):
                scored.draw(SCORED, pair, np.random.default_rng(0))
    with pytest.raises(TypeError, match="overlap must hold real floating numbers"):
        scored.weigh(SCORED, jackpot, full.astype(int))
