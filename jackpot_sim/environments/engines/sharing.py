"""The engine of a model that makes each pass through its layers once, for whoever asks.

Its own rollouts are written once for the same order; their states are kept, and so are those at others' rollouts, so
that laws and gradients of the norm take the norm and the head alone. What is kept has a limit, beyond which passes are
made anew; the figures are the same whatever has been asked before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.engines.engine import ModelEngine, Order
from jackpot_sim.environments.language_models.completions import Completions
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Tensor
from jackpot_sim.environments.language_models.norm_gradients import NormGradients
from jackpot_sim.environments.language_models.reading import Reader
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.streaming import StreamedLaws

LIMIT = 1 << 30
"""The limit of an engine that is given none."""


@dataclass(frozen=True, eq=False)
class SharingEngine(ModelEngine):
    """A `ModelEngine` that keeps what its model has read and written.

    Attributes:
        limit: the bytes of states of one set of rollouts that are kept, of its gradients, and of its own rollouts
            together.
    """

    limit: int = field(default_factory=lambda: LIMIT)
    _written: OrderedDict[str, Written] = field(default_factory=OrderedDict, init=False, repr=False)
    _states: WeakKeyDictionary[Written, Tensor] = field(default_factory=WeakKeyDictionary, init=False, repr=False)
    _gradients: WeakKeyDictionary[Written, NormGradients] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False
    )

    @cached_property
    def reader(self) -> Reader:
        """The reader of the model."""
        return Reader(self.scorer)

    def would_read(self, scorer: CausalLM) -> bool:
        """True if this scorer reads as the engine's own does."""
        mine = self.scorer
        return mine.model is scorer.model and mine.new_cache is None is scorer.new_cache and scorer.transform is None

    @override
    def write(self, prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> Written:
        """Rollouts as `ModelEngine.write` writes them; those of an order that came before are given again."""
        key = _digest(prompts, prompt, uniforms, order)
        if key in self._written:
            self._written.move_to_end(key)
            return self._written[key]
        kept = self.bytes_of(uniforms.shape) <= self.limit
        written = self._generated(prompts, prompt, uniforms, order, states=kept)
        self._written[key] = written
        while len(self._written) > 1 and self._held() > self.limit:
            self._written.popitem(last=False)
        return written

    @override
    def laws(
        self, prompts: Sequence[Ints], written: Written, *, sampling: SamplingLaw, batch_size: int, rows: int
    ) -> Iterator[StreamedLaws]:
        """Laws as `ModelEngine.laws` gives them, from states that are kept where they fit."""
        states = self.states(prompts, written, batch_size)
        return self._streamed(prompts, written, sampling, batch_size, rows, self.reader, states)

    def states(self, prompts: Sequence[Ints], written: Written, batch_size: int) -> Tensor | None:
        """The model's states at the tokens of rollouts, (n, length, width); None where they are not kept.

        Args:
            prompts: ids of each prompt, (its length,).
            written: the rollouts.
            batch_size: rollouts that are read at a time.

        Raises:
            ValueError: a rollout cannot be read.
        """
        if self.bytes_of(written.tokens.shape) > self.limit:
            return None
        if written.states is not None and written.states.are_of(self.scorer):
            return written.states.values
        if written not in self._states:
            completions = Completions.checked(self.scorer.model, prompts, written.prompt, written.tokens, written.mask)
            self._states[written] = self.reader.states(completions, batch_size)
        return self._states[written]

    def norm_gradients(
        self, prompts: Sequence[Ints], written: Written, *, temperature: float, batch_size: int, rows: int
    ) -> NormGradients | None:
        """The gradients of the log-probs of rollouts in the final norm; None without a norm, or where they do not fit.

        Args:
            prompts: ids of each prompt, (its length,).
            written: the rollouts.
            temperature: the divisor of the logits.
            batch_size: rollouts that are read at a time.
            rows: states at a time.

        Raises:
            ValueError: a rollout cannot be read.
        """
        known = self._gradients.get(written)
        if known is not None and known.temperature == temperature:
            return known
        norm = self.reader.norm
        if norm is None or NormGradients.bytes_of(norm, written.tokens.size) > self.limit:
            return None
        states = self.states(prompts, written, batch_size)
        if states is None:
            return None
        made = NormGradients(self.reader, states, written.tokens, written.mask, written.kept, temperature, rows)
        self._gradients[written] = made
        return made

    def forget(self) -> None:
        """Forgets all that it keeps."""
        for kept in (self._written, self._states, self._gradients):
            kept.clear()

    def _held(self) -> int:
        return sum(self.bytes_of(each.tokens.shape) for each in self._written.values())

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """The bytes of the states of rollouts of this shape."""
        model = self.scorer.model
        return int(np.prod(shape)) * int(model.config.get_text_config().hidden_size) * int(model.dtype.itemsize)


def _digest(prompts: Sequence[Ints], prompt: Ints, uniforms: Floats, order: Order) -> str:
    """A name for everything that decides what is written."""
    digest = hashlib.sha256()
    for array in (*prompts, prompt, uniforms):
        digest.update(repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes())
    told = order.sampling, sorted(order.end_tokens), order.batch_size, order.topk, order.support
    return hashlib.sha256(digest.digest() + repr(told).encode()).hexdigest()
