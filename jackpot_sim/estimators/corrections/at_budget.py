"""Corrections whose λ follows from an acceptance budget."""

from __future__ import annotations

import dataclasses

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.obrs import solve_lam
from jackpot_sim.estimators.corrections.composed import Centred, RaoBlackwell
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.parameters import Parameter


def at_budget(
    correction: Correction,
    policy_log_probs: Array,
    actor_log_probs: Array,
    acceptance_rate: float | Array,
    per_state: bool = True,
) -> Correction:
    """`correction` with the λ at which OBRS accepts `acceptance_rate` of these states' tokens.

    Args:
        correction: one that has a parameter `lam`, or the Rao-Blackwell or centred form of one.
        policy_log_probs: log p, shape (states, vocab), nats.
        actor_log_probs: log q, the same shape.
        acceptance_rate: the budget ā, as `obrs.solve_lam` takes it.
        per_state: a λ for each state, shape (states, 1); otherwise one for the whole batch.

    Raises:
        ValueError: the correction has no λ, or the budget is not attainable.
    """
    if isinstance(correction, RaoBlackwell | Centred):
        inner = at_budget(correction.of, policy_log_probs, actor_log_probs, acceptance_rate, per_state)
        return dataclasses.replace(correction, of=inner)
    if "lam" not in correction.parameters():
        raise ValueError(f"{correction.name} has no lam to solve for: an acceptance budget fits obrs and jackpot")
    lam = solve_lam(policy_log_probs, actor_log_probs, acceptance_rate, per_state)
    solved: dict[str, Parameter] = {"lam": lam[..., None] if per_state else float(lam)}
    return dataclasses.replace(correction, **solved)
