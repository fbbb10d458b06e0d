"""The weights m·w that a correction gives the tokens of a batch. Torch only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.checks import check_per_token, check_reals, check_same_shape, check_same_states
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Correction, Tokens, TokenWeights, UpdateTarget
from jackpot_sim.training.objective.batch import Overlap, Proposed, Scored, check_on_topk, of_tokens

if TYPE_CHECKING:
    from torch import Tensor

_WHOLE = 1e-4
"""The largest width of a bracket that is float32's rounding of sums over a whole law."""


def weigh(correction: Correction, target: UpdateTarget, given: Proposed, new: Scored) -> TokenWeights[Tensor]:
    """Accept probability and weight of every token, (n, length), float64 without a graph, 0 at padding.

    Args:
        correction: any correction.
        target: the policy to which it leads, p_ref or p_new.
        given: the rollouts.
        new: the policy's pass over them; only p_new needs it.

    Raises:
        ValueError: as `Correction.weights`, no top-k was stored where the correction needs Z, or the pass is over
            other sequences.
    """
    return weights_of(correction, tokens_of(correction, target, given, new))


def weights_of(correction: Correction, tokens: Tokens) -> TokenWeights[Tensor]:
    """Accept probability and weight of tokens that are torch tensors; errors as `Correction.weights`."""
    import torch

    accept, weight = correction.weights(tokens)
    return TokenWeights(torch.as_tensor(accept), torch.as_tensor(weight))


def tokens_of(correction: Correction, target: UpdateTarget, given: Proposed, new: Scored) -> Tokens:
    """The tokens of a batch, (n, length), float64, with all that a correction may look at.

    Z is taken from the actor's stored top-k by the way of `given.overlap`, see `estimated_overlap`. With a whole
    vocabulary stored it is exact, but for kappa; with nothing stored, and `overlap_of_batch`, it is the mean acceptance
    probability of the batch at every state.

    Arguments and errors as `weigh`.
    """
    to_new = target is UpdateTarget.POLICY
    if to_new:
        new.check(given.mask)
    actor, reference = given.actor_log_probs.double(), given.reference_log_probs.double()
    aim = new.log_probs.detach().double() if to_new else reference
    log_ratio = aim - actor
    overlap, lam = None, correction.overlap_lam
    if lam is not None:
        if given.topk is None and not given.overlap_of_batch:
            raise ValueError(f"{correction.name} needs the overlap, and the rollouts hold no top-k of the actor")
        on_topk = None if given.topk is None else new.on(given.topk) if to_new else given.reference_on_topk
        overlap = estimated_overlap(
            on_topk, given.topk, log_ratio, given.mask, float(lam), way=given.overlap, uniforms=given.uniforms
        )
    return Tokens(
        log_ratio,
        policy_log_probs=aim,
        actor_log_probs=actor,
        overlap=overlap,
        log_reference_ratio=reference - aim if to_new else None,
        mask=given.mask,
        advantages=of_tokens(given.advantage, given.mask, "mask").double(),
    )


def estimated_overlap(
    policy_on_topk: Tensor | None,
    topk: TopK | None,
    log_ratio: Tensor,
    mask: Tensor,
    lam: float,
    *,
    way: Overlap = Overlap.CALIBRATED,
    uniforms: Tensor | None = None,
) -> Tensor:
    """Ẑ(λ) of every state from the actor's stored top-k, float64 (n, length); 1 at padding.

    By default it is `normalizer.calibrated_on_topk` of all tokens of the batch. Where nothing is stored it is one
    number for all states, the mean acceptance probability of the batch's tokens: κ of [J] §4.4.2 without a Z_k to
    multiply.

    Args:
        policy_on_topk: log p of the stored tokens, (n, length, k), nats; None where nothing is stored.
        topk: these, (n, length, k); None likewise.
        log_ratio: log p/q of the tokens drawn, float64 (n, length), nats.
        mask: True on tokens, (n, length).
        lam: λ.
        way: the way to Z from a stored top-k.
        uniforms: those that decide the masks, (n, length), by which kappa counts the accepted tokens.

    Raises:
        TypeError: the mask is not boolean, or another array holds no real floating numbers.
        ValueError: a shape differs, the exact Z is asked of less than a whole law, kappa has no uniforms or only
            a Z_k of 0, or as `normalizer.calibrated_on_topk`.
    """
    import torch

    check_per_token(mask, log_ratio=log_ratio)
    if (policy_on_topk is None) is not (topk is None):
        raise ValueError("policy_on_topk and topk are about the same tokens: give both or neither")
    out = torch.ones(mask.shape, dtype=torch.float64, device=mask.device)
    accept = obrs.acceptance_probability(log_ratio[mask], lam)
    if policy_on_topk is None or topk is None:
        out[mask] = torch.as_tensor(accept).mean()
        return out
    check_same_states(mask[..., None], topk.ids, "mask[..., None]", "topk")
    check_on_topk(policy_on_topk, topk, "policy_on_topk")
    # In float32, as they are stored: sums of whole laws miss 1 in its seventh digit, which float64 would not forgive.
    policy = policy_on_topk[mask].float()
    actor = topk.log_probs[mask]
    if way is Overlap.CALIBRATED:
        out[mask] = torch.as_tensor(normalizer.calibrated_on_topk(policy, actor, accept, lam))
        return out
    low, high = (torch.as_tensor(end).double() for end in normalizer.bracket_on_topk(policy, actor, lam))
    if way is Overlap.EXACT and bool((high - low > _WHOLE).any()):
        raise ValueError(f"the exact overlap needs the actor's whole law at every state, and {topk.k} tokens were told")
    if way is Overlap.KAPPA:
        if uniforms is None:
            raise ValueError("kappa counts the accepted tokens: give uniforms")
        check_per_token(mask, uniforms=uniforms)
        low = torch.as_tensor(normalizer.bias_correction(low, uniforms[mask] < torch.as_tensor(accept)))
    out[mask] = low
    return out


def draw(weights: TokenWeights[Tensor], uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """m and m·w, both (n, length): the tokens whose uniforms are below their accept probabilities, and their weights.

    Args:
        weights: a and w of every token, (n, length).
        uniforms: one in [0, 1) for each token.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: the shapes differ.
    """
    import torch

    for name, value in (("accept", weights.accept), ("weight", weights.weight)):
        check_same_shape(check_reals(uniforms, "uniforms"), check_reals(value, name), "uniforms", name)
    accepted = uniforms < weights.accept
    return accepted, torch.where(accepted, weights.weight, torch.zeros_like(weights.weight))
