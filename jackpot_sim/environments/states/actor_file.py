"""An actor from a file: another model's logits at the states of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_reals, check_same_shape
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import check_share
from jackpot_sim.environments.states.base_laws import LogitsFile, read_log_probs
from jackpot_sim.environments.states.mismatch import TransformedLaw
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, kw_only=True)
class ActorFile(TransformedLaw):
    """log q = (1 − s)·log p + s·log a, renormalised: the geometric path from the policy p to an actor a.

    With ψ(s) = log E_p[(a/p)^s], KL(p‖q_s) = s·KL(p‖a) + ψ(s) for s < 1. ψ is a cumulant generating function (the
    log-partition of the path) and convex, the other term is linear, and the slopes cancel at s = 0, as ψ′(0) is
    −KL(p‖a). So the KL is convex with its minimum, 0, at s = 0.

    A token without support in a has none in q once s > 0, and KL(p‖q) is inf if p has it. A token without support in
    p has none in q until s = 1, where q is a: the KL then jumps by −log a(support of p), and a target inside the jump
    is refused.

    Attributes:
        path: the logits of a, a file as `LogitsFile` reads it; flattened, the shape of the base law.
        share: s in [0, 1]. 0 is the policy and 1 the actor of the file, both unchanged.
    """

    kind: Literal["actor-file"] = "actor-file"
    path: Path
    share: float | None = None

    knob_name: ClassVar[str] = "share"

    @override
    def check_knob(self, knob: float) -> None:
        check_share("share", knob)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_reals(base, "base", "states", "vocab")
        actor = read_log_probs(self.path)
        base_name = self.base.path if isinstance(self.base, LogitsFile) else f"the base law ({self.base.kind})"
        check_same_shape(actor, base, str(self.path), str(base_name))
        disjoint = np.flatnonzero(~np.any(np.isfinite(base) & np.isfinite(actor), axis=-1))

        def at(share: float) -> Floats:
            if share in (0, 1):  # not by the formula: 0 · −inf
                return actor if share else base
            if disjoint.size:
                raise ValueError(
                    f"{self.path}: policy and actor have no token in common at state {disjoint[0]}: "
                    "there is nothing between share 0 and 1"
                )
            return np.asarray(log_softmax((1 - share) * base + share * actor))

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        if target.kl_at(0.5) == math.inf:
            raise ValueError(
                f"target_kl={target.value:g} is unattainable: {self.path} gives no support to a token of the "
                f"policy, so {target.label} is inf at every share above 0; give a share instead"
            )
        return target.on_ray(1.0)
