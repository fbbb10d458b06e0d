"""Actors that are the policy itself, served otherwise: noise, coarse numbers, a short memory, a sampler's cuts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import check_count, check_non_negative
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.build import Model
from jackpot_sim.environments.language_models.formats import Format, rounded
from jackpot_sim.environments.language_models.library import rounding_cache, with_sliding_window
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import Actors, ActorSource, Setting
from jackpot_sim.environments.states.mismatch import Mismatch
from jackpot_sim.environments.states.perturbed import Temperature
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation
from jackpot_sim.environments.targets import Target

LARGEST = 2.0**16
"""Where the search for a target stops: so many standard deviations, or rounding errors."""

STEPS_PER_OCTAVE = 512
"""The grid of shares on which `QuantizedKV` looks for a target: neighbours differ by 0.14%, their KLs by 0.27%."""


@dataclass(frozen=True, kw_only=True)
class WeightNoise(ActorSource):
    """Every matrix w becomes w + σ·std(w)·N(0, 1): embeddings and head too, but not the norms' gains."""

    kind: Literal["weight-noise"] = "weight-noise"
    sigma: float | None = None

    knob_name: ClassVar[str] = "sigma"

    def check_knob(self, knob: float) -> None:
        """σ ≥ 0."""
        check_non_negative("sigma", knob)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        import torch

        generator = setting.generator("noise", self.kind)
        noise = {
            name: weight.detach().std() * torch.from_numpy(generator.standard_normal(tuple(weight.shape)))
            for name, weight in setting.base.named_parameters()
            if weight.ndim >= 2
        }
        reference = CausalLM(setting.base)
        return lambda sigma: (reference, CausalLM(moved(setting.base, noise, sigma)))

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """σ > 0: the least that doubling from below finds, for the KL need not grow for ever."""
        return target.on_ray(LARGEST)


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights(ActorSource):
    """w + share·(Q(w) − w): the linear layers inside the blocks in another number format.

    Head and embeddings stay as they are, as in most served models. Q rounds symmetrically, with one scale
    per output channel, from its largest magnitude (`formats.rounded`).

    Attributes:
        format: the format.
        share: 1 is the format itself, more is that many times its rounding error.
        group: int4 has a scale for so many inputs of a channel; the other formats do not use it.
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

    def check_knob(self, knob: float) -> None:
        """share ≥ 0."""
        check_non_negative("share", knob)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model.

        Raises:
            ValueError: the model has no linear layers but its head.
        """
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

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """share > 0."""
        return target.on_ray(LARGEST)


@dataclass(frozen=True, kw_only=True)
class QuantizedKV(ActorSource):
    """x + share·(Q(x) − x): the keys and values that attention reads, in another number format.

    Q rounds symmetrically, with one scale per token and head, from its largest magnitude. What one layer
    reads decides what the next one has to round, so the KL jumps a little wherever a number falls to
    another neighbour. A target therefore gets the nearest of a fine grid of shares.

    Attributes:
        format: any but int4.
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

    def check_knob(self, knob: float) -> None:
        """share ≥ 0."""
        check_non_negative("share", knob)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        reference = CausalLM(setting.base)

        def at(share: float) -> tuple[CausalLM, CausalLM]:
            def round_(values: Any) -> Any:
                return values + share * (rounded(values, self.format) - values)

            return reference, CausalLM(setting.base, new_cache=lambda: rounding_cache(setting.base.config, round_))

        return at

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """The share of the grid nearest to the target, from 2⁻¹⁶ to 2¹⁶."""
        last = round(math.log2(LARGEST)) * STEPS_PER_OCTAVE
        return target.nearest_ordered([math.exp2(step / STEPS_PER_OCTAVE) for step in range(-last, last + 1)])


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(ActorSource):
    """Every layer attends to the last `window` tokens only, the token itself counted: sparse attention."""

    kind: Literal["sliding-window"] = "sliding-window"
    window: int | None = None

    knob_name: ClassVar[str] = "window"

    def check_knob(self, knob: int) -> None:
        """An integer ≥ 2; as long as prompt and new tokens together, it is no mismatch."""
        check_count("window", knob, 2)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        reference = CausalLM(setting.base)
        return lambda window: (reference, CausalLM(with_sliding_window(setting.base, int(window))))

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> int:
        """The window nearest to the target; all are tried, as a shorter one need not be worse."""
        return target.nearest(range(2, setting.prompts.shape[1] + setting.tree.length))


@dataclass(frozen=True, kw_only=True)
class _Reshaped(ActorSource):
    """The policy with something done to its law at every prefix, as the mismatch family of that name does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._family()

    def check_knob(self, knob: Any) -> None:
        """The family's own check, which `_family` makes."""

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        family, reference = self._family(), CausalLM(setting.base)

        def at(knob: Any) -> tuple[CausalLM, CausalLM]:
            def law(log_probs: Floats) -> Floats:
                flat = log_probs.reshape(-1, log_probs.shape[-1])
                cut: Floats = family.laws(flat, flat, 0)(knob)[1].reshape(log_probs.shape)
                return cut

            return reference, CausalLM(setting.base, transform=law)

        return at

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """As the family solves for it."""
        return self._family().solve(target, laws())

    def _family(self) -> Mismatch:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TemperatureSource(_Reshaped):
    """The policy at another temperature; `colder` picks the side of a target, as in `perturbed.Temperature`."""

    kind: Literal["temperature"] = "temperature"
    temperature: float | None = None
    colder: bool = False

    knob_name: ClassVar[str] = "temperature"

    def _family(self) -> Mismatch:
        return Temperature(temperature=self.temperature, target_kl=self.target_kl, colder=self.colder)


@dataclass(frozen=True, kw_only=True)
class TopKSource(_Reshaped):
    """The policy cut to the k likeliest tokens at each prefix."""

    kind: Literal["top-k"] = "top-k"
    k: int | None = None

    knob_name: ClassVar[str] = "k"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"

    def _family(self) -> Mismatch:
        return TopKTruncation(k=self.k, target_kl=self.target_kl)


@dataclass(frozen=True, kw_only=True)
class TopPSource(_Reshaped):
    """The policy cut to the nucleus of mass p at each prefix."""

    kind: Literal["top-p"] = "top-p"
    p: float | None = None

    knob_name: ClassVar[str] = "p"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"

    def _family(self) -> Mismatch:
        return TopPTruncation(p=self.p, target_kl=self.target_kl)


def moved(model: Model, directions: Mapping[str, Any], amount: float) -> Model:
    """A copy of the model with `amount` times its direction added to every parameter that has one."""
    import torch

    out = copy.deepcopy(model)
    with torch.no_grad():
        for name, direction in directions.items():
            out.get_parameter(name).add_(direction, alpha=amount)
    return out
