"""What is recorded of a step: the mismatch of its rollouts, and what corrections made of them."""

from __future__ import annotations

from collections import defaultdict

from jackpot_sim.core import divergences
from jackpot_sim.core.backend import Array
from jackpot_sim.estimators import TokenWeights
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import Proposed


def mismatch(proposed: Proposed, vocab: int) -> dict[str, float]:
    """How far p_ref and the actor are apart, per token of the rollouts.

    KL(p_ref‖q), KL(q‖p_ref) and the overlap Z(1) are exact at every state where the actor's whole law was stored
    (`kl_exact` is 1), else estimated from the tokens alone, by r·ℓ − r + 1 and r − 1 − ℓ and min(1, r), whose means
    under q they are.
    """
    mask = proposed.mask
    log_ratio = (proposed.reference_log_probs - proposed.actor_log_probs)[mask].double()
    out = {"log_ratio_max": float(log_ratio.abs().max())}
    if proposed.topk is not None and proposed.topk.k >= vocab:
        p, q = proposed.reference_on_topk[mask].double(), proposed.topk.log_probs[mask].double()
        p, q = (law - law.logsumexp(-1, keepdim=True) for law in (p, q))  # float32 sums miss 1 in the 7th digit
        kls = (divergences.kl(p, q), divergences.kl(q, p))
        overlap = 1 - divergences.total_variation(p, q)
        exact = 1.0
    else:
        ratio = log_ratio.exp()
        kls = (ratio * log_ratio - ratio + 1, ratio - 1 - log_ratio)
        overlap, exact = ratio.clamp(max=1.0), 0.0
    out |= {"kl_policy_actor": float(kls[0].mean()), "kl_actor_policy": float(kls[1].mean())}
    return out | {"overlap": float(overlap.mean()), "kl_exact": exact}


class Means:
    """Running means over the updates of a step."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._largest = 0.0

    def tokens(
        self, pair: TokenWeights, factor: Array, log_policy_ratio: Array, proposed: Proposed, update: Update
    ) -> None:
        """Figures over the tokens of some sequences.

        Args:
            pair: their accept probabilities and weights.
            factor: m·w.
            log_policy_ratio: log p_new/p_ref.
            proposed: the rollouts.
            update: how it clips.
        """
        mask = proposed.mask
        count = float(mask.sum())
        weight, ratio = factor[mask], log_policy_ratio[mask].exp()
        self._add("acceptance_rate", float(pair.accept[mask].sum()), count)
        self._add("weight_mean", float(weight.sum()), count)
        self._add("weight_sq", float((weight**2).sum()), count)
        self._largest = max(self._largest, float(weight.max()))
        if update.clip is not None:
            sign = proposed.advantage[:, None].expand(mask.shape)[mask]
            high = update.clip if update.clip_high is None else update.clip_high
            clipped = ((ratio > 1 + high) & (sign > 0)) | ((ratio < 1 - update.clip) & (sign < 0))
            self._add("clipped_share", float(clipped.sum()), count)

    def update(self, **figures: float) -> None:
        """Figures of one update."""
        for name, value in figures.items():
            self._add(name, value, 1.0)

    def means(self) -> dict[str, float]:
        """All of them."""
        found = {name: self._sums[name] / self._counts[name] for name in self._sums}
        second = found.pop("weight_sq")
        found["ess_fraction"] = found["weight_mean"] ** 2 / second if second > 0 else 0.0
        return found | {"weight_max": self._largest}

    def _add(self, name: str, value: float, count: float) -> None:
        self._sums[name] += value
        self._counts[name] += count
