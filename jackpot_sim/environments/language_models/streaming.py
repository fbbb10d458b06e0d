"""The full laws at the tokens of given sequences, a block at a time: a table of them would not fit.

At a vocabulary of 150,000 a law takes 1.2 MB, and a batch of rollouts many gigabytes. So each batch of sequences goes
through the layers once, whole and without padding that could be seen, and only the last hidden states are kept; the
head then makes laws of them, block by block. Blocks depend on the mask and on the sizes asked for, and on nothing else:
the streams of two models can be zipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_shape
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.library import Model, Tensor, hidden_states, logits_of_states
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode


@dataclass(frozen=True, eq=False)
class StreamedLaws:
    """The laws at some tokens of some sequences.

    Attributes:
        sequence: the index of the sequence of each row, (rows,).
        step: the index in its sequence of the token that is chosen there, (rows,).
        log_probs: log p(x|s) of the law that is sampled from, (rows, vocab), nats, on the model's device.
    """

    sequence: Ints
    step: Ints
    log_probs: Array

    def __post_init__(self) -> None:
        _check_rows(self.sequence, self.step, self.log_probs, "log_probs")


@dataclass(frozen=True, eq=False)
class StreamedStates:
    """The last hidden states at some tokens of some sequences.

    Attributes:
        sequence: the index of the sequence of each row, (rows,).
        step: the index in its sequence of the token that is chosen there, (rows,).
        states: the input of the head, (rows, width), on the model's device and in its dtype.
    """

    sequence: Ints
    step: Ints
    states: Tensor

    def __post_init__(self) -> None:
        _check_rows(self.sequence, self.step, self.states, "states")


def _check_rows(sequence: Ints, step: Ints, values: Array, name: str) -> None:
    """Refuses values that are not (rows, any), and indices that are not one for each row."""
    check_reals(values, name, "rows", "width")
    for index, index_name in ((sequence, "sequence"), (step, "step")):
        check_shape(
            check_integers(index, index_name), tuple(values.shape[:1]), index_name, f"one for each row of {name}"
        )


def laws(
    scorer: CausalLM,
    prompts: Sequence[Ints],
    prompt: Ints,
    tokens: Ints,
    mask: Flags,
    *,
    sampling: SamplingLaw,
    batch_size: int,
    rows: int,
    single: bool = False,
) -> Iterator[StreamedLaws]:
    """The law at the prefix of every token, sequence by sequence and step by step.

    Args:
        scorer: the model and its cache; its `transform` must be None, since `sampling` takes its place.
        prompts: ids, each of shape (its length,).
        prompt: the index of the prompt of each sequence, (n,).
        tokens: int64 (n, length).
        mask: True on tokens, which come before all padding, (n, length).
        sampling: from the model's logits to the law that is sampled from.
        batch_size: sequences that go through the layers at a time.
        rows: laws at a time; about three arrays of rows × vocab numbers are held while they are made.
        single: float32 instead of float64.

    Raises:
        ValueError: a token is none of the vocabulary, the context is too short, a shape is off, or a number is out
            of range. All are raised before the first law.
    """
    if scorer.transform is not None:
        raise ValueError("transform is given beside sampling: the cuts of a sampler belong into sampling")
    head = head_of(scorer.model)
    for block in last_hidden(scorer, prompts, prompt, tokens, mask, batch_size=batch_size, rows=rows):
        logits = _logits(scorer.model, block.states, head is not None)
        yield StreamedLaws(block.sequence, block.step, sampling.log_probs(logits, single=single))


def last_hidden(
    scorer: CausalLM,
    prompts: Sequence[Ints],
    prompt: Ints,
    tokens: Ints,
    mask: Flags,
    *,
    batch_size: int,
    rows: int,
) -> Iterator[StreamedStates]:
    """The last hidden state at the prefix of every token; order, arguments and errors are those of `laws`."""
    model = scorer.model
    completions = Completions.checked(model, prompts, prompt, tokens, mask)
    check_count("batch_size", batch_size, 1)
    check_count("rows", rows, 1)
    for start in range(0, len(tokens), batch_size):
        batch = completions.take(slice(start, start + batch_size))
        hidden = _hidden(scorer, batch.ids())
        row, step, place = batch.places()
        for first in range(0, len(row), rows):
            some = slice(first, first + rows)
            states = hidden[on_device(model, row[some]), on_device(model, place[some])]
            yield StreamedStates(start + row[some], step[some], states)


def head_of(model: Model) -> tuple[Tensor, Tensor | None] | None:
    """(weight, bias) with logits = states · weightᵀ + bias; None where the model does more than that.

    weight is (vocab, width) and bias (vocab,) or None. Gemma 2 caps its logits, Granite and Cohere scale them: the
    result is None for such models, which a comparison of both logits on the model itself tells.
    """
    import torch

    head = model.get_output_embeddings()
    if head is None or not isinstance(head, torch.nn.Linear):
        return None
    read = np.arange(3)[None] % int(model.config.get_text_config().vocab_size)
    with scoring_mode(model):
        states = hidden_states(model, on_device(model, read))[0]
        # To the bit: a soft cap changes small logits by little.
        same = torch.equal(logits_of_states(model, states).double(), head(states[None])[0].double())
    return (head.weight, head.bias) if same else None


def _logits(model: Model, states: Tensor, by_head: bool) -> Tensor:
    """Logits of last hidden states (rows, width), shape (rows, vocab)."""
    with scoring_mode(model):
        return model.get_output_embeddings()(states) if by_head else logits_of_states(model, states)


def _hidden(scorer: CausalLM, ids: Ints) -> Tensor:
    """The last hidden states of whole sequences, (sequences, tokens, width)."""
    cache = None if scorer.new_cache is None else scorer.new_cache()
    with scoring_mode(scorer.model):
        return hidden_states(scorer.model, on_device(scorer.model, ids), cache)
