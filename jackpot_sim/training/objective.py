"""The objective of [J] §4.2, for any correction: advantages, PPO's surrogate, m·w, aggregation, distillation.

    −J_PPO-OBRS(θ) − J_PPO(ω) + λ_distill · E[KL(SG(p_new)‖p_ω)]

A token adds SG(m·w) · min(r_θ A, clip(r_θ, 1 − ε, 1 + ε) A) with r_θ = p_new/p_ref. The correction's factor leads
from the actor to p_ref, or to p_new where its spec says so, and there it carries p_ref/p_new ([J] §4.3). Torch only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.backend import Array
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Correction, Level, TokenWeights, UpdateTarget
from jackpot_sim.training.actors import Direction
from jackpot_sim.training.config import Aggregation, Divisor, Standardisation
from jackpot_sim.training.passes import ModelPass

STD_EPSILON = 1e-4
"""Added to a standard deviation of rewards, as TRL does."""


def advantages(rewards: Array, samples: int, standardisation: Standardisation = Standardisation.GROUP) -> Array:
    """GRPO's A = (R − mean of its group) / (std + 1e-4), shape (n,).

    Args:
        rewards: R, shape (n,), the `samples` rollouts of a prompt side by side.
        samples: the size of a group.
        standardisation: whose standard deviation (ddof 1) it is; rewards that are all equal give A = 0.
    """
    groups = rewards.reshape(-1, samples)
    centred = groups - groups.mean(-1, keepdims=True)
    # A mean of equal numbers may miss them by its rounding.
    centred = (centred * (groups != groups[:, :1]).any(-1, keepdims=True)).reshape(-1)
    if standardisation is Standardisation.NONE:
        return centred
    if standardisation is Standardisation.BATCH:
        return centred / (_std(rewards) + STD_EPSILON)
    return (centred.reshape(-1, samples) / (_std(groups)[:, None] + STD_EPSILON)).reshape(-1)


def _std(values: Array) -> Array:
    mean = values.mean(-1, keepdims=True)
    return (((values - mean) ** 2).sum(-1) / (values.shape[-1] - 1)) ** 0.5


@dataclass(frozen=True, eq=False)
class Proposed:
    """What the rollout left of the tokens that an update sees; (n, length) unless said.

    Attributes:
        actor_log_probs: log q of every token, nats.
        reference_log_probs: log p_ref, from before the update.
        mask: True on tokens.
        advantage: A, shape (n,).
        topk: the actor's likeliest tokens of every state, (n, length, k); None if none were stored.
        reference_on_topk: log p_ref of these, (n, length, k); None where no correction needs it.
        uniforms: in [0, 1), one for each token: it is kept iff its uniform is below its accept probability.
    """

    actor_log_probs: Array
    reference_log_probs: Array
    mask: Array
    advantage: Array
    topk: TopK | None
    reference_on_topk: Array | None
    uniforms: Array

    def take(self, rows: Array) -> Proposed:
        """Some of the sequences."""
        topk = None if self.topk is None else TopK(self.topk.ids[rows], self.topk.log_probs[rows])
        on_topk = None if self.reference_on_topk is None else self.reference_on_topk[rows]
        return Proposed(
            self.actor_log_probs[rows],
            self.reference_log_probs[rows],
            self.mask[rows],
            self.advantage[rows],
            topk,
            on_topk,
            self.uniforms[rows],
        )


def weigh(correction: Correction, target: UpdateTarget, proposed: Proposed, new: ModelPass) -> TokenWeights:
    """Accept probability and weight of every token, (n, length), without a graph, 0 at padding.

    Z is taken from the actor's stored top-k: the ends of `normalizer.bracket_on_topk`, and between them what the
    batch's mean acceptance says (`normalizer.calibrated`). With a whole vocabulary stored it is exact.

    Args:
        correction: any correction.
        target: whether it leads to p_ref or to p_new.
        proposed: the rollouts.
        new: the policy's pass over them; only p_new needs it.

    Raises:
        ValueError: as `Correction.weights`, or no top-k was stored where the correction needs Z.
    """
    mask, to_new = proposed.mask, target is UpdateTarget.POLICY
    reference = proposed.reference_log_probs
    aim = new.log_probs.detach() if to_new else reference
    log_ratio = (aim - proposed.actor_log_probs).double()
    overlap = None
    if correction.overlap_lam is not None:
        if proposed.topk is None:
            raise ValueError(f"{correction.name} needs the overlap, and the rollouts hold no top-k of the actor")
        on_topk = new.on(proposed.topk) if to_new else proposed.reference_on_topk
        overlap = estimated_overlap(on_topk, proposed.topk, log_ratio, mask, correction.overlap_lam)
    return correction.weights(
        log_ratio,
        overlap,
        log_reference_ratio=(reference - aim).double() if to_new else None,
        mask=mask,
        advantages=proposed.advantage.double()[:, None],
    )


def estimated_overlap(policy_on_topk: Array, topk: TopK, log_ratio: Array, mask: Array, lam: float) -> Array:
    """Ẑ(λ) of every state from stored top-k, float64 (n, length); 1 at padding."""
    import torch

    # In float32, as they are stored: sums of whole laws miss 1 in its seventh digit, which float64 would not forgive.
    low, high = normalizer.bracket_on_topk(policy_on_topk[mask].float(), topk.log_probs[mask], lam)
    out = torch.ones(mask.shape, dtype=torch.float64, device=mask.device)
    accept = obrs.acceptance_probability(log_ratio[mask], lam)
    out[mask] = normalizer.calibrated(low.double(), high.double(), accept)
    return out


def kept(pair: TokenWeights, uniforms: Array) -> tuple[Array, Array]:
    """m and m·w: which tokens their uniforms keep, and the weight of those, 0 of any other; both (n, length)."""
    import torch

    mask = uniforms < pair.accept
    return mask, torch.where(mask, pair.weight, torch.zeros_like(pair.weight))


def surrogate(
    new_log_probs: Array, old_log_probs: Array, advantage: Array, clip: float | None, clip_high: float | None = None
) -> Array:
    """min(r A, clip(r, 1 − ε, 1 + ε) A) of every token with r = p_new/p_old, (n, length); r A without a clip.

    Args:
        new_log_probs: log p_new, with its graph, (n, length), nats.
        old_log_probs: log p_old, the same shape.
        advantage: A, shape (n,).
        clip: ε below 1 and, unless `clip_high` is given, above it; None does not clip.
        clip_high: ε above 1.
    """
    import torch

    log_ratio, gain = new_log_probs - old_log_probs, advantage[:, None]
    if clip is not None:
        # A·min(r, 1 + ε) where A > 0 and A·max(r, 1 − ε) where A < 0: clipped before exp, which might overflow.
        high = math.log1p(clip if clip_high is None else clip_high)
        low = math.log1p(-clip) if clip < 1 else -math.inf
        log_ratio = torch.where(gain > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    # Without an advantage there is no gain, whatever the ratio.
    return torch.exp(torch.where(gain == 0, torch.zeros_like(log_ratio), log_ratio)) * gain


def token_shares(mask: Array, aggregation: Aggregation) -> Array:
    """What a token's term counts in the loss of a minibatch, (n, length): they add up to 1 for the two means."""
    there = mask.double()
    if aggregation is Aggregation.TOKEN_MEAN:
        return there / there.sum()
    if aggregation is Aggregation.SEQUENCE_MEAN:
        return there / (there.sum(-1, keepdims=True) * len(mask))
    return there / len(mask)


def divisor(kind: Divisor, kept: Array, factor: Array, mask: Array, unit: Level = Level.TOKEN) -> float:
    """The divisor of a minibatch's loss beside its number of tokens: 1, the share kept, or the mean m·w.

    It is 1 where nothing is left to divide by: then the loss is 0.

    Args:
        kind: which.
        kept: m, the tokens that the correction's masks keep, (n, length).
        factor: m·w, (n, length).
        mask: True on tokens.
        unit: the unit of a mean of weights: tokens, or sequences, whose tokens all weigh the same.
    """
    if kind is Divisor.PROPOSED:
        return 1.0
    if kind is Divisor.ACCEPTED:
        mean = float(kept[mask].double().mean())
    elif unit is Level.SEQUENCE:
        mean = float(((factor * mask).sum(-1) / mask.sum(-1)).mean())
    else:
        mean = float(factor[mask].mean())
    return mean if mean > 0 else 1.0


def distillation(policy_law: Array, actor_law: Array, direction: Direction) -> Array:
    """KL(p_new‖p_ω) or KL(p_ω‖p_new) at every state, (n, length), nats; of the actor's law alone is there a gradient.

    Args:
        policy_law: log p_new, (n, length, vocab).
        actor_law: log p_ω with its graph, the same shape.
        direction: which of the two.
    """
    policy_law = policy_law.detach()
    first, second = (policy_law, actor_law) if direction is Direction.FORWARD else (actor_law, policy_law)
    return (first.exp() * (first - second)).sum(-1)


def lam_at(rejected: float, log_ratio: Array, mask: Array) -> float:
    """The λ at which the mean of 1 − min(1, r/λ) over the tokens of a batch is `rejected`.

    In μ = 1/λ the mean acceptance Σ min(1, μ r)/n is piecewise linear: sorted by r, with the k largest at 1, it is
    (k + μ Σ_rest r)/n.

    Args:
        rejected: a share in (0, 1).
        log_ratio: log p/q of the tokens, (n, length), nats; one of −inf is rejected at any λ.
        mask: True on tokens.

    Raises:
        ValueError: no λ rejects so few, for the policy never writes more of the tokens than that.
    """
    import torch

    ratio = torch.sort(torch.exp(log_ratio[mask].double())).values
    accepted = (1 - rejected) * len(ratio)
    below = torch.cumsum(ratio, 0)  # Σ of the k smallest
    ones = torch.arange(len(ratio) - 1, -1, -1, dtype=torch.float64, device=ratio.device)
    # With the smallest k below the bend and the others at 1, the root is μ = (accepted − ones)/below.
    root = (accepted - ones) / below
    fits = torch.nonzero((root * ratio <= 1) & (root > 0))  # the k-th is below the bend indeed
    if not len(fits):
        raise ValueError(
            f"no lam rejects as few as {rejected:g} of the tokens: {int((ratio == 0).sum())} of {len(ratio)} are "
            "beyond the policy, and rejected at any lam; give a larger share"
        )
    return float(1 / root[int(fits[-1])])
