"""LoRA: small matrices beside the weights of a model, which alone are trained (peft)."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
from pydantic import Field

from jackpot_sim.environments.language_models.library import Model
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.estimator_spec import Frozen

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = "Mapping[str, Tensor]"
"""The weights of a model by name."""

_NAME = "default"
"""The name that peft gives to an adapter."""


class Lora(Frozen):
    """Adapters of low rank: w + alpha/rank · B A, of which A and B are trained and w is not."""

    rank: Annotated[int, Field(ge=1)] = 16
    """The rank of B A."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    """The scale of B A is alpha / rank."""
    targets: tuple[str, ...] | None = None
    """The names in which the adapted layers end, such as q_proj; None: all linear layers but the head."""


def adapted(model: Model, lora: Lora, generator: np.random.Generator) -> Model:
    """The model itself with adapters in its layers, whose product is 0; its other weights are frozen.

    Args:
        model: the model, which is changed.
        lora: rank, scale and layers.
        generator: the source of the seed of A.

    Raises:
        RequirementError: peft is not installed.
        StudyError: no layer has one of these names, or a layer cannot be adapted.
    """
    import torch

    require("peft", purpose="policy.lora")
    peft = importlib.import_module("peft")
    targets = "all-linear" if lora.targets is None else list(lora.targets)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**31)))
        try:
            model = peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            raise StudyError(f"policy.lora: {str(error).split(chr(10))[0]}") from error
    return model.eval()


def is_adapted(model: Model) -> bool:
    """True for a model with adapters."""
    return next(_layers(model), None) is not None


def trained_weights(model: Model) -> Weights:
    """The weights of a checkpoint: those of the adapters, or all of a model without any; in use, no copies."""
    if not is_adapted(model):
        weights: Weights = model.state_dict()
        return weights
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def restore(model: Model, weights: Weights) -> None:
    """Takes over weights that `trained_weights` returned."""
    adapters = is_adapted(model)
    unexpected = model.load_state_dict(weights, strict=not adapters).unexpected_keys
    if unexpected:
        raise StudyError(f"the checkpoint holds {unexpected[0]}, which the model lacks: policy.lora has changed")
    if missing := trained_weights(model).keys() - weights.keys():
        raise StudyError(f"the checkpoint lacks {min(missing)}, which is trained: policy.lora has changed")


class Merged:
    """A model with the adapters of another merged into its weights, as that one is trained.

    Attributes:
        model: without adapters. Layers that are not adapted share their weights with the other model.
    """

    def __init__(self, adapted: Model) -> None:
        import torch

        frozen = {id(weight): weight for weight in adapted.parameters() if not weight.requires_grad}
        self._adapted = adapted
        self.model: Model = copy.deepcopy(adapted, frozen)
        for name, layer in list(_layers(self.model)):
            plain = layer.get_base_layer()
            plain.weight = torch.nn.Parameter(torch.empty_like(plain.weight), requires_grad=False)
            above, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(above), own, plain)

    def current(self) -> Model:
        """`model`, with the weights of the moment."""
        import torch

        with torch.no_grad():
            for name, layer in _layers(self._adapted):
                merged = torch.add(layer.get_base_layer().weight, layer.get_delta_weight(_NAME))
                self.model.get_submodule(name).weight.copy_(merged)
        return self.model


def _layers(model: Model) -> Iterator[tuple[str, Any]]:
    """The adapted layers by name."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "get_delta_weight"))
