"""Actors that are the policy itself in coarse numbers: quantised weights, or a quantised KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from jackpot_sim.environments.fields import check_count, check_non_negative
from jackpot_sim.environments.language_models.formats import Format, rounded
from jackpot_sim.environments.language_models.library import Tensor, rounding_cache
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import LARGEST, Actors, ActorSource, Setting, moved
from jackpot_sim.environments.targets import Target

STEPS_PER_OCTAVE = 512
"""The grid of shares on which `QuantizedKV` looks for a target: neighbours differ by 0.14%, their KLs by 0.27%."""


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

    @override
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

    @override
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
