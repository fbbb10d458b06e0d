"""The full laws at the tokens of given sequences, a block at a time: a table of them would not fit.

At a vocabulary of 150,000 a law takes 1.2 MB, and a batch of rollouts many gigabytes. So sequences go through the
layers once, as many together as `_HELD` allows, and only the states that these leave are kept; the norm and the head
then make laws of them, block by block. Blocks depend on the mask and on the sizes asked for, and on nothing else:
the streams of two models can be zipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jackpot_sim.core.arrays import Array, Flags, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_shape
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.reading import Reader
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
    reader: Reader | None = None,
    states: Tensor | None = None,
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
        reader: that of the scorer, where the caller has one.
        states: the scorer's states at these tokens, (n, length, width); None reads the sequences.

    Raises:
        ValueError: a token is none of the vocabulary, the context is too short, a shape is off, or a number is out
            of range. All are raised before the first law.
    """
    if scorer.transform is not None:
        raise ValueError("transform is given beside sampling: the cuts of a sampler belong into sampling")
    reader = reader or Reader(scorer)
    given = scorer, prompts, prompt, tokens, mask
    for block in last_hidden(*given, batch_size=batch_size, rows=rows, reader=reader, states=states):
        with scoring_mode(scorer.model):
            logits = reader.logits(block.states)
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
    reader: Reader | None = None,
    states: Tensor | None = None,
) -> Iterator[StreamedStates]:
    """The last hidden state at the prefix of every token; order, arguments and errors are those of `laws`."""
    model = scorer.model
    completions = Completions.checked(model, prompts, prompt, tokens, mask)
    check_count("batch_size", batch_size, 1)
    check_count("rows", rows, 1)
    reader = reader or Reader(scorer)
    for some in _waves(len(tokens), _bytes_of(model, tokens.shape[1]), batch_size):
        part = completions.take(some)
        values = reader.states(part, batch_size) if states is None else states[some]
        for start in range(0, len(part.tokens), batch_size):
            row, step, _ = part.take(slice(start, start + batch_size)).places()
            for first in range(0, len(row), rows):
                few = start + row[first : first + rows], step[first : first + rows]
                with scoring_mode(model):
                    hidden = reader.hidden(values[on_device(model, few[0]), on_device(model, few[1])])
                yield StreamedStates(some.start + few[0], few[1], hidden)


_HELD = 1 << 28
"""The bytes of states that a pass keeps, unless a single batch has more."""


def _bytes_of(model: Model, length: int) -> int:
    """The bytes of the states of one sequence."""
    return int(length * model.config.get_text_config().hidden_size * model.dtype.itemsize)


def _waves(count: int, each: int, batch_size: int) -> Iterator[slice]:
    """The sequences in runs of whole batches, of as many as may be held."""
    size = max(1, _HELD // (each * batch_size)) * batch_size
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
