"""The figures that are recorded of a step: the mismatch of its rollouts, and means over its updates."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from jackpot_sim.core import divergences, log_ratios
from jackpot_sim.core.backend import logsumexp
from jackpot_sim.core.checks import check_mask, check_per_token, check_reals, check_shape
from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.core.numerics import mul_exp
from jackpot_sim.training.objective import PolicyLoss, Proposed, check_on_topk, of_tokens

if TYPE_CHECKING:
    from torch import Tensor

PERCENTILES = {"overlap_p1": 0.01, "overlap_p5": 0.05, "overlap_p50": 0.5}
"""The percentiles of the overlap over the tokens of a step."""


def mismatch(proposed: Proposed, vocab: int) -> dict[str, float]:
    """The distance between p_ref and the actor, over the tokens of the rollouts; see `records.FIGURES`.

    The KLs, χ²(p_ref‖q) and the overlap Z(1) are exact at every state where the actor's whole law was stored
    (`kl_exact` is 1), else estimated from tokens alone, by r·ℓ − r + 1, r − 1 − ℓ, r² − 1 and min(1, r), whose means
    under q they are. The overlap's percentiles and the entropy are nan without whole laws.
    """
    import torch

    each = (proposed.reference_log_probs - proposed.actor_log_probs).double()
    log_ratio = each[proposed.mask]
    ratio = log_ratio.exp()
    k3 = ratio - 1 - log_ratio
    of_states = dict.fromkeys((*PERCENTILES, "entropy"), math.nan)
    laws = whole_laws(proposed, proposed.reference_on_topk, vocab)
    if laws is not None:
        policy, actor = laws
        forward, backward = (torch.as_tensor(divergences.kl(*pair)) for pair in (laws, (actor, policy)))
        chi_square = torch.as_tensor(divergences.chi_square(*laws))
        overlap = 1 - torch.as_tensor(divergences.total_variation(*laws))
        shares = overlap.new_tensor(list(PERCENTILES.values()))
        of_states = dict(zip(PERCENTILES, overlap.quantile(shares).tolist(), strict=True))
        of_states["entropy"] = float(-torch.as_tensor(mul_exp(policy, policy)).sum(-1).mean())
    else:
        forward, backward = ratio * log_ratio - ratio + 1, k3
        chi_square = torch.as_tensor(log_ratios.chi_square_term(log_ratio))
        overlap = ratio.clamp(max=1.0)
    gap = -torch.as_tensor(log_ratios.aggregate(each, proposed.mask, Aggregate.MEAN))
    return {
        "kl_policy_actor": float(forward.mean()),
        "kl_actor_policy": float(backward.mean()),
        "chi_square": float(chi_square.mean()),
        "overlap": float(overlap.mean()),
        **of_states,
        "kl_exact": float(laws is not None),
        "k1": float(-log_ratio.mean()),
        "k3": float(k3.mean()),
        "ess_ratio": float(log_ratios.effective_sample_size(ratio)),
        "perplexity_gap": float(gap[proposed.mask.any(-1)].mean()),
        "log_ratio_max": float(log_ratio.abs().max()),
    }


def kl_to_actor(proposed: Proposed, log_probs: Tensor, on_topk: Tensor | None, vocab: int) -> Tensor:
    """KL(p‖q) of a policy at every token, exact or estimated as in `mismatch`, (tokens,), nats.

    Args:
        proposed: the rollouts.
        log_probs: log p of every token, (n, length), nats.
        on_topk: log p of the actor's likeliest tokens, (n, length, k), nats; None if none were stored.
        vocab: tokens of a whole law.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape is not that of the rollouts.
    """
    import torch

    check_per_token(proposed.mask, log_probs=log_probs)
    laws = whole_laws(proposed, on_topk, vocab)
    if laws is not None:
        return torch.as_tensor(divergences.kl(*laws))
    log_ratio = (log_probs - proposed.actor_log_probs)[proposed.mask].double()
    return log_ratio.exp() * (log_ratio - 1) + 1


def whole_laws(proposed: Proposed, on_topk: Tensor | None, vocab: int) -> tuple[Tensor, Tensor] | None:
    """A policy's law and the actor's at every token, (tokens, vocab), nats; None unless the actor's was stored whole.

    Arguments and errors as `kl_to_actor`.
    """
    import torch

    if proposed.topk is None or on_topk is None:
        return None
    check_on_topk(on_topk, proposed.topk, "on_topk")
    if proposed.topk.k < vocab:
        return None
    on_tokens = (on_topk[proposed.mask], proposed.topk.log_probs[proposed.mask])
    p, q = (torch.as_tensor(law).double() for law in on_tokens)
    # Stored in float32, whose sums miss 1 in the seventh digit.
    return p - torch.as_tensor(logsumexp(p, keepdims=True)), q - torch.as_tensor(logsumexp(q, keepdims=True))


class Means:
    """Means over the updates of a step, or over the tokens of these."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._largest = 0.0

    def tokens(self, policy: PolicyLoss, kl: Tensor, mask: Tensor, advantage: Tensor) -> None:
        """Adds the figures of the tokens of some sequences.

        Args:
            policy: the policy's loss over them.
            kl: KL(p_new‖q) of every token, (tokens,), nats.
            mask: True on tokens, (n, length).
            advantage: A, shape (n,) or (n, length).

        Raises:
            TypeError: the mask is not boolean, or another array holds no real floating numbers.
            ValueError: a shape differs.
        """
        check_per_token(mask, factor=policy.factor, accept=policy.weights.accept)
        check_mask(policy.accepted, mask, "mask", "accepted")
        if policy.clipped is not None:
            check_mask(policy.clipped, mask, "mask", "clipped")
        count = float(mask.sum())
        check_shape(check_reals(kl, "kl"), (int(count),), "kl", "one number per token of the mask")
        weight = policy.factor[mask]
        self._add("kl_new_actor", float(kl.sum()), count)
        self._add("acceptance_rate", float(policy.weights.accept[mask].sum()), count)
        self._add("weight_mean", float(weight.sum()), count)
        self._add("weight_sq", float((weight**2).sum()), count)
        self._largest = max(self._largest, float(weight.max()))
        advantage = of_tokens(advantage, mask, "mask")
        for name, some in (("rejected_positive", advantage > 0), ("rejected_negative", advantage < 0)):
            self._add(name, float((mask & some & ~policy.accepted).sum()), float((mask & some).sum()))
        if policy.clipped is not None:
            self._add("clipped_share", float(policy.clipped[mask].sum()), count)
        for name, outside in zip(("share_below", "share_above"), policy.outside or (), strict=False):
            self._add(name, float(outside[mask].sum()), count)

    def update(self, **figures: float) -> None:
        """Adds the figures of one update."""
        for name, value in figures.items():
            self._add(name, value, 1.0)

    def means(self) -> dict[str, float]:
        """The means, by column; nan of what no token was in."""
        means = {name: self._sums[name] / count if (count := self._counts[name]) else math.nan for name in self._sums}
        second = means.pop("weight_sq")
        means["ess_fraction"] = means["weight_mean"] ** 2 / second if second > 0 else 0.0
        return means | {"weight_max": self._largest}

    def _add(self, name: str, value: float, count: float) -> None:
        self._sums[name] += value
        self._counts[name] += count
