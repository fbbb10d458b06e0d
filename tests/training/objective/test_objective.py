"""Advantages, weights and the loss, each against its own formula, and what they refuse; `test_terms` has its terms."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.core import divergences
from jackpot_sim.estimators import Correction, TokenWeights, UpdateTarget
from jackpot_sim.training import objective
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import (
    Aggregation,
    Direction,
    Divisor,
    ModelPass,
    Overlap,
    Proposed,
    Standardisation,
)
from tests.estimators.gap_mask import ProbabilityGapMask
from tests.training.objective.laws import (
    LAWS,
    LENGTH,
    MASK,
    NAN,
    NO_PASS,
    SETTINGS,
    VOCAB,
    N,
    one_surrogate,
)

every_correction = pytest.mark.parametrize("correction", [estimators.get(name) for name in estimators.names()], ids=str)


# ------------------------------------------------------------------- advantages


@pytest.mark.parametrize("standardisation", list(Standardisation))
def test_advantages_are_the_formula(standardisation: Standardisation) -> None:
    rewards = np.random.default_rng(1).normal(size=(5, 4))
    centred = rewards - rewards.mean(1, keepdims=True)
    divisor = {
        Standardisation.GROUP: np.sqrt((centred**2).sum(1, keepdims=True) / 3) + 1e-4,
        Standardisation.BATCH: np.sqrt(((rewards - rewards.mean()) ** 2).sum() / 19) + 1e-4,
        Standardisation.NONE: 1.0,
    }[standardisation]
    found = objective.advantages(torch.as_tensor(rewards.reshape(-1)), 4, standardisation)
    np.testing.assert_allclose(found.numpy(), (centred / divisor).reshape(-1), rtol=1e-12)


def test_golden_advantages_of_one_right_answer_in_four() -> None:
    found = objective.advantages(torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), 4)
    np.testing.assert_allclose(found, np.array([0.75, -0.25, -0.25, -0.25]) / 0.5001, rtol=1e-12)


@pytest.mark.parametrize("standardisation", list(Standardisation))
@given(st.floats(-1e3, 1e3), st.integers(2, 9))
@example(0.1, 3)
def test_a_group_of_equal_rewards_has_no_advantage(standardisation: Standardisation, reward: float, size: int) -> None:
    rewards = torch.full((3 * size,), reward, dtype=torch.float64)
    assert not objective.advantages(rewards, size, standardisation).any()
    rewards[0] += 1
    found = objective.advantages(rewards, size, standardisation)
    assert found[0] > 0
    assert not found[size:].any()


# ------------------------------------------------------------------- the whole


def by_hand(correction: Correction, target: UpdateTarget, update: Update) -> tuple[float, Any]:
    """The loss of `LAWS` token by token, and its derivative with respect to log p_new."""
    pair = objective.weigh(correction, target, LAWS.proposed(), LAWS.new_pass())
    new, before = LAWS.of(LAWS.new), LAWS.of(LAWS.before)
    live = [tuple(at) for at in MASK.nonzero().tolist()]
    value, gradient = 0.0, torch.zeros_like(new)
    for at in live:
        factor = float(pair.weight[at]) if LAWS.uniforms[at] < pair.accept[at] else 0.0
        kept = int(((LAWS.uniforms < pair.accept) & MASK)[at[0]].sum())
        share = {
            Aggregation.TOKEN_MEAN: 1 / len(live),
            Aggregation.KEPT_MEAN: 1 / (N * max(kept, 1)),
            Aggregation.SEQUENCE_MEAN: 1 / (N * int(MASK[at[0]].sum())),
            Aggregation.SEQUENCE_SUM: 1 / N,
        }[update.aggregation]
        ratio, advantage = math.exp(new[at] - before[at]), float(LAWS.advantage[at[0]])
        gain, slope = one_surrogate(ratio, advantage, update.clip, update.clip_high)
        value -= share * factor * gain
        gradient[at] = -share * factor * slope
    return value, gradient


@pytest.mark.parametrize("target", list(UpdateTarget))
@pytest.mark.parametrize("update", SETTINGS, ids=lambda each: f"{each.aggregation}-{each.clip}-{each.clip_high}")
def test_the_loss_and_its_gradient_token_by_token(update: Update, target: UpdateTarget) -> None:
    jackpot, new = estimators.get("jackpot", lam=1.2), LAWS.new_pass()
    found = objective.policy_loss(jackpot, target, LAWS.proposed(padding=NAN), new, update)
    found.loss.backward()
    value, gradient = by_hand(jackpot, target, update)
    assert float(found.loss.detach()) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(new.log_probs.grad, gradient, rtol=1e-12, atol=0)
    assert new.logits.grad is None
    assert not found.factor.requires_grad
    assert torch.equal(found.factor > 0, found.accepted & MASK)
    assert 0 < int(found.factor.count_nonzero()) < int(MASK.sum())


def test_parts_of_a_minibatch_add_up_to_it() -> None:
    obrs_, update, given_, new = estimators.get("obrs"), Update(), LAWS.proposed(), LAWS.new_pass()
    shares, target = objective.token_shares(MASK, update.aggregation), UpdateTarget.REFERENCE
    whole = objective.policy_loss(obrs_, target, given_, new, update)
    parts = [
        objective.policy_loss(
            obrs_, target, given_.take(rows), ModelPass(*(field[rows] for field in new)), update, shares[rows]
        )
        for rows in (slice(0, 2), slice(2, 3))
    ]
    assert float(sum(part.loss for part in parts).detach()) == pytest.approx(float(whole.loss.detach()), rel=1e-12)
    assert torch.equal(torch.cat([part.factor for part in parts]), whole.factor)


def test_bypass_mode_takes_the_rollouts_log_probs_for_those_of_p_ref() -> None:
    """What stands in for p_ref is never looked at: the ratio is p_new/q, and without a clip the weights' own."""
    new, actor = LAWS.of(LAWS.new), LAWS.of(LAWS.actor)
    tis, mask = estimators.get("tis", clip=1.1), estimators.get("mask-k2", bound=0.05)
    given_ = dataclasses.replace(LAWS.proposed(), reference_log_probs=torch.full_like(new, NAN))
    for correction, update in ((tis, Update(bypass=True, clip=None)), (mask, Update(bypass=True, clip=0.1))):
        made = LAWS.new_pass()
        found = objective.policy_loss(correction, UpdateTarget.REFERENCE, given_, made, update)
        found.loss.backward()
        pair = correction.weights((new - actor).double(), mask=MASK)
        slope = LAWS.advantage[:, None].expand_as(new)
        if update.clip is not None:
            values = [
                [one_surrogate(math.exp(x), float(a), update.clip, None)[1] for x in row]
                for row, a in zip((new - actor).tolist(), LAWS.advantage, strict=True)
            ]
            slope = torch.tensor(values, dtype=torch.float64)
        expected = -torch.as_tensor(pair.accept) * torch.as_tensor(pair.weight) * slope / MASK.sum()
        torch.testing.assert_close(made.log_probs.grad, torch.where(MASK, expected, 0.0), rtol=1e-10, atol=1e-15)


def test_clipped_tokens_have_no_gradient() -> None:
    update = Update(clip=0.2, clip_high=0.4)
    ratio = torch.tensor([[1.5, 1.3, 0.5, 0.1], [0.7, 1.5, 0.79, 0.81], [9.0, 0.1, 1.0, 1.5]], dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    given_ = dataclasses.replace(LAWS.proposed(), advantage=advantage, mask=torch.ones_like(MASK))
    log_probs = (given_.reference_log_probs + ratio.log()).requires_grad_()
    new = LAWS.new_pass()._replace(log_probs=log_probs)
    found = objective.policy_loss(estimators.get("is"), UpdateTarget.REFERENCE, given_, new, update)
    found.loss.backward()
    # Above 1.4 with A > 0, and below 0.8 with A < 0; A = 0 is never clipped.
    expected = torch.tensor([[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert found.clipped is not None
    assert torch.equal(found.clipped, expected)
    assert torch.equal(log_probs.grad == 0, expected | (advantage == 0)[:, None])
    without = objective.policy_loss(estimators.get("is"), UpdateTarget.REFERENCE, given_, new, Update(clip=None))
    assert without.clipped is None


@pytest.mark.parametrize("direction", [None, *Direction])
@pytest.mark.parametrize("ppo", [True, False])
def test_the_loss_of_the_actor(ppo: bool, direction: Direction | None) -> None:
    update, shares = Update(), objective.token_shares(MASK, Aggregation.TOKEN_MEAN)
    scores = LAWS.before.clone().requires_grad_()
    own = ModelPass(scores, torch.logsumexp(scores, -1), torch.log_softmax(scores, -1).gather(-1, LAWS.tokens)[..., 0])
    loss, kl = objective.actor_loss(
        LAWS.proposed(), LAWS.new_pass(), own, update, shares, ppo=ppo, direction=direction, weight=0.3
    )
    gains = objective.surrogate(own.log_probs, LAWS.of(LAWS.actor), LAWS.advantage, update.clip)
    laws = (LAWS.new, LAWS.before) if direction is Direction.FORWARD else (LAWS.before, LAWS.new)
    expected = float(divergences.kl(*laws)[MASK].mean()) if direction else 0.0
    assert float(kl.detach()) == pytest.approx(expected, rel=1e-9)
    mean_gain = float(gains[MASK].mean().detach()) if ppo else 0.0
    assert float(loss.detach()) == pytest.approx(0.3 * expected - mean_gain, rel=1e-9)
    loss.backward()
    assert bool((scores.grad != 0).any()) == (ppo or direction is not None)


def test_a_correction_may_look_at_the_probabilities_and_the_sign_of_the_advantage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProbabilityGapMask, "name", "gap-mask", raising=False)
    mask = ProbabilityGapMask(gap=0.05)
    accept = objective.weigh(mask, UpdateTarget.POLICY, LAWS.proposed(padding=NAN), LAWS.new_pass(NAN)).accept
    gap = LAWS.of(LAWS.new).exp() - LAWS.of(LAWS.actor).exp()
    expected = ~(LAWS.advantage[:, None] * gap > 0.05 * LAWS.advantage[:, None].abs()) & MASK
    assert torch.equal(accept > 0, expected)
    assert 0 < int(expected.sum()) < int(MASK.sum())


def test_importing_the_objective_pulls_in_core_and_estimators_alone() -> None:
    code = "import sys, jackpot_sim.training.objective; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    own = [name for name in modules if name.startswith("jackpot_sim.")]
    packages = ("jackpot_sim.core", "jackpot_sim.estimators", "jackpot_sim.training.objective")
    assert [name for name in own if not name.startswith(packages)] == ["jackpot_sim.training"]
    assert len(own) <= 70
    assert not {"torch", "transformers", "pydantic"} & set(modules)


@pytest.mark.parametrize("clip", [0.2, None])
def test_a_token_that_weighs_nothing_has_no_part_in_the_loss_where_p_ref_cannot_write_it(clip: float | None) -> None:
    before = LAWS.of(LAWS.before).clone()
    before[0, 1] = -math.inf
    given_ = dataclasses.replace(LAWS.proposed(), reference_log_probs=before)
    shares = objective.token_shares(MASK, Aggregation.TOKEN_MEAN)
    losses, update = [], Update(clip=clip)
    for part in (shares, shares.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(0.0, dtype=shares.dtype))):
        new = LAWS.new_pass()
        tis = estimators.get("tis", clip=1.5)
        loss = objective.policy_loss(tis, UpdateTarget.REFERENCE, given_, new, update, part).loss
        loss.backward()
        losses.append(float(loss.detach()))
        assert new.log_probs.grad is not None
        assert bool(new.log_probs.grad.isfinite().all())
        assert float(new.log_probs.grad[0, 1]) == 0
    assert losses[0] == losses[1]


# ------------------------------------------------------------------- the pair (a, w)


@every_correction
@pytest.mark.parametrize("padding", [NAN, math.inf, -math.inf])
def test_padding_does_not_matter(correction: Correction, padding: float) -> None:
    found = objective.weigh(correction, UpdateTarget.REFERENCE, LAWS.proposed(padding=padding), NO_PASS)
    expected = objective.weigh(correction, UpdateTarget.REFERENCE, LAWS.proposed(), NO_PASS)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not one[~MASK].any()


@pytest.mark.parametrize("k", [2, VOCAB])
def test_padding_does_not_matter_to_the_other_target(k: int) -> None:
    jackpot = estimators.get("jackpot")
    pairs = [
        objective.weigh(jackpot, UpdateTarget.POLICY, LAWS.proposed(k, padding), LAWS.new_pass(padding))
        for padding in (0.0, NAN)
    ]
    torch.testing.assert_close(pairs[0], pairs[1], rtol=0, atol=0)


@every_correction
def test_weights_are_in_float64_without_a_graph(correction: Correction) -> None:
    target = UpdateTarget.POLICY if correction.carries_reference_ratio else UpdateTarget.REFERENCE
    pair = objective.weigh(correction, target, LAWS.proposed(), LAWS.new_pass())
    assert all(field.dtype == torch.float64 and not field.requires_grad for field in pair)
    assert pair.accept.shape == pair.weight.shape == (N, LENGTH)


@every_correction
def test_rao_blackwell_accepts_every_token_and_weighs_it_by_the_mean(correction: Correction) -> None:
    pair = objective.weigh(correction, UpdateTarget.REFERENCE, LAWS.proposed(), NO_PASS)
    smooth = objective.weigh(estimators.rao_blackwell(correction), UpdateTarget.REFERENCE, LAWS.proposed(), NO_PASS)
    assert torch.equal(smooth.accept, MASK.double())
    torch.testing.assert_close(smooth.weight, pair.expected())
    assert torch.equal(objective.draw(smooth, LAWS.uniforms)[1], smooth.weight)


def test_jackpot_without_stored_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="jackpot needs the overlap, and the rollouts hold no top-k of the actor"):
        objective.weigh(estimators.get("jackpot"), UpdateTarget.REFERENCE, LAWS.proposed(None), NO_PASS)
    objective.weigh(estimators.get("tis"), UpdateTarget.REFERENCE, LAWS.proposed(None), NO_PASS)


def test_tokens_are_kept_as_often_as_they_are_accepted() -> None:
    accept = torch.tensor([[0.0, 1e-4, 0.3, 0.9999, 1.0]], dtype=torch.float64)
    weight = torch.tensor([[math.inf, 2.0, 0.5, 1.0, 3.0]], dtype=torch.float64)
    grid = (torch.arange(100_000, dtype=torch.float64)[:, None] / 100_000).expand(-1, 5)
    mask, found = objective.draw(TokenWeights(accept.expand_as(grid), weight.expand_as(grid)), grid)
    assert torch.equal(mask, found > 0)
    assert set(found.flatten().tolist()) == {0.0, 2.0, 0.5, 1.0, 3.0}  # no inf, no nan
    torch.testing.assert_close((found > 0).double().mean(0), accept[0], rtol=0, atol=1e-5)


def test_some_of_what_was_proposed() -> None:
    rows = torch.tensor([2, 0])
    given_ = LAWS.proposed(2)
    for name in (field.name for field in dataclasses.fields(Proposed)):
        part, whole = getattr(given_.take(rows), name), getattr(given_, name)
        if name == "topk":
            assert torch.equal(part.ids, whole.ids[rows])
            part, whole = part.log_probs, whole.log_probs
        assert part == whole if isinstance(whole, bool | Overlap) else torch.equal(part, whole[rows])
    without = LAWS.proposed(None).take(rows)
    assert without.topk is None
    assert without.reference_on_topk is None


# ------------------------------------------------------------------- wrong shapes and dtypes


ONES = torch.ones(N, LENGTH, dtype=torch.float64)
INTEGERS = MASK.long()
LOG = -ONES


@pytest.mark.parametrize(
    "call",
    [
        lambda: objective.divisor(Divisor.BATCH_NORMALIZED, MASK, ONES, INTEGERS),
        lambda: objective.divisor(Divisor.ACCEPTED, INTEGERS, ONES, MASK),
        lambda: objective.divisor(Divisor.PROPOSED, MASK, ONES, INTEGERS),
        lambda: objective.token_shares(INTEGERS, Aggregation.TOKEN_MEAN),
        lambda: objective.ppo_loss(ONES, LOG, LOG, ONES[:, 0], INTEGERS, Update()),
        lambda: objective.estimated_overlap(
            LAWS.proposed().reference_on_topk, LAWS.proposed().topk, LOG, INTEGERS, 1.0
        ),
        lambda: dataclasses.replace(LAWS.proposed(), mask=INTEGERS),
        lambda: dataclasses.replace(LAWS.proposed(), mask=MASK.double()),
    ],
)
def test_a_mask_of_numbers_is_refused_since_it_would_index(call: Any) -> None:
    with pytest.raises(TypeError, match=r"(mask|accepted) must be boolean, .*: pass (mask|accepted) != 0$"):
        call()


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (1, 3), (3, 3, 1)])
def test_advantages_are_one_per_sequence_or_one_per_token_and_never_broadcast(shape: tuple[int, ...]) -> None:
    square, advantage = -torch.ones(3, 3), torch.ones(shape)
    with pytest.raises(ValueError, match="advantage has shape"):
        objective.surrogate(square, square, advantage, 0.2)
    with pytest.raises(ValueError, match="advantage has shape"):
        objective.ppo_loss(-square, square, square, advantage, square < 0, Update())
    with pytest.raises(ValueError, match="advantage has shape"):
        dataclasses.replace(LAWS.proposed(), advantage=advantage.double())
    assert objective.surrogate(square, square, torch.ones(3), 0.2).shape == (3, 3)


@pytest.mark.parametrize("wrong", [ONES[:, :1], ONES[:1], ONES[:, 0], ONES.T, ONES[0, 0], ONES[None]], ids=str)
def test_a_share_a_factor_and_a_uniform_stand_beside_each_token(wrong: Any) -> None:
    given_, new, update = LAWS.proposed(), LAWS.new_pass(), Update()
    is_, target = estimators.get("is"), UpdateTarget.REFERENCE
    for name, call in {
        "shares": lambda: objective.policy_loss(is_, target, given_, new, update, wrong),
        "factor": lambda: objective.ppo_loss(wrong, LOG, LOG, ONES[:, 0], MASK, update),
        "uniforms": lambda: objective.draw(TokenWeights(ONES, ONES), wrong),
        "old_log_probs": lambda: objective.surrogate(LOG, wrong, ONES[:, 0], None),
        "reference_log_probs": lambda: dataclasses.replace(given_, reference_log_probs=wrong),
        "reference_on_topk": lambda: dataclasses.replace(given_, reference_on_topk=wrong),
    }.items():
        with pytest.raises(ValueError, match=f"{name} has shape"):
            call()
    with pytest.raises(ValueError, match="shares has shape"):
        objective.actor_loss(given_, new, new, update, wrong, ppo=True, direction=None, weight=0.0)


def test_a_pass_over_other_sequences_is_refused() -> None:
    given_, update, shares = LAWS.proposed(), Update(), objective.token_shares(MASK, Aggregation.TOKEN_MEAN)
    whole, jackpot = LAWS.new_pass(), estimators.get("jackpot")
    part = ModelPass(*(field[:1] for field in whole))
    for target in UpdateTarget:
        with pytest.raises(ValueError, match="has shape"):
            objective.policy_loss(jackpot, target, given_, part, update)
    for new, own in ((part, whole), (whole, part), (whole, whole._replace(logits=whole.logits[..., :1]))):
        with pytest.raises(ValueError, match="has shape"):
            objective.actor_loss(given_, new, own, update, shares, ppo=True, direction=Direction.FORWARD, weight=1.0)
    with pytest.raises(ValueError, match="log_normaliser has shape"):
        whole._replace(log_normaliser=whole.log_normaliser[:, :1]).law()
    with pytest.raises(ValueError, match="policy_law has shape"):
        objective.distillation(LAWS.new, LAWS.actor[..., :1], Direction.FORWARD)


@pytest.mark.parametrize("rows", [torch.tensor([True, False, True]), torch.tensor(1), torch.tensor([[0, 1]])], ids=str)
def test_rows_are_numbers_of_sequences_and_no_mask(rows: Any) -> None:
    given_ = LAWS.proposed()
    for take in (given_.take, lambda rows: objective.take_topk(given_.topk, rows)):
        with pytest.raises((TypeError, ValueError), match="rows "):
            take(rows)


def test_rewards_are_whole_groups_of_at_least_two() -> None:
    for rewards, samples in ((torch.rand(6), 4), (torch.rand(6), 1), (torch.rand(3, 2), 2), (torch.arange(4), 2)):
        with pytest.raises((TypeError, ValueError), match=r"rewards|samples"):
            objective.advantages(rewards, samples)
