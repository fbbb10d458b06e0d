"""What is recorded of a step: exact where whole laws were stored, unbiased where they were not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim.core import divergences
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import TokenWeights
from jackpot_sim.training.loop.measures import PERCENTILES, Means, kl_to_actor, mismatch
from jackpot_sim.training.objective import PolicyLoss, Proposed

VOCAB = 5
MEANS = {"kl_policy_actor", "kl_actor_policy", "chi_square", "overlap", "kl_exact", "k1", "k3"}
"""Means over tokens."""
OF_LAWS = {*PERCENTILES, "entropy"}
COLUMNS = MEANS | OF_LAWS | {"ess_ratio", "perplexity_gap", "log_ratio_max"}


def laws(shape: tuple[int, ...], seed: int = 0, holes: bool = False) -> tuple[Any, Any]:
    """A policy and an actor, log-probabilities of shape (*shape, vocab)."""
    generator = np.random.default_rng(seed)
    actor = torch.as_tensor(generator.normal(size=(*shape, VOCAB)))
    policy = actor + torch.as_tensor(0.7 * generator.normal(size=(*shape, VOCAB)))
    if holes:
        actor[..., 0] = -math.inf
    return torch.log_softmax(policy, -1), torch.log_softmax(actor, -1)


def proposed(policy: Any, actor: Any, tokens: Any, mask: Any, k: int | None) -> Proposed:
    """Of tokens (n, length), with garbage at padding."""

    def of(law: Any) -> Any:
        return torch.where(mask, law.gather(-1, tokens[..., None])[..., 0], math.nan)

    topk = on_topk = None
    if k is not None:
        found = TopK.of(actor, k)
        on_topk = torch.where(mask[..., None], found.gather(policy), math.nan)
        topk = TopK(found.ids, torch.where(mask[..., None], found.log_probs, math.nan))
    nothing = torch.zeros(mask.shape, dtype=torch.float64)
    return Proposed(of(actor), of(policy), mask, nothing[:, 0], topk, on_topk, nothing)


MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
TOKENS = torch.tensor([[0, 1, 2], [3, 0, 0], [4, 4, 0]])


@pytest.mark.parametrize("holes", [False, True], ids=["", "an actor that cannot reach the policy"])
def test_with_whole_laws_stored_the_mismatch_is_exact(holes: bool) -> None:
    policy, actor = laws(MASK.shape, holes=holes)
    tokens = TOKENS.clamp(min=1)
    found = mismatch(proposed(policy, actor, tokens, MASK, VOCAB), VOCAB)
    p, q = policy[MASK], actor[MASK]
    assert set(found) == COLUMNS
    assert found["kl_exact"] == 1
    assert found["kl_policy_actor"] == pytest.approx(float(divergences.kl(p, q).mean()), rel=1e-6)
    assert found["kl_actor_policy"] == pytest.approx(float(divergences.kl(q, p).mean()), rel=1e-6)
    assert found["chi_square"] == pytest.approx(float(divergences.chi_square(p, q).mean()), rel=1e-6)
    overlap = torch.minimum(p.exp(), q.exp()).sum(-1).numpy()
    assert found["overlap"] == pytest.approx(float(overlap.mean()), rel=1e-6)
    assert [found[name] for name in PERCENTILES] == pytest.approx(np.percentile(overlap, [1, 5, 50]).tolist(), rel=1e-6)
    assert found["entropy"] == pytest.approx(
        float(torch.distributions.Categorical(logits=p).entropy().mean()), rel=1e-6
    )
    assert math.isinf(found["kl_policy_actor"]) == holes
    ratio = (policy - actor).gather(-1, tokens[..., None])[..., 0][MASK]
    assert found["log_ratio_max"] == pytest.approx(float(ratio.abs().max()))
    assert found["k1"] == pytest.approx(float(-ratio.mean()))
    assert found["k3"] == pytest.approx(float((ratio.exp() - 1 - ratio).mean()))
    weights = ratio.exp()
    assert found["ess_ratio"] == pytest.approx(float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())))
    of_rollouts = [float(rows.mean()) for rows in ratio.split(MASK.sum(-1).tolist())]
    assert found["perplexity_gap"] == pytest.approx(-np.mean(of_rollouts))


@pytest.mark.parametrize("k", [None, 2, VOCAB - 1])
def test_from_tokens_alone_the_mismatch_is_unbiased(k: int | None) -> None:
    """The mean over y ~ q of what one token says, every token enumerated, is the exact divergence."""
    policy, actor = laws((1, 1))
    one = torch.tensor([[True]])
    found = [mismatch(proposed(policy, actor, torch.tensor([[x]]), one, k), VOCAB) for x in range(VOCAB)]
    mean = {name: sum(float(actor[0, 0, x].exp()) * found[x][name] for x in range(VOCAB)) for name in MEANS}
    p, q = policy[0, 0], actor[0, 0]
    assert mean["kl_exact"] == 0
    assert mean["kl_policy_actor"] == pytest.approx(float(divergences.kl(p, q)), rel=1e-10)
    assert mean["kl_actor_policy"] == pytest.approx(float(divergences.kl(q, p)), rel=1e-10)
    assert mean["chi_square"] == pytest.approx(float(divergences.chi_square(p, q)), rel=1e-10)
    assert mean["k1"] == pytest.approx(mean["kl_actor_policy"], rel=1e-10)
    assert mean["k3"] == pytest.approx(mean["kl_actor_policy"], rel=1e-10)
    assert mean["overlap"] == pytest.approx(float(torch.minimum(p.exp(), q.exp()).sum()), rel=1e-10)
    assert all(row["kl_policy_actor"] >= 0 and row["kl_actor_policy"] >= 0 for row in found)
    assert all(math.isnan(row[name]) for row in found for name in OF_LAWS)


@pytest.mark.parametrize("k", [None, VOCAB])
def test_figures_are_means_over_tokens_and_not_over_sequences(k: int | None) -> None:
    policy, actor = laws(MASK.shape)
    one = torch.tensor([[True]])
    alone = [
        mismatch(proposed(policy[at][None], actor[at][None], TOKENS[at][None], one, k), VOCAB)
        for at in [(slice(row, row + 1), column) for row, column in MASK.nonzero().tolist()]
    ]
    together = mismatch(proposed(policy, actor, TOKENS, MASK, k), VOCAB)
    for name in MEANS | ({"entropy"} if k == VOCAB else set()):
        assert together[name] == pytest.approx(np.mean([row[name] for row in alone]), rel=1e-9)
    assert together["log_ratio_max"] == max(row["log_ratio_max"] for row in alone)


@pytest.mark.parametrize("k", [None, VOCAB])
def test_the_same_laws_do_not_differ(k: int | None) -> None:
    policy, _ = laws(MASK.shape)
    found = mismatch(proposed(policy, policy, TOKENS, MASK, k), VOCAB)
    assert found["kl_policy_actor"] == pytest.approx(0, abs=1e-12)
    assert found["kl_actor_policy"] == pytest.approx(0, abs=1e-12)
    assert found["overlap"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("k", [None, 2, VOCAB])
def test_the_kl_of_another_policy(k: int | None) -> None:
    policy, actor = laws(MASK.shape)
    given = proposed(policy, actor, TOKENS, MASK, k)
    found = kl_to_actor(given, given.reference_log_probs, given.reference_on_topk, VOCAB)
    assert found.shape == (int(MASK.sum()),)
    assert float(found.mean()) == pytest.approx(mismatch(given, VOCAB)["kl_policy_actor"], rel=1e-9)
    if k == VOCAB:
        torch.testing.assert_close(found, divergences.kl(policy[MASK], actor[MASK]), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------- means over updates


def loss_of(accept: Any, factor: Any, clipped: Any = None) -> PolicyLoss:
    return PolicyLoss(factor.sum(), TokenWeights(accept, factor), factor > 0, factor, clipped)


def test_means_of_two_updates_of_different_sizes() -> None:
    means, garbage = Means(), math.nan
    parts = [
        (MASK, [[1.0, 0.0, 2.0], [4.0, garbage, garbage], [0.0, 1.0, garbage]]),
        (torch.tensor([[True, True]]), [[3.0, 0.5]]),
    ]
    clipped = [[[1, 0, 0], [1, 1, 1], [0, 0, 1]], [[0, 1]]]
    for (mask, tokens), of_tokens, accept in zip(parts, clipped, (0.5, 0.25), strict=True):
        factor = torch.tensor(tokens, dtype=torch.float64)
        kl = torch.full((int(mask.sum()),), 0.25, dtype=torch.float64)
        advantage = torch.tensor([1.0, -1.0, 0.0][: len(mask)], dtype=torch.float64)
        means.tokens(
            loss_of(torch.where(mask, accept, garbage), factor, torch.tensor(of_tokens) > 0), kl, mask, advantage
        )
    means.update(loss=1.0)
    means.update(loss=4.0)
    found = means.means()
    weights = np.array([1.0, 0.0, 2.0, 4.0, 0.0, 1.0, 3.0, 0.5])
    assert found["acceptance_rate"] == (6 * 0.5 + 2 * 0.25) / 8
    assert found["kl_new_actor"] == 0.25
    assert found["weight_mean"] == pytest.approx(weights.mean())
    assert found["ess_fraction"] == pytest.approx(weights.mean() ** 2 / (weights**2).mean())
    assert found["weight_max"] == 4.0
    assert found["loss"] == 2.5
    assert found["clipped_share"] == pytest.approx(3 / 8)
    assert "weight_sq" not in found
    assert (found["rejected_positive"], found["rejected_negative"]) == (1 / 5, 0)


def test_without_weights_no_sample_is_effective() -> None:
    means, nothing = Means(), torch.zeros((1, 1), dtype=torch.float64)
    means.tokens(loss_of(nothing, nothing), nothing[0], nothing == 0, nothing)
    found = means.means()
    assert math.isnan(found["rejected_positive"]), "no token has a positive advantage"
    assert found["ess_fraction"] == 0
    assert "clipped_share" not in found


@pytest.mark.parametrize("mask", [MASK.long(), MASK[:, :1], MASK[:1]], ids=str)
def test_what_stands_beside_tokens_has_their_shape(mask: Any) -> None:
    policy, actor = laws(MASK.shape)
    given, ones = proposed(policy, actor, TOKENS, MASK, VOCAB), torch.ones(3, 3, dtype=torch.float64)
    for call in (
        lambda: kl_to_actor(given, ones[:, :1], given.reference_on_topk, VOCAB),
        lambda: kl_to_actor(given, ones, given.reference_on_topk[..., :1], VOCAB),
        lambda: Means().tokens(loss_of(ones, ones), torch.ones(6).double(), mask, ones),
        lambda: Means().tokens(loss_of(ones, ones, mask), torch.ones(6).double(), MASK, ones),
        lambda: Means().tokens(loss_of(ones, ones), torch.ones(9).double(), MASK, ones),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=r"(mask|accepted|clipped|kl|log_probs|on_topk) (has shape|must)"
        ):
            call()
