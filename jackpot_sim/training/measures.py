"""What is recorded of a step: the mismatch of its rollouts, and what corrections made of them."""

from __future__ import annotations

from collections import defaultdict

from jackpot_sim.core import divergences
from jackpot_sim.core.backend import Array, logsumexp
from jackpot_sim.estimators import TokenWeights
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import Proposed


def mismatch(proposed: Proposed, vocab: int) -> dict[str, float]:
    """How far p_ref and the actor are apart, per token of the rollouts.

    KL(p_ref‖q), KL(q‖p_ref) and the overlap Z(1) are exact at every state where the actor's whole law was stored
    (`kl_exact` is 1), else estimated from the tokens alone, by r·ℓ − r + 1 and r − 1 − ℓ and min(1, r), whose means
    under q they are.
    """
    log_ratio = (proposed.reference_log_probs - proposed.actor_log_probs)[proposed.mask].double()
    laws = whole_laws(proposed, proposed.reference_on_topk, vocab)
    if laws is not None:
        kls = (divergences.kl(*laws), divergences.kl(*laws[::-1]))
        overlap = 1 - divergences.total_variation(*laws)
    else:
        ratio = log_ratio.exp()
        kls = (ratio * log_ratio - ratio + 1, ratio - 1 - log_ratio)
        overlap = ratio.clamp(max=1.0)
    return {
        "kl_policy_actor": float(kls[0].mean()),
        "kl_actor_policy": float(kls[1].mean()),
        "overlap": float(overlap.mean()),
        "kl_exact": float(laws is not None),
        "log_ratio_max": float(log_ratio.abs().max()),
    }


def kl_to_actor(proposed: Proposed, log_probs: Array, on_topk: Array | None, vocab: int) -> Array:
    """KL(p‖q) of a policy at every token, exact or estimated as in `mismatch`, (tokens,), nats.

    Args:
        proposed: the rollouts.
        log_probs: log p of every token, (n, length).
        on_topk: log p of the actor's likeliest tokens, (n, length, k); None if none were stored.
        vocab: tokens of a whole law.
    """
    laws = whole_laws(proposed, on_topk, vocab)
    if laws is not None:
        return divergences.kl(*laws)
    log_ratio = (log_probs - proposed.actor_log_probs)[proposed.mask].double()
    return log_ratio.exp() * (log_ratio - 1) + 1


def whole_laws(proposed: Proposed, on_topk: Array | None, vocab: int) -> tuple[Array, Array] | None:
    """A policy's law and the actor's at every token, (tokens, vocab); None where the actor's was not stored whole."""
    if proposed.topk is None or on_topk is None or proposed.topk.k < vocab:
        return None
    p, q = on_topk[proposed.mask].double(), proposed.topk.log_probs[proposed.mask].double()
    # Stored in float32, whose sums miss 1 in the seventh digit.
    return p - logsumexp(p, keepdims=True), q - logsumexp(q, keepdims=True)


class Means:
    """Running means over the updates of a step."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._largest = 0.0

    def tokens(
        self, pair: TokenWeights, factor: Array, log_policy_ratio: Array, kl: Array, proposed: Proposed, update: Update
    ) -> None:
        """Figures over the tokens of some sequences.

        Args:
            pair: their accept probabilities and weights.
            factor: m·w.
            log_policy_ratio: log p_new/p_ref.
            kl: KL(p_new‖q) of every token, (tokens,).
            proposed: the rollouts.
            update: how it clips.
        """
        mask = proposed.mask
        count = float(mask.sum())
        weight, ratio = factor[mask], log_policy_ratio[mask].exp()
        self._add("kl_new_actor", float(kl.sum()), count)
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
