"""The states that a model's layers leave at tokens, from which its laws follow by its norm and its head alone.

A pass through the layers is dear, and several figures ask for the same one: the laws of a model at its own rollouts,
which writing them has made already, its laws at another's, and the gradient in its final norm. A state takes as many
numbers as the model is wide, a law as many as the vocabulary is large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.language_models.library import (
    Model,
    Tensor,
    hidden_states,
    inputs_of,
    last_gain,
    logits_of_states,
)
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode


@dataclass(frozen=True, eq=False)
class States:
    """The states that the layers of a model leave where the tokens of n sequences are chosen.

    Attributes:
        scorer: the model that read the sequences, and its cache.
        values: the input of the final norm, (n, length, width), on the model's device and in its dtype; anything at
            padding.
    """

    scorer: CausalLM
    values: Tensor

    def __post_init__(self) -> None:
        check_reals(self.values, "values", "n", "length", "width")

    def are_of(self, scorer: CausalLM) -> bool:
        """True if this scorer would read the same states."""
        return self.scorer.model is scorer.model and self.scorer.new_cache is scorer.new_cache


def empty_states(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Room for states of n sequences of a length, `shape`, that gradients may be taken through."""
    import torch

    with torch.inference_mode(mode=False):
        return torch.zeros((*shape, like.shape[-1]), dtype=like.dtype, device=like.device)


def final_norm(model: Model) -> Model | None:
    """The module that makes the last hidden states of what the layers leave, row by row; None if none is found.

    It is told by reading three tokens: its output must be the last hidden states, to the bit.
    """
    import torch

    name = last_gain(model)
    if name is None:
        return None
    norm = model.get_submodule(name.rpartition(".")[0])
    with scoring_mode(model), inputs_of(norm) as inputs:
        last = hidden_states(model, on_device(model, _probe(model)))
        if len(inputs) != 1 or inputs[0].shape != last.shape:
            return None
        return norm if torch.equal(norm(inputs[0]), last) else None


def head_of(model: Model) -> tuple[Tensor, Tensor | None] | None:
    """(weight, bias) with logits = states · weightᵀ + bias; None where the model does more than that.

    weight is (vocab, width) and bias (vocab,) or None. Gemma 2 caps its logits, Granite and Cohere scale them: the
    result is None for such models, which a comparison of both logits on the model itself tells.
    """
    import torch

    head = model.get_output_embeddings()
    if head is None or not isinstance(head, torch.nn.Linear):
        return None
    with scoring_mode(model):
        states = hidden_states(model, on_device(model, _probe(model)))[0]
        # To the bit: a soft cap changes small logits by little.
        same = torch.equal(logits_of_states(model, states).double(), head(states[None])[0].double())
    return (head.weight, head.bias) if same else None


def _probe(model: Model) -> Ints:
    """Three tokens to read, (1, 3)."""
    return np.arange(3)[None] % int(model.config.get_text_config().vocab_size)
