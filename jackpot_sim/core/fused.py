"""The overlap Z(λ) of torch tensors in one kernel, which reads both laws once and holds nothing of their size.

`obrs.overlap` checks its laws and holds min(q, p/λ) of every token. On a device, where memory is what limits, that
costs several reads and writes of tokens × vocabulary. The same formula, compiled, leaves one read.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

from jackpot_sim.core import obrs
from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import logsumexp, namespace
from jackpot_sim.core.checks import check_reals, check_same_shape, per_state, positive

__all__ = ["overlap", "overlap_of_logits"]


def overlap(policy_log_probs: Array, actor_log_probs: Array, lam: float | Array = 1.0) -> Array:
    """Z(λ) = Σ min(q, p/λ), shape (...), as `obrs.overlap` gives it, without its check that laws are normalised.

    The first call compiles, for seconds. Half precision is read as it is and added up in float32. No gradient flows.

    Args:
        policy_log_probs: log p, a torch tensor (..., vocab), nats.
        actor_log_probs: log q, likewise.
        lam: λ > 0, a number or one per state, shape (...) or (..., 1).

    Raises:
        TypeError: the arrays are no torch tensors of real floating numbers of one dtype.
        ValueError: λ is not positive, or a shape does not fit.
        RuntimeError: torch finds no compiler for the device.
    """
    return _run(_overlap, policy_log_probs, actor_log_probs, lam)


def overlap_of_logits(policy_logits: Array, actor_logits: Array, lam: float | Array = 1.0) -> Array:
    """`overlap` of the laws of logits (..., vocab), in two reads: the normalisers, and then the overlap."""
    return _run(_overlap_of_logits, policy_logits, actor_logits, lam)


def _run(formula: Callable[[Array, Array, Array], Array], policy: Array, actor: Array, lam: float | Array) -> Array:
    import torch

    if not isinstance(policy, torch.Tensor) or not isinstance(actor, torch.Tensor):
        raise TypeError("the fused overlap takes torch tensors: obrs.overlap takes any arrays")
    check_reals(policy, "the policy's")
    if actor.dtype != policy.dtype:
        raise TypeError(f"the laws have dtypes {policy.dtype} and {actor.dtype}: give both in one")
    check_same_shape(policy, actor, "the policy's", "the actor's")
    # λ in the dtype of the sum: a view of one number has the shape of the laws without their memory.
    like = torch.zeros((), dtype=torch.promote_types(policy.dtype, torch.float32), device=policy.device)
    log_lam = namespace(like).log(positive(per_state(lam, like.expand(policy.shape), "lam"), "lam", like))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the compiler's own parts
        return _compiled(formula)(policy.detach(), actor.detach(), log_lam)


@functools.cache
def _compiled(formula: Callable[[Array, Array, Array], Array]) -> Callable[[Array, Array, Array], Array]:
    import torch

    return torch.compile(formula, fullgraph=True, dynamic=True)


def _overlap(policy: Array, actor: Array, log_lam: Array) -> Array:
    xp = namespace(policy)
    policy, actor = (xp.astype(each, log_lam.dtype) for each in (policy, actor))
    return xp.sum(xp.exp(obrs.lesser(policy, actor, log_lam)), axis=-1)


def _overlap_of_logits(policy: Array, actor: Array, log_lam: Array) -> Array:
    xp = namespace(policy)
    policy, actor = (xp.astype(each, log_lam.dtype) for each in (policy, actor))
    return _overlap(policy - logsumexp(policy, keepdims=True), actor - logsumexp(actor, keepdims=True), log_lam)
