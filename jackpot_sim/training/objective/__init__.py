"""The objective of [J] §4.2 as pure functions, for any correction: `policy_loss` and `actor_loss`.

    −J_PPO-OBRS(θ) − J_PPO(ω) + λ_distill · E[KL(SG(p_new)‖p_ω)]

A token adds SG(m·w) · min(r_θ A, clip(r_θ, 1 − ε, 1 + ε) A) with r_θ = p_new/p_ref. The correction's factor leads
from the actor to p_ref, or to p_new if its spec says so; then it carries p_ref/p_new ([J] §4.3).
"""

from jackpot_sim.training.objective.advantages import Standardisation, advantages
from jackpot_sim.training.objective.batch import (
    ModelPass,
    Overlap,
    Proposed,
    Scored,
    TokenPass,
    check_on_topk,
    of_tokens,
    take_topk,
)
from jackpot_sim.training.objective.centring import mean_loss
from jackpot_sim.training.objective.loss import (
    ActorLoss,
    Aggregation,
    Direction,
    Divisor,
    PolicyLoss,
    actor_loss,
    distillation,
    divisor,
    policy_loss,
    ppo_loss,
    surrogate,
    token_shares,
)
from jackpot_sim.training.objective.weights import draw, estimated_overlap, tokens_of, weigh, weights_of

__all__ = [
    "ActorLoss",
    "Aggregation",
    "Direction",
    "Divisor",
    "ModelPass",
    "Overlap",
    "PolicyLoss",
    "Proposed",
    "Scored",
    "Standardisation",
    "TokenPass",
    "actor_loss",
    "advantages",
    "check_on_topk",
    "distillation",
    "divisor",
    "draw",
    "estimated_overlap",
    "mean_loss",
    "of_tokens",
    "policy_loss",
    "ppo_loss",
    "surrogate",
    "take_topk",
    "token_shares",
    "tokens_of",
    "weigh",
    "weights_of",
]
