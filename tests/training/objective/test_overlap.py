"""The ways to Z of every state from what the actor's rollouts tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core import normalizer, obrs
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.training import objective
from jackpot_sim.training.objective import Overlap
from tests.training.objective.laws import LAWS, MASK, NO_PASS, VOCAB, Laws


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


def ways_to_z(laws: Laws, k: int, lam: float, way: Overlap) -> Any:
    """Ẑ of the tokens, (tokens,)."""
    given_, log_ratio = laws.proposed(k), laws.of(laws.before) - laws.of(laws.actor)
    on_topk = given_.reference_on_topk, given_.topk
    return objective.estimated_overlap(*on_topk, log_ratio, MASK, lam, way=way, uniforms=laws.uniforms)[MASK]


@pytest.mark.parametrize("lam", [0.7, 1.0, 1.5])
def test_with_whole_laws_every_way_leads_to_z(lam: float) -> None:
    exact = torch.minimum(LAWS.actor.exp(), LAWS.before.exp() / lam).sum(-1)[MASK]
    for way in (Overlap.CALIBRATED, Overlap.TOPK, Overlap.EXACT):
        torch.testing.assert_close(ways_to_z(LAWS, VOCAB, lam, way), exact, rtol=0, atol=1e-6)
    # Kappa takes the batch's share of accepted tokens for its mean, whatever is stored.
    kept = (LAWS.uniforms < (LAWS.of(LAWS.before) - LAWS.of(LAWS.actor)).exp() / lam)[MASK].double().mean()
    kappa = ways_to_z(LAWS, VOCAB, lam, Overlap.KAPPA)
    torch.testing.assert_close(kappa, exact * kept / exact.mean(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_with_few_tokens_z_k_is_too_small_and_kappa_scales_it(k: int) -> None:
    largest = LAWS.actor.argsort(dim=-1, descending=True)[..., :k]
    q, p = (law.gather(-1, largest).exp() for law in (LAWS.actor, LAWS.before))
    z_k = torch.minimum(q, p / 1.5).sum(-1)[MASK]
    torch.testing.assert_close(ways_to_z(LAWS, k, 1.5, Overlap.TOPK), z_k, rtol=0, atol=1e-6)
    assert (z_k < ways_to_z(LAWS, VOCAB, 1.5, Overlap.EXACT)).all()
    kappa = ways_to_z(LAWS, k, 1.5, Overlap.KAPPA)
    assert torch.allclose(kappa / z_k, (kappa / z_k)[0], rtol=1e-5)
    with pytest.raises(ValueError, match=f"whole law at every state, and {k} tokens were told"):
        ways_to_z(LAWS, k, 1.5, Overlap.EXACT)


def test_kappa_is_unbiased_for_the_mean_of_z_and_z_k_is_not() -> None:
    laws, generator = Laws(), torch.Generator().manual_seed(1)
    exact = torch.minimum(laws.actor.exp(), laws.before.exp()).sum(-1)[MASK].mean()
    means = []
    for _ in range(1000):
        drawn = torch.multinomial(laws.actor.exp().reshape(-1, VOCAB), 1, generator=generator)
        laws.tokens = drawn.reshape(laws.tokens.shape)
        laws.uniforms = torch.rand(laws.uniforms.shape, generator=generator, dtype=torch.float64)
        means.append([float(ways_to_z(laws, 2, 1.0, way).mean()) for way in (Overlap.KAPPA, Overlap.TOPK)])
    kappa, z_k = np.array(means).T
    error = kappa.std() / math.sqrt(len(kappa))
    assert abs(kappa.mean() - float(exact)) < 4 * error
    assert abs(z_k.mean() - float(exact)) > 4 * error
