"""Actors that are a smoothly changed policy: the continuous knobs.

In each family KL(policy‖actor) is convex in the knob (or in 1/temperature) with its minimum, 0, where there is no
mismatch. So it never decreases on the way out, and a target has one solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_numpy, check_reals
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import check_non_negative, check_positive, check_share
from jackpot_sim.environments.states.base_laws import log_dirichlet
from jackpot_sim.environments.states.mismatch import Laws, Mismatch, TransformedLaw
from jackpot_sim.environments.targets import Target

LARGEST_SIGMA = 2.0**20
"""The end of the search for a target: a mean KL of about a million nats."""

LARGEST_LOG_TEMPERATURE = 40.0
"""At e^40 an actor is uniform, and at e^−40 greedy, to all digits of float64."""


@dataclass(frozen=True, kw_only=True)
class DirichletMixture(Mismatch):
    """q = (1 − ε)p + ε·u with u ~ Dirichlet(noise_concentration), drawn per state: [J] Fig. 2.

    KL(p‖q) is convex in its second argument, and q is linear in ε.
    """

    kind: Literal["dirichlet-mixture"] = "dirichlet-mixture"
    epsilon: float | None = None
    noise_concentration: float = 1.0

    knob_name: ClassVar[str] = "epsilon"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("noise_concentration", self.noise_concentration)

    @override
    def check_knob(self, knob: float) -> None:
        check_share("epsilon", knob)

    @override
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        check_numpy(base=base)
        check_reals(base, "base", "states", "vocab")
        shape = (base.shape[0], base.shape[1])
        noise = log_dirichlet(self.noise(seed), self.noise_concentration, shape)

        def at(epsilon: float) -> tuple[Floats, Floats]:
            log_base_share = math.log1p(-epsilon) if epsilon < 1 else -math.inf
            log_noise_share = math.log(epsilon) if epsilon > 0 else -math.inf
            return base, np.logaddexp(log_base_share + base, log_noise_share + noise)

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        return target.on_ray(1.0)


@dataclass(frozen=True, kw_only=True)
class LogitNoise(Mismatch):
    """log q = log p + σ·N(0, 1), renormalised: the effect of another kernel or precision on logits.

    KL(p‖q_σ) = log E_p[e^{σz}] − σ·E_p[z], the first term a cumulant generating function: convex.
    """

    kind: Literal["logit-noise"] = "logit-noise"
    sigma: float | None = None

    knob_name: ClassVar[str] = "sigma"

    @override
    def check_knob(self, knob: float) -> None:
        check_non_negative("sigma", knob)

    @override
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        check_numpy(base=base)
        check_reals(base, "base", "states", "vocab")
        noise = self.noise(seed).standard_normal(base.shape)
        return lambda sigma: (base, np.asarray(log_softmax(base + sigma * noise)))

    @override
    def solve(self, target: Target, base: Floats) -> float:
        return target.on_ray(LARGEST_SIGMA)


@dataclass(frozen=True, kw_only=True)
class Temperature(TransformedLaw):
    """log q = log p / T, renormalised: an actor sampled hotter (T > 1) or colder (T < 1).

    With β = 1/T, KL(p‖q_β) = log Σ p^β − (β − 1)·E_p[log p] is convex in β with its minimum at β = 1.
    A KL is met once on each side; the hotter side ends at KL(p‖uniform).

    Attributes:
        temperature: T > 0.
        colder: whether `target_kl` is solved for on the side T < 1; refused beside a temperature.
    """

    kind: Literal["temperature"] = "temperature"
    temperature: float | None = None
    colder: bool = False

    knob_name: ClassVar[str] = "temperature"
    only_samples: ClassVar[bool] = True

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colder and self.temperature is not None:
            raise ValueError("colder picks the side of a target_kl: it cannot be given with temperature")

    @override
    def check_knob(self, knob: float) -> None:
        check_positive("temperature", knob)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_numpy(base=base)
        check_reals(base, "base", "states", "vocab")
        return lambda temperature: np.asarray(log_softmax(base / temperature))

    @override
    def solve(self, target: Target, base: Floats) -> float:
        # T = e^t or e^−t, and the distance t from no mismatch is solved for.
        side = -1.0 if self.colder else 1.0
        return target.on_ray(LARGEST_LOG_TEMPERATURE, lambda t: math.exp(side * t))
