"""Actors that are the policy served otherwise: noise, coarse numbers, a short memory, a sampler's cuts."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import check_count, check_non_negative
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.build import Model
from jackpot_sim.environments.language_models.formats import Format, rounded
from jackpot_sim.environments.language_models.library import Tensor, rounding_cache, with_sliding_window
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import Actors, ActorSource, Setting
from jackpot_sim.environments.states.mismatch import TransformedLaw
from jackpot_sim.environments.states.perturbed import Temperature
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation
from jackpot_sim.environments.targets import Target

LARGEST = 2.0**16
"""The end of the search for a target: so many standard deviations, or rounding errors."""

STEPS_PER_OCTAVE = 512
"""The grid of shares on which `QuantizedKV` looks for a target: neighbours differ by 0.14%, their KLs by 0.27%."""


@dataclass(frozen=True, kw_only=True)
class WeightNoise(ActorSource):
    """Every matrix w becomes w + σ·std(w)·N(0, 1): embeddings and head too, but not the norms' gains."""

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
class QuantizedWeights(ActorSource):
    """w + share·(Q(w) − w): the linear layers inside the blocks in another number format.

    Head and embeddings keep their format, as in most served models. Q rounds symmetrically, with one scale per output
    channel, from its largest magnitude (`formats.rounded`). A model without linear layers but its head is refused.

    Attributes:
        format: the number format.
        share: 1 is the format itself, more is that many times its rounding error.
        group: the inputs of a channel that share a scale in int4; the other formats do not use it.
    """

    kind: Literal["quantized-weights"] = "quantized-weights"
    format: Format = Format.INT8
    share: float | None = None
    group: int = 32

    knob_name: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", Format(self.format))
        check_count("group", self.group, 1)
        super().__post_init__()

    @override
    def check_knob(self, knob: float) -> None:
        check_non_negative("share", knob)

    @override
    def actors(self, setting: Setting) -> Actors:
        import torch

        head = setting.base.get_output_embeddings()
        linear = {
            f"{name}.weight": module.weight.detach()
            for name, module in setting.base.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
        if not linear:
            raise ValueError(f"{setting.base.config.model_type} models have no torch.nn.Linear inside their blocks")
        group = self.group if self.format is Format.INT4 else None
        error = {name: rounded(weight, self.format, group) - weight for name, weight in linear.items()}
        reference = CausalLM(setting.base)
        return lambda share: (reference, CausalLM(moved(setting.base, error, share)))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return target.on_ray(LARGEST)


@dataclass(frozen=True, kw_only=True)
class QuantizedKV(ActorSource):
    """x + share·(Q(x) − x): the keys and values that attention reads, in another number format.

    Q rounds symmetrically, with one scale per token and head, from its largest magnitude. The rounded numbers of one
    layer decide those that the next one rounds, so the KL jumps a little wherever a number falls to another
    neighbour. A target therefore gets the nearest of a fine grid of shares, from 2⁻¹⁶ to 2¹⁶.

    Attributes:
        format: the number format, any but int4.
        share: 1 is the format itself, more is that many times its rounding error.
    """

    kind: Literal["quantized-kv"] = "quantized-kv"
    format: Format = Format.FP8_E4M3
    share: float | None = None

    knob_name: ClassVar[str] = "share"

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", Format(self.format))
        if self.format is Format.INT4:
            raise ValueError("format of quantized-kv must be bf16, fp8-e4m3, fp8-e5m2 or int8, got int4")
        super().__post_init__()

    @override
    def check_knob(self, knob: float) -> None:
        check_non_negative("share", knob)

    @override
    def actors(self, setting: Setting) -> Actors:
        reference = CausalLM(setting.base)

        def at(share: float) -> tuple[CausalLM, CausalLM]:
            def round_(values: Tensor) -> Tensor:
                return values + share * (rounded(values, self.format) - values)

            return reference, CausalLM(setting.base, new_cache=lambda: rounding_cache(setting.base.config, round_))

        return at

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        last = round(math.log2(LARGEST)) * STEPS_PER_OCTAVE
        return target.nearest_ordered([math.exp2(step / STEPS_PER_OCTAVE) for step in range(-last, last + 1)])


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(ActorSource):
    """Every layer attends to the last `window` tokens only, the token itself counted: sparse attention."""

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


def moved(model: Model, directions: Mapping[str, Tensor], amount: float) -> Model:
    """A copy of the model with `amount` times its direction added to every parameter that has one."""
    import torch

    out = copy.deepcopy(model)
    with torch.no_grad():
        for name, direction in directions.items():
            out.get_parameter(name).add_(direction, alpha=amount)
    return out
