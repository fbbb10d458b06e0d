"""The losses of [J] §4.2, for any correction: of the policy, and of an actor that learns. Torch only."""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from jackpot_sim.core.checks import check_mask, check_per_token, check_reals, check_same_shape
from jackpot_sim.estimators import Correction, Denominator, Level, Tokens, TokenWeights, UpdateTarget
from jackpot_sim.training.objective.batch import ModelPass, Proposed, Scored, of_tokens
from jackpot_sim.training.objective.centring import mean_loss
from jackpot_sim.training.objective.weights import draw, tokens_of, weights_of

if TYPE_CHECKING:
    from torch import Tensor


class Aggregation(StrEnum):
    """The way from the terms of a minibatch's tokens to one loss."""

    TOKEN_MEAN = "token-mean"
    """The mean over all tokens (DAPO)."""
    SEQUENCE_MEAN = "sequence-mean"
    """The mean over sequences of the mean over their tokens (GRPO)."""
    SEQUENCE_SUM = "sequence-sum"
    """The mean over sequences of the sum over their tokens: the policy gradient itself."""
    KEPT_MEAN = "kept-mean"
    """The mean over sequences of the mean over the tokens that masks keep (verl's seq-mean-token-mean)."""


class Divisor(StrEnum):
    """The divisor of an update's weighted sum, beside the tokens or sequences that it aggregates.

    PROPOSED: none. ACCEPTED: the share of the minibatch's tokens that its masks keep. KEPT_SEQUENCES: the share of its
    sequences of which they keep a token. BATCH_NORMALIZED: the mean m·w of the minibatch, over tokens or, for
    corrections of whole sequences, over sequences; p_new/p_ref is no part of it. PROPOSED and ACCEPTED are the
    denominators of the same names in `estimators.Denominator`, with a minibatch as the batch; `self_normalized` there
    is another estimator, which divides the update of each prompt by its own weights.
    """

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    KEPT_SEQUENCES = "kept_sequences"
    BATCH_NORMALIZED = "batch_normalized"

    @classmethod
    def of(cls, denominator: Denominator) -> Divisor:
        """The divisor that a preset's denominator becomes; weights are then normalised over a minibatch."""
        return cls.BATCH_NORMALIZED if denominator is Denominator.SELF_NORMALIZED else cls(str(denominator))


class Direction(StrEnum):
    """The direction of the distillation's KL: [J] eq. 7 has the forward one, its tables say "Reverse KL"."""

    FORWARD = "forward"
    """KL(p_new‖p_ω): the actor covers the policy."""
    REVERSE = "reverse"
    """KL(p_ω‖p_new)."""


class LossSettings(Protocol):
    """The fields of `config.Update` that shape the loss of a minibatch."""

    @property
    def aggregation(self) -> Aggregation:
        """The way from tokens to one loss."""

    @property
    def clip(self) -> float | None:
        """PPO's ε below 1 and, unless `clip_high` is given, above it; None does not clip."""

    @property
    def clip_high(self) -> float | None:
        """PPO's ε above 1."""

    @property
    def bypass(self) -> bool:
        """The rollout's log-probs take the place of p_ref's; without a clip, the correction that of PPO's ratio."""


# --- The losses -------------------------------------------------------------------------------------------------------


class PolicyLoss(NamedTuple):
    """The policy's loss over some sequences and what made it; (n, length) unless said."""

    loss: Tensor
    """−Σ share · m·w · min(r A, clip(r) A) over tokens, a number with its graph; a `divisor` is not applied yet.

    A centred correction adds `mean_loss`; shares and divisor are those of the token's own terms. With a bypass r is
    p_new/q where PPO clips, and else 1 with the gradient of log p_new.
    """
    weights: TokenWeights[Tensor]
    """Accept probability and weight of every token, 0 at padding."""
    accepted: Tensor
    """m: True on the tokens that their uniforms keep."""
    factor: Tensor
    """m·w, of which no gradient is taken."""
    clipped: Tensor | None
    """True on the tokens whose term is clipped and so has no gradient; None where PPO does not clip."""
    outside: tuple[Tensor, Tensor] | None = None
    """True on tokens below, and above, the bounds of the correction; None where it has none."""
    tokens: Tokens | None = None
    """The tokens as the correction saw them: log-ratios, and Ẑ where it looks at it."""


def policy_loss(
    correction: Correction,
    target: UpdateTarget,
    given: Proposed,
    new: Scored,
    update: LossSettings,
    shares: Tensor | None = None,
) -> PolicyLoss:
    """The loss −J_PPO-OBRS(θ) of a minibatch, or of a part of one.

    Args:
        correction: any correction.
        target: the policy to which the correction leads, p_ref or p_new.
        given: the rollouts.
        new: the policy's pass over them, with its graph.
        update: aggregation and clipping.
        shares: the `token_shares` of the minibatch that `given` is a part of, (n, length); None: `given` is all of it.

    Raises:
        TypeError: shares are no real floating numbers.
        ValueError: as `weigh`, or the pass or the shares are of other sequences.
    """
    import torch

    new.check(given.mask)
    if update.bypass and correction.subtracts_mean:
        raise ValueError(f"{correction.name} has no form for a bypass: leave bypass out, or the centring")
    if shares is None:
        shares = token_shares(given.mask, update.aggregation)
    check_per_token(given.mask, shares=shares)
    with torch.no_grad():
        tokens = tokens_of(correction, target, _bypassed(given, new) if update.bypass else given, new)
        weights = weights_of(correction, tokens)
        accepted, factor = draw(weights, given.uniforms)
        if update.aggregation is Aggregation.KEPT_MEAN:
            shares = shares * _tokens_over_kept(accepted, given.mask)
        old = given.reference_log_probs
        if update.bypass:
            old = new.log_probs.detach() if update.clip is None else given.actor_log_probs
        clipped = _clipped(new.log_probs.detach(), old, given.advantage, update)
    loss = ppo_loss(factor * shares, new.log_probs, old, given.advantage, given.mask, update)
    if correction.subtracts_mean:
        gain = partial(surrogate, clip=update.clip, clip_high=update.clip_high)
        loss = loss + mean_loss(correction, target, tokens, given, new, shares, gain)
    return PolicyLoss(loss, weights, accepted, factor, clipped, _outside(correction, tokens, given.mask), tokens)


def _outside(correction: Correction, tokens: Tokens, mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """The tokens below, and above, the bounds of a correction, (n, length); None where it has none."""
    import torch

    if (found := correction.outside(tokens)) is None:
        return None
    below, above = (torch.as_tensor(each) & mask for each in found)
    return below, above


def _bypassed(given: Proposed, new: Scored) -> Proposed:
    """The rollouts with p_new in the place of p_ref, which is the policy that a correction leads to in bypass mode."""
    return dataclasses.replace(
        given,
        reference_log_probs=new.log_probs.detach(),
        reference_on_topk=None if given.topk is None else new.on(given.topk),
    )


class ActorLoss(NamedTuple):
    """The loss of an actor that learns, over some sequences; both are numbers with their graphs."""

    loss: Tensor
    """−J_PPO(ω) + λ_distill · KL."""
    kl: Tensor
    """Σ share · KL over tokens, nats; 0 without distillation."""


def actor_loss(
    given: Proposed,
    new: ModelPass,
    own: ModelPass,
    update: LossSettings,
    shares: Tensor,
    *,
    ppo: bool,
    direction: Direction | None,
    weight: float,
) -> ActorLoss:
    """The loss −J_PPO(ω) + λ_distill · E[KL] of a minibatch, or of a part of one.

    Args:
        given: the rollouts, which the actor before this step wrote: p_ω,ref/p_inf is 1.
        new: the policy's pass over them.
        own: the actor's pass, with its graph.
        update: clipping.
        shares: as in `policy_loss`.
        ppo: whether the actor is rewarded too.
        direction: the direction of the distillation's KL; None distils nothing.
        weight: λ_distill.

    Raises:
        TypeError: shares are no real floating numbers.
        ValueError: a pass or the shares are of other sequences.
    """
    check_per_token(given.mask, shares=shares)
    for each in (new, own):
        each.check(given.mask)
    check_same_shape(new.logits, own.logits, "new.logits", "own.logits")
    loss = kl = 0.0 * _summed(own.log_probs, given.mask)
    if ppo:
        loss = loss + ppo_loss(shares, own.log_probs, given.actor_log_probs, given.advantage, given.mask, update)
    if direction is not None:
        kl = _summed(shares * distillation(new.law(), own.law(), direction), given.mask)
        loss = loss + weight * kl
    return ActorLoss(loss, kl)


# --- The terms of a token ---------------------------------------------------------------------------------------------


def ppo_loss(
    factor: Tensor, new_log_probs: Tensor, old_log_probs: Tensor, advantage: Tensor, mask: Tensor, update: LossSettings
) -> Tensor:
    """−Σ factor · min(r A, clip(r, 1 − ε, 1 + ε) A) over the tokens with r = p_new/p_old, a number.

    Args:
        factor: the constant of each token, its share in the minibatch included, (n, length), at least 0.
        new_log_probs: log p_new, with its graph, (n, length), nats.
        old_log_probs: log p_old, the same shape.
        advantage: A, shape (n,) or (n, length).
        mask: True on tokens, (n, length).
        update: clipping.

    Raises:
        TypeError: the mask is not boolean, or another array holds no real floating numbers.
        ValueError: a shape differs.
    """
    import torch

    check_per_token(mask, factor=factor, new_log_probs=new_log_probs, old_log_probs=old_log_probs)
    # A token that counts for nothing has no ratio either, which might overflow, or be 0/0.
    counts = (factor > 0) & mask
    new, old = (torch.where(counts, each, torch.zeros_like(each)) for each in (new_log_probs, old_log_probs))
    return -_summed(factor * surrogate(new, old, advantage, update.clip, update.clip_high), mask)


def _summed(values: Tensor, mask: Tensor) -> Tensor:
    """The sum over tokens, whatever stands at padding, inf and nan included."""
    return values[mask].sum()


def surrogate(
    new_log_probs: Tensor, old_log_probs: Tensor, advantage: Tensor, clip: float | None, clip_high: float | None = None
) -> Tensor:
    """min(r A, clip(r, 1 − ε, 1 + ε) A) of every token with r = p_new/p_old, (n, length); r A without a clip.

    Args:
        new_log_probs: log p_new, with its graph, (n, length), nats.
        old_log_probs: log p_old, the same shape.
        advantage: A, shape (n,) or (n, length).
        clip: ε below 1 and, unless `clip_high` is given, above it; None does not clip.
        clip_high: ε above 1.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape differs.
    """
    import torch

    check_reals(new_log_probs, "new_log_probs", "n", "length")
    check_same_shape(new_log_probs, check_reals(old_log_probs, "old_log_probs"), "new_log_probs", "old_log_probs")
    log_ratio, gain = new_log_probs - old_log_probs, of_tokens(advantage, new_log_probs, "new_log_probs")
    if clip is not None:
        # A·min(r, 1 + ε) where A > 0 and A·max(r, 1 − ε) where A < 0: clipped before exp, which might overflow.
        high = math.log1p(clip if clip_high is None else clip_high)
        low = math.log1p(-clip) if clip < 1 else -math.inf
        log_ratio = torch.where(gain > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
    # Without an advantage there is no gain, whatever the ratio.
    return torch.exp(torch.where(gain == 0, torch.zeros_like(log_ratio), log_ratio)) * gain


def _clipped(new_log_probs: Tensor, old_log_probs: Tensor, advantage: Tensor, update: LossSettings) -> Tensor | None:
    """True on the tokens at which `surrogate` is clipped, (n, length); None where it never is."""
    if update.clip is None:
        return None
    ratio, gain = (new_log_probs - old_log_probs).exp(), of_tokens(advantage, new_log_probs, "new_log_probs")
    high = update.clip if update.clip_high is None else update.clip_high
    return ((ratio > 1 + high) & (gain > 0)) | ((ratio < 1 - update.clip) & (gain < 0))


def distillation(policy_law: Tensor, actor_law: Tensor, direction: Direction) -> Tensor:
    """KL(p_new‖p_ω) or KL(p_ω‖p_new) at every state, (n, length), nats, with a gradient to the actor's law alone.

    Args:
        policy_law: log p_new, (n, length, vocab).
        actor_law: log p_ω with its graph, the same shape.
        direction: the direction of the KL.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape differs.
    """
    check_reals(policy_law, "policy_law", "n", "length", "vocab")
    check_same_shape(policy_law, check_reals(actor_law, "actor_law"), "policy_law", "actor_law")
    policy_law = policy_law.detach()
    first, second = (policy_law, actor_law) if direction is Direction.FORWARD else (actor_law, policy_law)
    share, outside = first.exp(), first.isneginf()
    if bool(outside.any()):  # of a recorded support: 0·log 0 is 0, and has no gradient
        first, second = (law.masked_fill(outside, 0.0) for law in (first, second))
    return (share * (first - second)).sum(-1)


# --- From tokens to a minibatch ---------------------------------------------------------------------------------------


def token_shares(mask: Tensor, aggregation: Aggregation) -> Tensor:
    """The share of each token in the loss of a minibatch, float64 (n, length).

    The shares add up to 1 for the means; those of KEPT_MEAN are for sequences of which every token is kept.

    Args:
        mask: True on tokens, (n, length).
        aggregation: the way from tokens to one loss.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask is not of shape (n, length).
    """
    check_per_token(mask)
    live = mask.double()
    if aggregation is Aggregation.TOKEN_MEAN:
        return live / live.sum()
    if aggregation in (Aggregation.SEQUENCE_MEAN, Aggregation.KEPT_MEAN):
        return live / (live.sum(-1, keepdim=True) * len(mask))
    return live / len(mask)


def _tokens_over_kept(accepted: Tensor, mask: Tensor) -> Tensor:
    """The tokens of each sequence over those that are kept, (n, 1); 1 where none is."""
    tokens, kept = (each.double().sum(-1, keepdim=True) for each in (mask, accepted & mask))
    return (tokens / kept).where(kept > 0, 1.0)


def divisor(kind: Divisor, accepted: Tensor, factor: Tensor, mask: Tensor, unit: Level = Level.TOKEN) -> float:
    """The divisor of a minibatch's loss beside its number of tokens: 1, a share kept, or the mean m·w.

    It is 1 where the masks keep nothing: then the loss is 0. A row without a token is padding, and no sequence.

    Args:
        kind: the rule.
        accepted: m, the tokens that the correction's masks keep, (n, length).
        factor: m·w, (n, length).
        mask: True on tokens, (n, length).
        unit: the unit of a mean of weights: tokens, or sequences, whose tokens all weigh the same.

    Raises:
        TypeError: a mask is not boolean, or the factor holds no real floating numbers.
        ValueError: a shape differs.
    """
    check_per_token(mask, factor=factor)
    check_mask(accepted, mask, "mask", "accepted")
    if kind is Divisor.PROPOSED:
        return 1.0
    if kind is Divisor.ACCEPTED:
        mean = float(accepted[mask].double().mean())
    elif kind is Divisor.KEPT_SEQUENCES:
        mean = float((accepted & mask)[mask.any(-1)].any(-1).double().mean())
    elif unit is Level.SEQUENCE:
        live = mask[mask.any(-1)]
        mean = float(((factor[mask.any(-1)] * live).sum(-1) / live.sum(-1)).mean())
    else:
        mean = float(factor[mask].mean())
    return mean if mean > 0 else 1.0
