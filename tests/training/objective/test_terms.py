"""The terms of a token and their sum: PPO's surrogate, the share of a token in a minibatch, distillation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jackpot_sim.core import divergences
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators import Level
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.training import objective
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import Aggregation, Direction, Divisor
from tests.training.objective.laws import LAWS, MASK, one_surrogate

# ------------------------------------------------------------------- PPO's surrogate


@pytest.mark.parametrize(("clip", "high"), [(None, None), (0.2, None), (0.2, 0.5), (0.3, 0.1), (1.5, None)])
def test_the_surrogate_and_its_gradient(clip: float | None, high: float | None) -> None:
    ratios = [1e-3, 0.5, 0.69, 0.71, 0.79, 0.81, 1.0, 1.09, 1.11, 1.19, 1.21, 1.49, 1.51, 2.49, 2.51, 40.0]
    advantages = [1.0, -1.0, 0.0, 2.5, -0.3]
    old = torch.linspace(-4, -0.1, len(ratios), dtype=torch.float64).expand(len(advantages), -1)
    new = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    found = objective.surrogate(new, old, torch.tensor(advantages, dtype=torch.float64), clip, high)
    found.sum().backward()
    expected = [[one_surrogate(r, a, clip, high) for r in ratios] for a in advantages]
    np.testing.assert_allclose(found.detach().numpy(), [[v for v, _ in row] for row in expected], rtol=1e-12)
    np.testing.assert_allclose(new.grad.numpy(), [[g for _, g in row] for row in expected], rtol=1e-12)
    if clip == 0.2:
        assert any(value != 0 and slope == 0 for row in expected for value, slope in row)


def test_at_ratio_one_the_gradient_is_the_advantage_with_or_without_a_clip() -> None:
    old = torch.full((2, 3), -1.5, dtype=torch.float64)
    for clip in (None, 0.2):
        new = old.clone().requires_grad_()
        objective.surrogate(new, old, torch.tensor([2.0, -0.5], dtype=torch.float64), clip).sum().backward()
        assert new.grad.tolist() == [[2.0] * 3, [-0.5] * 3]


@pytest.mark.parametrize(("far", "gain"), [(200.0, 1.0), (-200.0, -1.0), (200.0, 0.0), (-200.0, 0.0)])
def test_a_clipped_token_has_no_gradient_however_far_the_ratio_is(far: float, gain: float) -> None:
    new = torch.tensor([[far]], dtype=torch.float32, requires_grad=True)
    value = objective.surrogate(new, torch.zeros(1, 1), torch.tensor([gain]), 0.2).sum()
    value.backward()
    assert value.item() == pytest.approx(gain * (1.2 if gain > 0 else 0.8))
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0]]


def test_a_token_without_advantage_has_no_gradient_without_a_clip_either() -> None:
    new = torch.tensor([[200.0]], dtype=torch.float32, requires_grad=True)
    objective.surrogate(new, torch.zeros(1, 1), torch.tensor([0.0]), None).sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0]]


# ------------------------------------------------------------------- aggregation


@pytest.mark.parametrize(
    ("aggregation", "shares"),
    [
        (Aggregation.TOKEN_MEAN, [1 / 8, 1 / 8, 1 / 8]),
        (Aggregation.SEQUENCE_MEAN, [1 / 12, 1 / 3, 1 / 9]),
        (Aggregation.SEQUENCE_SUM, [1 / 3, 1 / 3, 1 / 3]),
        (Aggregation.KEPT_MEAN, [1 / 12, 1 / 3, 1 / 9]),
    ],
)
def test_shares_of_tokens(aggregation: Aggregation, shares: list[float]) -> None:
    found = objective.token_shares(MASK, aggregation)
    expected = torch.tensor(shares, dtype=torch.float64)[:, None] * MASK
    torch.testing.assert_close(found, expected)
    if aggregation is not Aggregation.SEQUENCE_SUM:
        assert float(found.sum()) == pytest.approx(1)


def test_divisors_by_hand() -> None:
    kept = torch.tensor([[True, False, True, True], [True] * 4, [False, True, False, True]])
    factor = torch.where(MASK, torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0] * 4, [0.0, 1.0, 2.0, 9.0]]).double(), 0.0)
    found = [objective.divisor(kind, kept, factor, MASK) for kind in Divisor]
    assert found == pytest.approx([1.0, (3 + 1 + 1) / 8, 1.0, (6.0 + 5.0 + 3.0) / 8])
    over = [objective.divisor(kind, kept, factor, MASK, Level.SEQUENCE) for kind in Divisor]
    assert over == pytest.approx([1.0, (3 + 1 + 1) / 8, 1.0, (6.0 / 4 + 5.0 + 3.0 / 3) / 3])
    padded = kept & torch.tensor([[True], [False], [True]])
    assert objective.divisor(Divisor.KEPT_SEQUENCES, padded, factor, MASK) == pytest.approx(2 / 3)


def test_the_share_kept_is_that_of_the_studies() -> None:
    """`accepted` is one estimator: the same masks give the same divisor in training and in studies of rollouts."""
    generator = np.random.default_rng(3)
    kept = (generator.random(MASK.shape) < 0.6) & MASK.numpy()
    weight = np.where(kept, generator.random(MASK.shape), 0.0)
    zeros = np.zeros(MASK.shape)
    rollouts = ScoredRollouts(zeros, zeros, MASK.numpy(), np.zeros(3), np.zeros(3, dtype=np.int64))
    wanted = scored.scale(rollouts, kept, weight, "accepted", Level.TOKEN, np.zeros(3, dtype=np.int64))
    mine = objective.divisor(Divisor.ACCEPTED, torch.as_tensor(kept), torch.as_tensor(weight), MASK)
    assert mine == pytest.approx(wanted[0], rel=1e-15)


@pytest.mark.parametrize("kind", list(Divisor))
def test_where_nothing_is_left_nothing_is_divided(kind: Divisor) -> None:
    nothing = torch.zeros_like(MASK, dtype=torch.float64)
    for unit in Level:
        assert objective.divisor(kind, nothing > 0, nothing, MASK, unit) == 1.0


def test_the_studies_name_of_another_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"self_normalized divides each prompt.*: give batch_normalized"):
        Update.model_validate({"denominator": "self_normalized"})


# ------------------------------------------------------------------- distillation


@pytest.mark.parametrize("direction", list(Direction))
def test_distillation_is_the_divergence(direction: Direction) -> None:
    found = objective.distillation(LAWS.new, LAWS.actor, direction)
    forward = direction is Direction.FORWARD
    expected = divergences.kl(*((LAWS.new, LAWS.actor) if forward else (LAWS.actor, LAWS.new)))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(divergences.kl(LAWS.new, LAWS.actor), divergences.kl(LAWS.actor, LAWS.new))


@pytest.mark.parametrize("direction", Direction)
def test_distillation_on_a_support_is_that_of_the_laws_there(direction: Direction) -> None:
    """Tokens outside are none, in the divergence and in its gradient."""
    inside = [0, 2]
    policy, actor = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    gradients = []
    for keep in (True, False):
        logits = actor.clone().requires_grad_()
        laws = []
        for each in (policy, logits):
            cut = torch.full((2, 3, 4), -math.inf)
            cut[..., inside] = each[..., inside]
            laws.append(torch.log_softmax(cut if keep else each[..., inside], -1))
        found = objective.distillation(*laws, direction)
        found.sum().backward()
        gradients.append((found.detach(), logits.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("direction", list(Direction))
def test_distillation_moves_the_actor_alone(direction: Direction) -> None:
    policy, actor = LAWS.new.clone().requires_grad_(), LAWS.actor.clone().requires_grad_()
    objective.distillation(torch.log_softmax(policy, -1), torch.log_softmax(actor, -1), direction).sum().backward()
    assert policy.grad is None
    p, q = LAWS.new.exp(), LAWS.actor.exp()
    log_ratio = LAWS.actor - LAWS.new
    reverse = q * (log_ratio - (q * log_ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(actor.grad, q - p if direction is Direction.FORWARD else reverse)
