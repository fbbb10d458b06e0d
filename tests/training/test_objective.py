"""The parts of the objective, each against its own formula; what they make together is enumerated elsewhere."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.core import divergences, normalizer, obrs
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Correction, Level, TokenWeights, UpdateTarget
from jackpot_sim.estimators.rollouts import weights as scored
from jackpot_sim.training import objective
from jackpot_sim.training.actors import Direction
from jackpot_sim.training.config import Aggregation, Divisor, Standardisation, Update
from jackpot_sim.training.objective import Proposed
from jackpot_sim.training.passes import ModelPass

N, LENGTH, VOCAB = 3, 4, 6
MASK = torch.tensor([[True] * 4, [True, False, False, False], [True, True, True, False]])
NAN = math.nan
every_correction = pytest.mark.parametrize("correction", [estimators.get(name) for name in estimators.names()], ids=str)


def law(generator: np.random.Generator, around: Any = 0.0, spread: float = 1.0) -> Any:
    logits = around + torch.as_tensor(spread * generator.normal(size=(N, LENGTH, VOCAB)))
    return torch.log_softmax(logits, -1)


class Laws:
    """An actor, a policy before the update and one under way, with tokens of the actor."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.actor = law(generator)
        self.before = law(generator, self.actor, 0.5)
        self.new = law(generator, self.before, 0.3)
        self.tokens = torch.as_tensor(generator.integers(VOCAB, size=(N, LENGTH, 1)))
        self.uniforms = torch.as_tensor(generator.random((N, LENGTH)))
        self.advantage = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)

    def of(self, law: Any) -> Any:
        return law.gather(-1, self.tokens)[..., 0]

    def proposed(self, k: int | None = VOCAB, padding: float = 0.0) -> Proposed:
        """With `padding` wherever there is no token."""

        def filled(values: Any) -> Any:
            there = MASK if values.ndim == 2 else MASK[..., None]
            return torch.where(there, values, torch.full_like(values, padding))

        topk = None if k is None else TopK.of(self.actor, k)
        return Proposed(
            actor_log_probs=filled(self.of(self.actor)),
            reference_log_probs=filled(self.of(self.before)),
            mask=MASK,
            advantage=self.advantage,
            topk=None if topk is None else TopK(topk.ids, filled(topk.log_probs)),
            reference_on_topk=None if topk is None else filled(topk.gather(self.before)),
            uniforms=self.uniforms,
        )

    def new_pass(self, padding: float = 0.0) -> ModelPass:
        """Its logits are not normalised."""
        shift = torch.linspace(-3, 3, N * LENGTH, dtype=torch.float64).reshape(N, LENGTH)
        log_probs = torch.where(MASK, self.of(self.new), padding)
        return ModelPass((self.new + shift[..., None]).requires_grad_(), shift, log_probs.requires_grad_())


LAWS = Laws()
NO_PASS: Any = None
"""For the target p_ref: then p_new is not looked at."""


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


# ------------------------------------------------------------------- the pair (a, w)


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("target", list(UpdateTarget))
def test_with_whole_laws_stored_z_is_exact(lam: float, target: UpdateTarget) -> None:
    to_new = target is UpdateTarget.POLICY
    aim = LAWS.new if to_new else LAWS.before
    jackpot = estimators.get("jackpot", lam=lam, c1=math.inf, c2=math.inf)
    pair = objective.weigh(jackpot, target, LAWS.proposed(), LAWS.new_pass() if to_new else NO_PASS)
    ratio = (LAWS.of(aim) - LAWS.of(LAWS.actor)).exp()
    back = (LAWS.of(LAWS.before) - LAWS.of(aim)).exp()
    z = pair.weight / ratio.clamp(min=lam) / back
    torch.testing.assert_close(z[MASK], obrs.overlap(aim, LAWS.actor, lam)[MASK], rtol=0, atol=1e-6)
    torch.testing.assert_close(pair.accept[MASK], (ratio / lam).clamp(max=1)[MASK])


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("lam", [0.7, 1.0, 1.5])
def test_with_few_tokens_stored_z_lies_in_its_bracket(k: int, lam: float) -> None:
    given_ = LAWS.proposed(k)
    log_ratio = LAWS.of(LAWS.before) - LAWS.of(LAWS.actor)
    found = objective.estimated_overlap(given_.reference_on_topk, given_.topk, log_ratio, MASK, lam)[MASK]
    on_topk = given_.reference_on_topk[MASK], given_.topk.log_probs[MASK].double()
    low, high = normalizer.bracket_on_topk(*on_topk, lam)
    exact = torch.minimum(LAWS.actor.exp(), LAWS.before.exp() / lam).sum(-1)[MASK]
    assert ((low - 1e-6 <= exact) & (exact <= high + 1e-6)).all()
    assert ((low - 1e-6 <= found) & (found <= high + 1e-6)).all()
    accepted = (log_ratio.exp() / lam).clamp(max=1)[MASK].mean()
    share = ((accepted - low.mean()) / (high - low).mean()).clamp(0, 1)
    torch.testing.assert_close(found, low + share * (high - low), rtol=0, atol=2e-6)  # float32


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
    assert torch.equal(objective.kept(smooth, LAWS.uniforms)[1], smooth.weight)


def test_jackpot_without_stored_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="jackpot needs the overlap, and the rollouts hold no top-k of the actor"):
        objective.weigh(estimators.get("jackpot"), UpdateTarget.REFERENCE, LAWS.proposed(None), NO_PASS)
    objective.weigh(estimators.get("tis"), UpdateTarget.REFERENCE, LAWS.proposed(None), NO_PASS)


def test_tokens_are_kept_as_often_as_they_are_accepted() -> None:
    accept = torch.tensor([[0.0, 1e-4, 0.3, 0.9999, 1.0]], dtype=torch.float64)
    weight = torch.tensor([[math.inf, 2.0, 0.5, 1.0, 3.0]], dtype=torch.float64)
    grid = (torch.arange(100_000, dtype=torch.float64)[:, None] / 100_000).expand(-1, 5)
    mask, found = objective.kept(TokenWeights(accept.expand_as(grid), weight.expand_as(grid)), grid)
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
        assert torch.equal(part, whole[rows])
    without = LAWS.proposed(None).take(rows)
    assert without.topk is None
    assert without.reference_on_topk is None


# ------------------------------------------------------------------- PPO's surrogate


def one_surrogate(ratio: float, advantage: float, clip: float | None, high: float | None) -> tuple[float, float]:
    """min(r A, clip(r) A), and its derivative with respect to log r; by cases, as PPO is told in words."""
    if clip is not None:
        high = clip if high is None else high
        if advantage > 0 and ratio > 1 + high:
            return (1 + high) * advantage, 0.0
        if advantage < 0 and ratio < 1 - clip:
            return (1 - clip) * advantage, 0.0
    return ratio * advantage, ratio * advantage


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


# ------------------------------------------------------------------- aggregation


@pytest.mark.parametrize(
    ("aggregation", "shares"),
    [
        (Aggregation.TOKEN_MEAN, [1 / 8, 1 / 8, 1 / 8]),
        (Aggregation.SEQUENCE_MEAN, [1 / 12, 1 / 3, 1 / 9]),
        (Aggregation.SEQUENCE_SUM, [1 / 3, 1 / 3, 1 / 3]),
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
    assert found == pytest.approx([1.0, (3 + 1 + 1) / 8, (6.0 + 5.0 + 3.0) / 8])
    over = [objective.divisor(kind, kept, factor, MASK, Level.SEQUENCE) for kind in Divisor]
    assert over == pytest.approx([1.0, (3 + 1 + 1) / 8, (6.0 / 4 + 5.0 + 3.0 / 3) / 3])


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


@pytest.mark.parametrize("direction", list(Direction))
def test_distillation_moves_the_actor_alone(direction: Direction) -> None:
    policy, actor = LAWS.new.clone().requires_grad_(), LAWS.actor.clone().requires_grad_()
    objective.distillation(torch.log_softmax(policy, -1), torch.log_softmax(actor, -1), direction).sum().backward()
    assert policy.grad is None
    p, q = LAWS.new.exp(), LAWS.actor.exp()
    log_ratio = LAWS.actor - LAWS.new
    reverse = q * (log_ratio - (q * log_ratio).sum(-1, keepdim=True))
    torch.testing.assert_close(actor.grad, q - p if direction is Direction.FORWARD else reverse)


# ------------------------------------------------------------------- a budget of rejections


def mean_rejected(log_ratio: Any, lam: float) -> float:
    return float((1 - obrs.acceptance_probability(torch.as_tensor(log_ratio, dtype=torch.float64), lam)).mean())


def by_bisection(log_ratio: list[float], rejected: float) -> float:
    low, high = -800.0, 800.0  # log λ
    for _ in range(200):
        middle = (low + high) / 2
        mean = math.fsum(1 - math.exp(min(0.0, l - middle)) for l in log_ratio) / len(log_ratio)
        low, high = (middle, high) if mean < rejected else (low, middle)
    return math.exp(low)


def lam_at(rejected: float, log_ratio: list[float]) -> float:
    values = torch.tensor([log_ratio, [NAN] * len(log_ratio)], dtype=torch.float64)
    return objective.lam_at(rejected, values, torch.isfinite(values) | (values == -math.inf))


log_ratios = st.lists(
    st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 0.0, 0.5, -1.0]), st.floats(-300, 300)), min_size=1, max_size=40
)
shares = st.floats(1e-6, 1 - 1e-6)


@given(shares, log_ratios)
@example(0.5, [0.0] * 7)
@example(1e-6, [1.0] * 40)
@example(1 - 1e-6, [300.0, -300.0])
def test_the_threshold_of_a_budget_rejects_that_share(rejected: float, log_ratio: list[float]) -> None:
    lam = lam_at(rejected, log_ratio)
    assert mean_rejected(log_ratio, lam) == pytest.approx(rejected, abs=1e-9)


@given(st.floats(0.01, 0.99), st.lists(st.floats(-3, 3), min_size=1, max_size=40))
def test_the_threshold_of_a_budget_is_that_of_bisection(rejected: float, log_ratio: list[float]) -> None:
    assert lam_at(rejected, log_ratio) == pytest.approx(by_bisection(log_ratio, rejected), rel=1e-7)


def test_the_threshold_of_one_token_and_of_equal_ones() -> None:
    assert lam_at(0.25, [math.log(3.0)]) == pytest.approx(4.0)
    assert lam_at(0.2, [0.0] * 9) == pytest.approx(1.25)
    # Of r = 1 and 3, λ ≤ 3: (1 − 1/λ)/2 = 0.1; beyond: 1 − 2/λ = 0.75.
    assert lam_at(0.1, [0.0, math.log(3.0)]) == pytest.approx(1.25)
    assert lam_at(0.75, [0.0, math.log(3.0)]) == pytest.approx(8.0)


@given(st.floats(0.3, 0.99), log_ratios)
def test_tokens_beyond_the_policy_are_rejected_and_count(rejected: float, log_ratio: list[float]) -> None:
    beyond = [-math.inf] * (len(log_ratio) // 4)
    lam = lam_at(rejected, log_ratio + beyond)
    assert mean_rejected(log_ratio + beyond, lam) == pytest.approx(rejected, abs=1e-9)


@pytest.mark.parametrize("log_ratio", [[-math.inf, -math.inf, 0.0], [-math.inf], [-2000.0, -math.inf, 1.0]])
def test_a_budget_below_what_is_always_rejected_is_refused(log_ratio: list[float]) -> None:
    beyond = sum(l < -1000 for l in log_ratio)
    with pytest.raises(ValueError, match=rf"no lam rejects as few as 0.3 .* {beyond} of {len(log_ratio)} are beyond"):
        lam_at(0.3, log_ratio)


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
