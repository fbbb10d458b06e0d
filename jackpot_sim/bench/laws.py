"""Laws at the size of a real vocabulary, from the environments."""

from __future__ import annotations

from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.states.base_laws import Dirichlet, LmLike, Zipf
from jackpot_sim.environments.states.families import DirichletMixture, LogitNoise, Mismatch

VOCABULARY = 151_936
"""The vocabulary of Qwen3."""


def pairs(states: int) -> dict[str, PolicyPair]:
    """Three kinds of pair, each of shape (states, 151,936)."""
    sources: dict[str, Mismatch] = {
        "dirichlet-mixture": DirichletMixture(base=Dirichlet(vocab=VOCABULARY, states=states), epsilon=0.1),
        "logit-noise on zipf": LogitNoise(base=Zipf(vocab=VOCABULARY, states=states), sigma=0.5),
        "logit-noise on lm-like": LogitNoise(base=LmLike(vocab=VOCABULARY, states=states), sigma=0.5),
    }
    return {name: source.build(0).pair for name, source in sources.items()}
