"""The centred loss: minus the mean that each state's terms have under the actor's law, as far as it is stored."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.training import objective
from jackpot_sim.training.config import Update
from tests.training.objective.laws import LAWS, MASK, NAN, SETTINGS, VOCAB, N, one_surrogate, pass_of

CENTRED = estimators.centred(estimators.get("tis", clip=1.1))


@pytest.mark.parametrize("update", SETTINGS, ids=lambda each: f"{each.aggregation}-{each.clip}-{each.clip_high}")
def test_a_centred_loss_adds_the_mean_of_the_same_terms(update: Update) -> None:
    """Term by term over the whole vocabulary, clipped or not, and its gradient by autograd through all of it."""
    scores = (LAWS.new * 1.5).requires_grad_()
    found = objective.policy_loss(CENTRED, UpdateTarget.REFERENCE, LAWS.proposed(padding=NAN), pass_of(scores), update)
    plain = objective.policy_loss(CENTRED.of, UpdateTarget.REFERENCE, LAWS.proposed(), pass_of(scores), update)
    law, expected, clipped = torch.log_softmax(scores, -1), plain.loss, set()
    shares = objective.token_shares(MASK, update.aggregation)
    weight = (LAWS.before - LAWS.actor).exp().clamp(max=1.1) * LAWS.actor.exp()
    for i, t in MASK.nonzero().tolist():
        for v in range(VOCAB):
            ratio, advantage = (law[i, t, v] - LAWS.before[i, t, v]).exp(), LAWS.advantage[i]
            gain, slope = one_surrogate(float(ratio.detach()), float(advantage), update.clip, update.clip_high)
            clipped.add(slope == 0)
            term = ratio * advantage if slope else torch.tensor(gain)
            expected = expected + shares[i, t] * weight[i, t, v] * term
    assert clipped == {False} if update.clip is None else clipped == {True, False}
    torch.testing.assert_close(found.loss, expected, rtol=0, atol=5e-6)  # stored in float32, with a tail of 1e-6
    gradients = [torch.autograd.grad(each, scores, retain_graph=True)[0] for each in (found.loss, expected, plain.loss)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-7)
    assert float((gradients[0] - gradients[2]).abs().max()) > 1e-3
    assert torch.equal(found.factor, plain.factor)


@pytest.mark.parametrize("target", list(UpdateTarget))
@pytest.mark.parametrize("padding", [NAN, math.inf, -math.inf])
def test_padding_does_not_matter_to_a_centred_loss(padding: float, target: UpdateTarget) -> None:
    correction, results = estimators.centred(estimators.get("jackpot")), []
    for there in (0.0, padding):
        scores = LAWS.new.clone().requires_grad_()
        new = pass_of(scores, there)
        loss = objective.policy_loss(correction, target, LAWS.proposed(2, there), new, Update()).loss
        results.append((loss.detach(), torch.autograd.grad(loss, scores)[0][MASK]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert bool(results[0][1].isfinite().all())


@pytest.mark.parametrize("target", list(UpdateTarget))
@pytest.mark.parametrize("k", [4, VOCAB])
def test_on_a_recorded_support_the_mean_is_over_that_support(k: int, target: UpdateTarget) -> None:
    """An actor cut to 3 tokens, of which the policy is renormalised on the same ones; more are stored."""
    kept = torch.zeros_like(LAWS.actor, dtype=torch.bool).scatter_(-1, LAWS.actor.topk(3).indices, True)
    kept.scatter_(-1, LAWS.tokens, True)
    actor, before, new = (
        torch.log_softmax(law.masked_fill(~kept, -math.inf), -1) for law in (LAWS.actor, LAWS.before, LAWS.new)
    )
    topk = TopK.of(actor, k)
    given_ = dataclasses.replace(
        LAWS.proposed(),
        actor_log_probs=LAWS.of(actor),
        reference_log_probs=LAWS.of(before),
        topk=topk,
        reference_on_topk=topk.gather(before),
    )
    scores = new.clone().requires_grad_()
    correction, update = estimators.get("jackpot"), Update(clip=None)
    losses = [
        objective.policy_loss(each, target, given_, pass_of(scores), update).loss
        for each in (estimators.centred(correction), correction)
    ]
    found = torch.autograd.grad(losses[0] - losses[1], scores)[0]
    aim = new if target is UpdateTarget.POLICY else before
    ratio, z = (aim - actor).exp(), torch.minimum(aim.exp(), actor.exp()).sum(-1, keepdim=True)
    back = (before - new).exp().clamp(max=2.0) if target is UpdateTarget.POLICY else 1.0
    law = actor.exp() * ratio.clamp(max=1) * (z * ratio.clamp(min=1)).clamp(max=2) * back * (new - before).exp()
    law = (
        torch.where(kept, law, 0.0)
        * (LAWS.advantage[:, None] * objective.token_shares(MASK, update.aggregation))[..., None]
    )
    expected = law - new.exp() * law.sum(-1, keepdim=True)
    torch.testing.assert_close(found, torch.where(MASK[..., None], expected, 0.0), rtol=0, atol=1e-6)


def test_without_any_advantage_a_centred_loss_is_zero() -> None:
    given_ = dataclasses.replace(LAWS.proposed(2), advantage=torch.zeros(N, dtype=torch.float64))
    loss = objective.policy_loss(CENTRED, UpdateTarget.REFERENCE, given_, LAWS.new_pass(), Update()).loss
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_a_centred_loss_takes_laws_of_large_float32_logits_for_what_they_are() -> None:
    scores = LAWS.new.float() * 20 + 300  # of a policy near its collapse: the sums of its laws are off by 1e-5
    off = (scores - torch.logsumexp(scores, -1, keepdim=True)).double().exp().sum(-1) - 1
    assert float(off[MASK].max()) > 1e-6
    loss = objective.policy_loss(CENTRED, UpdateTarget.REFERENCE, LAWS.proposed(), pass_of(scores), Update()).loss
    assert math.isfinite(float(loss))


def test_a_centred_loss_without_stored_tokens_is_refused() -> None:
    given_, new = LAWS.proposed(None), LAWS.new_pass()
    with pytest.raises(
        ValueError, match=r"centred\(tis\) needs the actor's likeliest tokens, and the rollouts hold no"
    ):
        objective.policy_loss(CENTRED, UpdateTarget.REFERENCE, given_, new, Update())
