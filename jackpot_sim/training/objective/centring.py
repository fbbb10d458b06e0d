"""The part of a centred correction's loss that subtracts the mean of each state. Torch only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from jackpot_sim.core.checks import check_per_token
from jackpot_sim.estimators import Correction, Tokens, UpdateTarget
from jackpot_sim.estimators.corrections.centring import coefficients, expected_with_tail, with_tail
from jackpot_sim.training.objective.batch import Proposed, Scored, of_tokens

if TYPE_CHECKING:
    from torch import Tensor

Surrogate: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
"""(log p_new (m, j), log p_ref (m, j), A (m,)) → the term of each token, (m, j)."""


def mean_loss(
    correction: Correction,
    target: UpdateTarget,
    tokens: Tokens,
    given: Proposed,
    new: Scored,
    shares: Tensor,
    surrogate: Surrogate,
) -> Tensor:
    """Σ share · E_{v~q}[a·w·surrogate(v) | s] over tokens, a number with its graph: what a centred loss adds.

    At each token the mean is over all that the actor might have written there, with the token's A held fixed. It is
    taken from the actor's stored top-k and a model of the tail, see `estimators.corrections.centring`, and is exact
    where the whole vocabulary was stored. Its gradient is that of Σ_v q·a·w·(p_new/p_ref)·A·∇log p_new(v) over the
    v at which the surrogate is not clipped; these coefficients have no gradient themselves.

    Args:
        correction: a correction of single tokens.
        target: the policy to which it leads.
        tokens: the rollouts as the correction weighs them, see `tokens_of`: their Z is used.
        given: the rollouts, with the actor's top-k.
        new: the policy's pass over them, with its graph.
        shares: the `token_shares` of the minibatch, (n, length).
        surrogate: the term of a token, as in the rest of the loss.

    Raises:
        TypeError: shares are no real floating numbers.
        ValueError: no top-k was stored, a shape differs, or as `expected_with_tail`.
    """
    import torch

    check_per_token(given.mask, shares=shares)
    topk, on_topk = given.topk, given.reference_on_topk
    if topk is None or on_topk is None:
        raise ValueError(f"{correction.name} needs the actor's likeliest tokens, and the rollouts hold no top-k of it")
    advantages = of_tokens(given.advantage, given.mask, "mask").expand(given.mask.shape)
    live = given.mask & (advantages != 0)
    if not bool(live.any()):
        return torch.zeros_like(shares).sum()
    own = new.on(topk, graph=True)[live]
    log_probs = own.double()
    advantage = advantages[live].double()
    with torch.no_grad():
        actor, before, after = (
            torch.as_tensor(with_tail(each.double(), widened_from=each))
            for each in (torch.as_tensor(topk.log_probs)[live], on_topk[live], own)
        )
        # A token that the actor cannot write counts for nothing, and may have no ratio: 1 stands for it.
        never = actor.isneginf()
        old, moved = (each.masked_fill(never, 0.0) for each in (before, after))
        to_new = target is UpdateTarget.POLICY
        expected = torch.as_tensor(
            expected_with_tail(
                correction,
                after if to_new else before,
                actor,
                overlap=None if tokens.overlap is None else torch.as_tensor(tokens.overlap)[live],
                advantages=advantage,
                log_reference_ratio=old - moved if to_new else None,
            )
        )
    with torch.enable_grad():
        gain = surrogate(moved.requires_grad_(), old, advantage)
        (slope,) = torch.autograd.grad(gain.sum(), moved)
    with torch.no_grad():
        means = (actor.exp() * expected * gain).sum(-1)
        coefficient = torch.as_tensor(coefficients(expected * slope, after, actor))
    log_probs = log_probs.masked_fill(never[..., :-1], 0.0)
    # The second sum is 0, and has the gradient.
    means = means + (coefficient * (log_probs - log_probs.detach())).sum(-1)
    return (shares[live] * means).sum()
