"""Two policies at the same states, and an environment of independent states that was built.

An environment is a frozen configuration. `build(seed)` turns it into arrays: the same configuration and seed give the
same arrays, whatever was built before, in any process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_log_probs, check_same_shape
from jackpot_sim.core.support import BelievedLaws


@dataclass(frozen=True, eq=False)
class PolicyPair:
    """Two policies at the same states, and the advantage of every token.

    Attributes:
        policy_log_probs: log p of the policy that is trained, float64 (states, vocab), nats.
        actor_log_probs: log q of the policy that generates, the same shape. −inf where p has support is a support
            violation: it stays as it is, and KL(p‖q) is inf.
        advantage: A, the same shape, finite.
        believed: the laws in which a trainer believes, of the same shape; None: the two above.

    Raises:
        ValueError: an array is not float64 of shape (states, vocab), the shapes differ, a law is not normalised or
            holds NaN, or an advantage is not finite.
    """

    policy_log_probs: Floats
    actor_log_probs: Floats
    advantage: Floats
    believed: BelievedLaws | None = None

    def __post_init__(self) -> None:
        for name in ("policy_log_probs", "actor_log_probs", "advantage"):
            _check_table(getattr(self, name), name)
        check_same_shape(self.policy_log_probs, self.actor_log_probs, "policy_log_probs", "actor_log_probs")
        check_same_shape(self.policy_log_probs, self.advantage, "policy_log_probs", "advantage")
        check_log_probs(self.policy_log_probs, "policy_log_probs")
        check_log_probs(self.actor_log_probs, "actor_log_probs")
        if not np.all(np.isfinite(self.advantage)):
            raise ValueError("advantage holds NaN or inf")
        if self.believed is not None:
            check_same_shape(self.policy_log_probs, self.believed.policy_log_probs, "policy_log_probs", "believed")

    @property
    def told(self) -> tuple[Floats, Floats]:
        """log p and log q as a trainer believes them, (states, vocab), nats."""
        laws = self.believed or self
        return np.asarray(laws.policy_log_probs), np.asarray(laws.actor_log_probs)


@dataclass(frozen=True, eq=False)
class Realised:
    """An environment of independent states, built for one seed.

    Attributes:
        pair: the two policies and the advantage.
        knob: the family's knob, given or solved for.
        target_kl: the mean KL that was asked for, nats; None if the knob was given.
        achieved: the mean KL over states in the direction of the family's target, nats. Equal to `target_kl` to 1e-9
            for a continuous knob, the nearest attainable value for a discrete one.
    """

    pair: PolicyPair
    knob: float
    target_kl: float | None
    achieved: float


def _check_table(array: object, name: str) -> None:
    if not (isinstance(array, np.ndarray) and array.dtype == np.float64 and array.ndim == 2 and array.size > 0):
        given = f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', ())}"
        raise ValueError(f"{name} must be a float64 numpy array of shape (states, vocab), got {given}")
