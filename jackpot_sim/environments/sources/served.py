"""Actors that are the policy served otherwise: noise, coarse numbers, a short memory, a sampler's cuts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import check_count, check_non_negative
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.altered import with_sliding_window
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import LARGEST, Actors, ActorSource, Setting, moved
from jackpot_sim.environments.states.mismatch import TransformedLaw
from jackpot_sim.environments.states.perturbed import Temperature
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, kw_only=True)
class WeightNoise(ActorSource):
    """The policy with noise: a matrix w, embeddings and head too, becomes w + σ·std(w)·N(0, 1); gains of norms stay."""

    kind: Literal["weight-noise"] = "weight-noise"
    sigma: float | None = None

    knob_name: ClassVar[str] = "sigma"

    @override
    def check_knob(self, knob: float) -> None:
        check_non_negative("sigma", knob)

    @override
    def actors(self, setting: Setting) -> Actors:
        import torch

        generator = setting.generator("noise", self.kind)
        noise = {
            name: weight.detach().std() * torch.from_numpy(generator.standard_normal(tuple(weight.shape)))
            for name, weight in setting.base.named_parameters()
            if weight.ndim >= 2
        }
        reference = CausalLM(setting.base)
        return lambda sigma: (reference, CausalLM(moved(setting.base, noise, sigma)))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        # The least σ that doubling from below finds: the KL need not grow for ever.
        return target.on_ray(LARGEST)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(ActorSource):
    """The policy with sparse attention: layers attend to the last `window` tokens only, the token itself counted."""

    kind: Literal["sliding-window"] = "sliding-window"
    window: int | None = None

    knob_name: ClassVar[str] = "window"

    @override
    def check_knob(self, knob: float) -> None:
        check_count("window", knob, 2)  # one as long as prompt and new tokens together is no mismatch

    @override
    def actors(self, setting: Setting) -> Actors:
        reference = CausalLM(setting.base)
        return lambda window: (reference, CausalLM(with_sliding_window(setting.base, int(window))))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        # All windows are tried: a shorter one need not be worse.
        return target.nearest(range(2, setting.positions))


@dataclass(frozen=True, kw_only=True)
class _Reshaped(ActorSource):
    """The policy with its law transformed at every prefix, as a mismatch family of independent states does."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self._family()

    @override
    def check_knob(self, knob: float) -> None:
        """The family checks the knob, in `_family`."""

    @override
    def actors(self, setting: Setting) -> Actors:
        family, reference = self._family(), CausalLM(setting.base)

        def at(knob: float) -> tuple[CausalLM, CausalLM]:
            def law(log_probs: Floats) -> Floats:
                flat = log_probs.reshape(-1, log_probs.shape[-1])
                return family.actor_law(flat)(knob).reshape(log_probs.shape)

            return reference, CausalLM(setting.base, transform=law)

        return at

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        assert setting.laws is not None
        return self._family().solve(target, setting.laws())

    @abstractmethod
    def _family(self) -> TransformedLaw:
        """The family, with the knob or the target of this source."""


@dataclass(frozen=True, kw_only=True)
class TemperatureSource(_Reshaped):
    """The policy at another temperature; `colder` picks the side of a target, as in `Temperature`."""

    kind: Literal["temperature"] = "temperature"
    temperature: float | None = None
    colder: bool = False

    knob_name: ClassVar[str] = "temperature"

    @override
    def _family(self) -> TransformedLaw:
        return Temperature(temperature=self.temperature, target_kl=self.target_kl, colder=self.colder)


@dataclass(frozen=True, kw_only=True)
class TopKSource(_Reshaped):
    """The policy cut to the k likeliest tokens at each prefix."""

    kind: Literal["top-k"] = "top-k"
    k: int | None = None

    knob_name: ClassVar[str] = "k"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"

    @override
    def _family(self) -> TransformedLaw:
        return TopKTruncation(k=self.k, target_kl=self.target_kl)


@dataclass(frozen=True, kw_only=True)
class TopPSource(_Reshaped):
    """The policy cut to the nucleus of mass p at each prefix."""

    kind: Literal["top-p"] = "top-p"
    p: float | None = None

    knob_name: ClassVar[str] = "p"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"

    @override
    def _family(self) -> TransformedLaw:
        return TopPTruncation(p=self.p, target_kl=self.target_kl)
