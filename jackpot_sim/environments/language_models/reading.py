"""A model's passes through its layers over given sequences, in which prompts are read once.

Sequences go through in the order of their prompts and lengths, those of one prompt side by side, so that padding costs
little. States of all sequences together are small; laws are made of them a few at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.library import (
    Cache,
    Model,
    Tensor,
    empty_cache,
    gathered,
    hidden_states,
    inputs_of,
    logits_of_states,
)
from jackpot_sim.environments.language_models.prompts import left_padded
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.states import empty_states, final_norm, head_of
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode, seen


class Reader:
    """A scorer's passes through its layers, and what it makes of their states.

    What it knows of its model is found out once, when it is first needed.

    Args:
        scorer: the model and its cache.
    """

    def __init__(self, scorer: CausalLM) -> None:
        self.scorer, self.model = scorer, scorer.model

    @cached_property
    def norm(self) -> Model | None:
        """The final norm, if there is one."""
        return final_norm(self.model)

    @cached_property
    def _by_head(self) -> bool:
        return head_of(self.model) is not None

    @cached_property
    def _goes_on(self) -> bool:
        """True if the model reads several tokens after others as it reads all at once; recurrent ones may not."""
        ids = on_device(self.model, np.arange(5)[None] % int(self.model.config.get_text_config().vocab_size))
        cache = empty_cache(self.model.config)
        with scoring_mode(self.model):
            whole = hidden_states(self.model, ids)[:, 2:].double()
            hidden_states(self.model, ids[:, :2], cache)
            parted = hidden_states(self.model, ids[:, 2:], cache).double()
            return float((whole - parted).abs().max()) <= 1e-2 * float(whole.abs().max())

    def hidden(self, states: Tensor) -> Tensor:
        """The last hidden states, (rows, width), of states (rows, width)."""
        return states if self.norm is None else self.norm(states)

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits of last hidden states (rows, width), (rows, vocab)."""
        if self._by_head:
            scores: Tensor = self.model.get_output_embeddings()(hidden)
            return scores
        return logits_of_states(self.model, hidden)

    def states(self, completions: Completions, batch_size: int) -> Tensor:
        """The states where the tokens of completions are chosen, (n, length, width); anything at padding.

        Completions of one prompt go through the layers side by side, and read it once.

        Args:
            completions: tokens come before all padding.
            batch_size: completions at a time.
        """
        check_count("batch_size", batch_size, 1)
        out, last = None, _Prompts(np.zeros(0, dtype=np.int64), None, None)
        lengths = completions.mask.sum(axis=-1)
        order = np.lexsort((lengths, completions.prompt))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            part = completions.take(rows)
            distinct = np.unique(part.prompt)
            known = np.array_equal(distinct, last.prompts)
            if known or (len(distinct) < len(rows) and self._goes_on):
                last = last if known else self._prompts(part, distinct)
                states = self._after(part, last)
            else:
                states = self._whole(part)
            if out is None:
                out = empty_states(completions.tokens.shape, states)
            out[on_device(self.model, rows), : states.shape[1]] = states
        assert out is not None
        return out

    def _prompts(self, part: Completions, distinct: Ints) -> _Prompts:
        ids, mask = left_padded([part.prompts[each] for each in distinct])
        cache = self.scorer.empty_cache()
        return _Prompts(distinct, cache, self._read(ids, mask, cache)[:, -1])

    def _after(self, part: Completions, prompts: _Prompts) -> Tensor:
        """The states of completions, (rows, longest, width), whose prompts have been read."""
        import torch

        assert prompts.last is not None
        which = np.searchsorted(prompts.prompts, part.prompt)
        longest = max(1, int(part.mask.sum(axis=-1).max()))
        with scoring_mode(self.model):
            assert prompts.last is not None  # those of before or just read
            first = prompts.last[on_device(self.model, which)][:, None]
            if longest == 1:
                return first
            cache = gathered(prompts.cache, on_device(self.model, which))
        _, mask = left_padded([part.prompts[each] for each in prompts.prompts])
        mask = np.pad(mask[which], ((0, 0), (0, longest - 1)), constant_values=True)
        return torch.cat([first, self._read(part.tokens[:, : longest - 1], mask, cache)], dim=1)

    def _whole(self, part: Completions) -> Tensor:
        """The states of completions, (rows, longest, width), each read with its prompt."""
        ids = part.ids()
        cache = None if self.scorer.new_cache is None else self.scorer.new_cache()
        read = self._read(ids, np.ones(ids.shape, dtype=np.bool_), cache)
        row, step, place = part.places()
        out = empty_states((len(ids), 1 + int(step.max(initial=0))), read)
        out[on_device(self.model, row), on_device(self.model, step)] = read[
            on_device(self.model, row), on_device(self.model, place)
        ]
        return out

    def _read(self, ids: Ints, mask: Flags, cache: Cache | None) -> Tensor:
        """The states at new tokens (rows, new), (rows, new, width); a cache grows by them."""
        model = self.model
        visible, positions = seen(model, mask, ids.shape[1])
        with scoring_mode(model):
            if self.norm is None:
                return hidden_states(model, on_device(model, ids), cache, mask=visible, positions=positions)
            with inputs_of(self.norm) as inputs:
                hidden_states(model, on_device(model, ids), cache, mask=visible, positions=positions)
            return inputs[-1]


@dataclass(frozen=True, eq=False)
class _Prompts:
    """Prompts that a model has read.

    Attributes:
        prompts: their indices, ascending, (prompts,).
        cache: their keys and values.
        last: the states at their last tokens, (prompts, width).
    """

    prompts: Ints
    cache: Cache | None
    last: Tensor | None
