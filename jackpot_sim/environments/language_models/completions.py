"""Tokens after prompts as a model reads them, and the logits that each token is chosen from.

Sequences of different lengths are padded on the right: padding comes after every token that counts, so that a causal
model needs no mask to overlook it, and positions are those of the unpadded sequence. The law of a token is read at the
place before it; the last token is not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_integers, check_mask, check_rows, check_shape
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.library import Cache, Model, Tensor, logits
from jackpot_sim.environments.language_models.walking import check_ids, on_device


@dataclass(frozen=True, eq=False)
class Completions:
    """n completions of at most `length` tokens, checked against a model.

    Attributes:
        prompts: ids, int64, each of shape (its length,).
        prompt: the index of the prompt of each completion, (n,).
        tokens: ids, int64 (n, length).
        mask: True on the tokens whose laws are wanted, (n, length).

    Raises:
        TypeError: ids or indices are no integers, or the mask is not boolean.
        ValueError: a shape differs.
    """

    prompts: Sequence[Ints]
    prompt: Ints
    tokens: Ints
    mask: Flags

    def __post_init__(self) -> None:
        check_mask(self.mask, check_integers(self.tokens, "tokens"), "tokens")
        check_shape(
            check_integers(self.prompt, "prompt"), self.tokens.shape[:-1], "prompt", "one for each row of tokens"
        )

    @classmethod
    def checked(cls, model: Model, prompts: Sequence[Ints], prompt: Ints, tokens: Ints, mask: Flags) -> Completions:
        """Completions that the model can read; the mask is True on tokens, which come before all padding.

        Raises:
            ValueError: a token is none of the vocabulary, the context is too short, or a shape is off.
        """
        out = cls.of_ids(int(model.config.get_text_config().vocab_size), prompts, prompt, tokens, mask)
        check_positions(model, out.positions, "the model")
        return out

    @classmethod
    def of_ids(cls, vocab: int, prompts: Sequence[Ints], prompt: Ints, tokens: Ints, mask: Flags) -> Completions:
        """Completions of ids below `vocab`; the mask is True on tokens, which come before all padding.

        Raises:
            ValueError: a token is none of the vocabulary, or a shape is off.
        """
        check_mask(mask, check_integers(tokens, "tokens", "n", "length"), "tokens")
        namespace(tokens, prompt)
        prompts = checked_ids(vocab, prompts, prompt, tokens.shape)
        tokens = check_ids(vocab, np.where(mask, tokens, 0), "tokens", 2)
        if np.any(mask[:, 1:] & ~mask[:, :-1]):
            raise ValueError("mask has a token after padding: tokens come before all padding")
        return cls(prompts, prompt, tokens, mask)

    @property
    def positions(self) -> int:
        """The tokens of the longest sequence, prompt and completion together."""
        return int(np.max(self._prompt_lengths + self.mask.sum(axis=-1)))

    def take(self, rows: slice | Ints) -> Completions:
        """Some of the completions, by rows (m,) or a slice."""
        check_rows(rows)
        return dataclasses.replace(self, prompt=self.prompt[rows], tokens=self.tokens[rows], mask=self.mask[rows])

    def ids(self) -> Ints:
        """The ids that a model reads, (n, longest): prompts and all tokens before the last one wanted."""
        length = self.mask.shape[1]
        last = np.where(self.mask.any(axis=-1), length - 1 - np.argmax(self.mask[:, ::-1], axis=-1), 0)
        return right_padded(
            [
                np.concatenate([self.prompts[prompt], row[:end]])
                for prompt, row, end in zip(self.prompt, self.tokens, last, strict=True)
            ]
        )[0]

    def places(self) -> tuple[Ints, Ints, Ints]:
        """The row, the step and the place in `ids` of the law of every token wanted, each of shape (tokens,)."""
        row, step = np.nonzero(self.mask)
        return row, step, self._prompt_lengths[row] + step - 1

    def logits(self, model: Model, *, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits that each token wanted is chosen from, (tokens, vocab), row by row.

        Args:
            model: the model that reads the completions.
            weights: stand in for the model's own, by name.
        """
        row, _, place = self.places()
        first = int(place.min())
        scores = logits(model, on_device(model, self.ids()), slice(first, int(place.max()) + 1), weights=weights)
        return scores[on_device(model, row), on_device(model, place - first)]

    @property
    def _prompt_lengths(self) -> Ints:
        """The length of each completion's prompt, (n,)."""
        return np.array([len(ids) for ids in self.prompts], dtype=np.int64)[self.prompt]


def checked_prompts(model: Model, prompts: Sequence[Ints], prompt: Ints, shape: tuple[int, ...]) -> list[Ints]:
    """The prompts as `checked_ids` gives them, for the vocabulary of a model."""
    return checked_ids(int(model.config.get_text_config().vocab_size), prompts, prompt, shape)


def checked_ids(vocab: int, prompts: Sequence[Ints], prompt: Ints, shape: tuple[int, ...]) -> list[Ints]:
    """The prompts as int64, refused unless their ids are below `vocab` and there is one for each of n sequences.

    Args:
        vocab: the number of tokens.
        prompts: ids, each of shape (its length,).
        prompt: the index of the prompt of each sequence, (n,).
        shape: that of the sequences, (n, length).

    Raises:
        ValueError: a token is none of the vocabulary, a shape is off, or an index has no prompt.
    """
    check_integers(prompt, "prompt")
    if len(shape) != 2 or 0 in shape or prompt.shape != shape[:1]:
        raise ValueError(
            f"prompt has shape {prompt.shape} and the sequences {shape}: one prompt each for n sequences of a length "
            "of at least 1"
        )
    checked = [check_ids(vocab, each, f"prompt {number}", 1) for number, each in enumerate(prompts)]
    if prompt.min() < 0 or prompt.max() >= len(prompts):
        raise ValueError(f"prompt holds {prompt.min()} to {prompt.max()}: there are {len(prompts)} prompts")
    return checked


def logits_along(model: Model, prompts: Ints, tokens: Ints, cache: Cache | None = None) -> Tensor:
    """The logits that every token is chosen from, (n, length, vocab), where all prompts have one length.

    Args:
        model: the model.
        prompts: ids, (n, prompt_length).
        tokens: ids, (n, length).
        cache: an empty cache that the model is to read with; None reads without one.

    Raises:
        TypeError: ids are no integers.
        ValueError: a shape differs.
    """
    check_integers(prompts, "prompts", "n", "prompt_length")
    check_integers(tokens, "tokens", "n", "length")
    check_shape(prompts, (len(tokens), prompts.shape[1]), "prompts", "one for each row of tokens")
    ids = on_device(model, np.concatenate([prompts, tokens[:, :-1]], axis=1))
    return logits(model, ids, slice(prompts.shape[1] - 1, None), cache=cache)


def right_padded(rows: Sequence[Ints], pad: int = 0) -> tuple[Ints, Flags]:
    """Rows of different lengths as one array, their beginnings aligned: ids (n, longest), and True on tokens."""
    for row in rows:
        check_integers(row, "rows", "length of a row")
    ids: Ints = np.full((len(rows), max(map(len, rows))), pad, dtype=np.int64)
    mask: Flags = np.zeros(ids.shape, dtype=np.bool_)
    for line, live, row in zip(ids, mask, rows, strict=True):
        line[: len(row)], live[: len(row)] = row, True
    return ids, mask
