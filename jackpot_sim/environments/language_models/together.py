"""Sequences of one prompt in one row of a model: its keys and values are kept once, however many sequences follow it.

At each step a row reads one token of each of its sequences that goes on. A mask lets a token see the prompt and the
tokens before it in its own sequence, and its position is that in the sequence alone. Nothing is copied where a sequence
ends. A token looks past those of the other sequences, so that this pays while few follow a prompt, or short ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.environments.language_models.library import (
    WHOLE,
    Cache,
    Model,
    Tensor,
    empty_cache,
    gathered,
    keeps_a_cache,
    logits,
    takes_any_mask,
)
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode

_PROMPT, _PADDING, _NOBODY = -1, -2, -3
"""The owners of what no sequence wrote: tokens of the prompt, padding before it, and tokens read for nobody."""

_ENDED = 1 / 8
"""The share of rows whose sequences have all ended from which on the cache is copied without them."""

_CLOSE = 3e-5
"""The largest difference of logits between the two ways that counts as rounding, relative to their range."""


def writes_together(model: Model) -> bool:
    """True where the model can write sequences of one prompt in one row; a trial decides.

    Models are refused without a trial if they keep no cache, or for the reasons of `takes_any_mask`.
    """
    import torch

    if not (keeps_a_cache(model) and takes_any_mask(model)):
        return False
    last = min(3, int(model.config.get_text_config().vocab_size) - 1)
    prompt = np.array([[last, 0, last, 1, 0, last, 0, 1]])
    tokens = np.array([[0, last, 1], [last, 1, 0]])
    with scoring_mode(model):
        whole = logits(model, on_device(model, np.concatenate([prompt.repeat(2, 0), tokens], 1)), slice(-3, None))
        try:
            cache = empty_cache(model.config)
            logits(model, on_device(model, prompt), cache=cache)
            rows = Rows(model, cache, np.ones(prompt.shape, dtype=np.bool_), np.zeros(2, dtype=np.int64))
            read = [rows.read(np.ones(2, dtype=np.bool_), tokens[:, step]) for step in range(3)]
        except (RuntimeError, ValueError, TypeError, IndexError):  # of an architecture that cannot use such a mask
            return False
    return bool((whole - torch.stack(read, 1)).abs().max() <= _CLOSE * (whole.max() - whole.min()))


def pays(model: Model, samples: int, length: int) -> bool:
    """True where the tokens of other sequences that attention looks past cost at most a tenth of a token's work.

    A token takes about 24·width² operations in each layer, and 4·width for each token that its attention looks at.
    """
    return samples > 1 and 2 * (samples - 1) * length <= int(model.config.get_text_config().hidden_size)


@dataclass(eq=False)
class Rows:
    """The rows of a model after it has read prompts, one of each.

    Attributes:
        model: the model.
        cache: the keys and values of the prompts; it grows.
        prompts: True on their tokens and False on padding before them, (rows, longest).
        row: the row of each sequence that has not ended, in ascending order, (sequences,).
    """

    model: Model
    cache: Cache
    prompts: Flags
    row: Ints

    def __post_init__(self) -> None:
        self._owner: Ints = np.where(self.prompts, _PROMPT, _PADDING)
        self._next: Ints = self.prompts.sum(axis=1)
        self._sequence: Ints = np.arange(len(self.row))

    def read(self, going_on: Flags, tokens: Ints) -> Tensor:
        """The logits after the next token of each sequence that goes on, (those, vocab).

        Args:
            going_on: True for them, False for those that have ended, (sequences,).
            tokens: their next tokens, (those,).
        """
        self.row, self._sequence = self.row[going_on], self._sequence[going_on]
        self._forget()
        count = np.bincount(self.row, minlength=len(self._next))
        place = np.arange(len(self.row)) - (np.cumsum(count) - count)[self.row]
        at = self.row, place
        ids: Ints = np.zeros((len(count), int(count.max())), dtype=np.int64)
        owner: Ints = np.full(ids.shape, _NOBODY)
        ids[at], owner[at] = tokens, self._sequence
        self._owner = np.concatenate([self._owner, owner], axis=1)
        sees = (self._owner[:, None] == _PROMPT) | (self._owner[:, None] == owner[..., None])
        positions = np.repeat(self._next[:, None], ids.shape[1], axis=1)
        self._next = self._next + 1
        read, mask, places = (on_device(self.model, each) for each in (ids, sees[:, None], positions))
        scores = logits(self.model, read, WHOLE, cache=self.cache, mask=mask, positions=places)
        rows, columns = (on_device(self.model, each) for each in at)
        return scores[rows, columns]

    def _forget(self) -> None:
        """Leaves out the rows whose sequences have all ended, if there are many."""
        left, row = np.unique(self.row, return_inverse=True)
        if len(left) <= (1 - _ENDED) * len(self._next):
            self.cache = gathered(self.cache, on_device(self.model, left))
            self._owner, self._next, self.row = self._owner[left], self._next[left], row
