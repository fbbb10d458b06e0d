"""The laws of a causal language model at every prefix, exactly, and sequences drawn from them.

The tree is scored level by level: a prefix is its parent plus one token, so each costs one new token against the
parent's keys and values. Rows go through the model in blocks, the blocks below a block before its neighbours, so that
memory grows with the length and not with the tree. Rows of a table are those of `PrefixTree`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.completions import logits_along
from jackpot_sim.environments.language_models.library import (
    LAST,
    Cache,
    Model,
    Tensor,
    empty_cache,
    gathered,
    logits,
)
from jackpot_sim.environments.language_models.walking import (
    blocks_below,
    check_tokens,
    check_tree,
    new_tokens,
    on_device,
    parents_in,
    prompt_blocks,
    rows_at_once,
    scoring_mode,
)
from jackpot_sim.environments.prefix_tree import PrefixTree


class Scorer(Protocol):
    """A policy with a law at every prefix: a model, or a mixture of two."""

    def log_probs(self, prompts: Ints, tree: PrefixTree) -> Floats:
        """log p(x|s) at every prefix after every prompt, (prompts, prefixes, vocab), nats."""

    def log_probs_along(self, prompt: Ints, tokens: Ints) -> Floats:
        """log p(x|s) at the prefixes of given tokens (n, length), (n, length, vocab), nats."""

    def draw(self, prompt: Ints, uniforms: Floats, end_token: int | None) -> tuple[Ints, Flags]:
        """Tokens and mask of sequences drawn from uniforms, all of shape (n, length)."""

    @override
    def __hash__(self) -> int:
        """A hash by identity: laws are cached by scorer."""


@dataclass(frozen=True, eq=False)
class CausalLM:
    """A policy: a model, the cache that it reads with, and the sampler's transform of its law.

    Attributes:
        model: a transformers model; a float64 one is scored in float64 throughout.
        new_cache: makes an empty cache; None for transformers' own, which keeps keys and values unchanged.
        transform: from log-probs (..., vocab) to those that are sampled from (temperature, top-k), of the same shape,
            nats; None for the model's own law.
    """

    model: Model
    new_cache: Callable[[], Cache] | None = None
    transform: Callable[[Floats], Floats] | None = None

    def log_probs(self, prompts: Ints, tree: PrefixTree) -> Floats:
        """log p(x|prompt, prefix) at every row of the tree, nats.

        Args:
            prompts: shape (prompts, prompt_length).
            tree: the prefixes.

        Returns:
            Shape (prompts, prefixes, vocab).

        Raises:
            ValueError: a token is none of the vocabulary, the vocabularies differ, or the context is too short.
        """
        prompts = check_tree(self.model, prompts, tree)
        out = np.empty((len(prompts), tree.prefixes, tree.vocab))
        at_once = rows_at_once(self.model, prompts.shape[1] + tree.length)

        def visit(some: slice, rows: slice, cache: Cache) -> None:
            count = some.stop - some.start
            laws = self._laws(self._read(new_tokens(prompts[some], tree, rows), cache))
            out[some, rows] = laws.reshape(count, rows.stop - rows.start, tree.vocab)
            for below in blocks_below(tree, rows, at_once // count):
                visit(some, below, gathered(cache, self._ids(parents_in(tree, rows, below, count))))

        with scoring_mode(self.model):
            for some in prompt_blocks(len(prompts), tree, at_once):
                visit(some, tree.levels[0], self.empty_cache())
        return out

    def log_probs_along(self, prompt: Ints, tokens: Ints) -> Floats:
        """log p(x|prompt, tokens before t) at every position t of given sequences, nats.

        Each sequence goes through the model whole, though it may share prefixes with others: slower than `log_probs`,
        and its referee.

        Args:
            prompt: shape (prompt_length,).
            tokens: shape (n, length).

        Returns:
            Shape (n, length, vocab).
        """
        prompt = check_tokens(self.model, prompt, "prompt", 1)
        tokens = check_tokens(self.model, tokens, "tokens", 2)
        check_positions(self.model, len(prompt) + tokens.shape[1], "the model")
        parts, at_once = [], rows_at_once(self.model, len(prompt) + tokens.shape[1] - 1)
        with scoring_mode(self.model):
            for start in range(0, len(tokens), at_once):
                block = tokens[start : start + at_once]
                prompts = np.tile(prompt, (len(block), 1))
                parts.append(self._laws(logits_along(self.model, prompts, block, self.empty_cache())))
        return np.concatenate(parts)

    def draw(self, prompt: Ints, uniforms: Floats, end_token: int | None) -> tuple[Ints, Flags]:
        """Sequences drawn token by token, one per row of `uniforms`.

        The tokens are those that `PrefixTree.draw` takes from the table of `log_probs` with the same uniforms.

        Args:
            prompt: shape (prompt_length,).
            uniforms: shape (n, length), in [0, 1).
            end_token: the token that ends a sequence, None if all go on to the end.

        Returns:
            Tokens, int64, and True on tokens, both (n, length); after its end a sequence holds 0.
        """
        prompt = check_tokens(self.model, prompt, "prompt", 1)
        check_reals(uniforms, "uniforms", "n", "length")
        check_positions(self.model, len(prompt) + uniforms.shape[1], "the model")
        tokens: Ints = np.zeros(uniforms.shape, dtype=np.int64)
        mask: Flags = np.zeros(uniforms.shape, dtype=bool)
        at_once = rows_at_once(self.model, len(prompt) + uniforms.shape[1])
        with scoring_mode(self.model):
            for start in range(0, len(uniforms), at_once):
                block = slice(start, start + at_once)
                self._draw(prompt, uniforms[block], end_token, tokens[block], mask[block])
        return tokens, mask

    def _draw(self, prompt: Ints, uniforms: Floats, end_token: int | None, tokens: Ints, mask: Flags) -> None:
        """Fills `tokens` and `mask`, which are views of (rows, length), from uniforms of that shape."""
        alive, cache = np.arange(len(uniforms)), self.empty_cache()
        laws = np.repeat(self._laws(self._read(prompt[None], cache)), len(alive), axis=0)
        cache = gathered(cache, self._ids(np.zeros_like(alive)))
        for step in range(uniforms.shape[1]):
            if step:
                laws = self._laws(self._read(tokens[alive, step - 1, None], cache))
            drawn = np.asarray(categorical(laws, uniforms[alive, step, None]))[:, 0]
            tokens[alive, step], mask[alive, step] = drawn, True
            going_on = np.flatnonzero(drawn != end_token)
            if not going_on.size:
                break
            if going_on.size < alive.size:
                alive, cache = alive[going_on], gathered(cache, self._ids(going_on))

    def empty_cache(self) -> Cache:
        """An empty cache of the kind that this policy reads with."""
        return empty_cache(self.model.config) if self.new_cache is None else self.new_cache()

    def _ids(self, array: Ints) -> Tensor:
        return on_device(self.model, array)

    def _read(self, tokens: Ints, cache: Cache) -> Tensor:
        """Logits at the last of new tokens (rows, new), (rows, vocab); the cache grows by all of them."""
        return logits(self.model, self._ids(tokens), LAST, cache=cache)[:, 0]

    def _laws(self, scores: Tensor) -> Floats:
        """log p of the law that is sampled from, float64 of the shape of `scores`, nats."""
        plain: Floats = np.asarray(log_softmax(scores.double().cpu().numpy()))
        if self.transform is None:
            return plain
        laws = np.asarray(self.transform(plain))
        if laws.shape != plain.shape:
            raise ValueError(f"transform made log-probs of shape {laws.shape} from {plain.shape}: they must agree")
        return laws
