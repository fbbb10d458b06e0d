"""Sequences written by a model, many prompts at a time, with the log-probs that a server returns.

A prompt is read once, whatever number of sequences follow it; then every step reads one token of each sequence that has
not ended, against the keys and values of those before. Prompts of different lengths are aligned at their ends. Uniforms
decide the tokens, so the sequences do not depend on the batches in which they are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import logsumexp, namespace, to_numpy
from jackpot_sim.core.checks import (
    check_integers,
    check_mask,
    check_numpy,
    check_reals,
    check_same_shape,
    check_same_states,
    check_shape,
)
from jackpot_sim.core.sampling import categorical
from jackpot_sim.core.support import SamplingMask
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.language_models.build import check_positions
from jackpot_sim.environments.language_models.completions import checked_prompts
from jackpot_sim.environments.language_models.library import LAST, Cache, Model, Tensor, gathered, inputs_of, logits
from jackpot_sim.environments.language_models.prompts import left_padded
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.states import States, empty_states, final_norm
from jackpot_sim.environments.language_models.together import Rows, pays
from jackpot_sim.environments.language_models.walking import on_device, scoring_mode, seen


@dataclass(frozen=True, eq=False)
class Written:
    """n sequences of at most `length` tokens, as a server returns them.

    Attributes:
        prompt: the index of the prompt that each follows, (n,).
        tokens: ids, int64 (n, length); 0 at padding.
        mask: True on tokens, an end token included, which come before all padding; (n, length).
        log_probs: log q of each token under the law that was sampled from, float64 (n, length), nats; 0 at padding.
        own_log_probs: log q of each token under the model's own law, before temperature, top-k and top-p; None if a
            server does not tell them.
        topk: the likeliest tokens of the law that was sampled from, numpy (n, length, k); ids 0 with −inf at padding.
            None if none were asked for.
        kept: the tokens that the sampler kept at every state; None if they were not asked for, or all are.
        states: the writer's states, from which its laws follow; None if they were not asked for, or are not known.

    Raises:
        TypeError: an array has another dtype.
        ValueError: a shape differs.
    """

    prompt: Ints
    tokens: Ints
    mask: Flags
    log_probs: Floats
    own_log_probs: Floats | None
    topk: TopK | None = None
    kept: SamplingMask | None = None
    states: States | None = None

    def __post_init__(self) -> None:
        check_mask(self.mask, check_integers(self.tokens, "tokens", "n", "length"), "tokens")
        check_shape(check_integers(self.prompt, "prompt"), (len(self.tokens),), "prompt", "one for each row of tokens")
        for name in ("log_probs", *(() if self.own_log_probs is None else ("own_log_probs",))):
            check_same_shape(self.tokens, check_reals(getattr(self, name), name), "tokens", name)
        if self.topk is not None:
            check_same_states(self.tokens[..., None], self.topk.ids, "tokens[..., None]", "topk")
        if self.kept is not None:
            check_same_shape(self.tokens, self.kept.places, "tokens", "kept.places")
        if self.states is not None:
            check_shape(self.states.values[..., 0], self.tokens.shape, "states", "some numbers for each token")

    @property
    def raw_log_probs(self) -> Floats:
        """Log q of each token under the model's own law, float64 (n, length), nats; 0 at padding.

        Raises:
            ValueError: the server does not tell them.
        """
        if self.own_log_probs is None:
            raise ValueError(
                "the server tells the log-probs of the law that it sampled from and not those of its model's own: let "
                "it return raw ones, or sample at temperature 1 and without cuts, where both are one"
            )
        return self.own_log_probs


def generate(
    scorer: CausalLM,
    prompts: Sequence[Ints],
    prompt: Ints,
    uniforms: Floats,
    *,
    sampling: SamplingLaw,
    end_tokens: Collection[int],
    batch_size: int,
    topk: int = 0,
    support: bool = False,
    states: bool = False,
    together: bool = False,
    report: Callable[[int], None] | None = None,
) -> Written:
    """One sequence after its prompt for every row of `uniforms`.

    Args:
        scorer: the model and its cache; its `transform` must be None, since `sampling` takes its place.
        prompts: ids, each of shape (its length,).
        prompt: the index of the prompt of each sequence, (n,). Sequences of one prompt side by side read it once.
        uniforms: in [0, 1), (n, length): the token of a step is the first i with P(token ≤ i) > u.
        sampling: from the model's logits to the law that is sampled from.
        end_tokens: a sequence ends with the first of these, or at `length`.
        batch_size: sequences at a time.
        topk: the number of likeliest tokens to keep of every law; 0 keeps none.
        support: whether to record the tokens that the sampler keeps, where it cuts any.
        states: whether to keep the model's states.
        together: whether sequences of one prompt side by side may share a row of the model, which must be one that
            `writes_together`; they do where that `pays`. Log-probs then differ by rounding.
        report: called with the number of sequences written so far, after each batch.

    Raises:
        ValueError: a token is none of the vocabulary, the context is too short, a shape is off, a number is out of
            range, or the model gives NaN.
    """
    check_numpy(uniforms=check_reals(uniforms, "uniforms", "n", "length"))
    checked = checked_prompts(scorer.model, prompts, prompt, uniforms.shape)
    check_positions(scorer.model, max(map(len, checked)) + uniforms.shape[1], "the model")
    check_count("batch_size", batch_size, 1)
    check_count("topk", topk, 0)
    if scorer.transform is not None:
        raise ValueError("transform is given beside sampling: the cuts of a sampler belong into sampling")
    vocab = int(scorer.model.config.get_text_config().vocab_size)
    shares = together and scorer.new_cache is None and not states
    pages = Pages(uniforms, sampling, end_tokens, topk, support, vocab)
    steps = _Steps(scorer, final_norm(scorer.model) if states else None, uniforms.shape)
    for start in range(0, len(uniforms), batch_size):
        rows = np.arange(start, min(start + batch_size, len(uniforms)))
        _write(steps, checked, prompt[rows], rows, pages, shares)
        if report is not None:
            report(int(rows[-1]) + 1)
    return dataclasses.replace(pages.written(prompt), states=steps.states())


class Pages:
    """The sequences so far: each step decides one token of every sequence and writes it down.

    Attributes:
        length: the most tokens of a sequence.
    """

    def __init__(
        self, uniforms: Floats, sampling: SamplingLaw, ends: Collection[int], topk: int, support: bool, vocab: int
    ) -> None:
        """Empty pages.

        Args:
            uniforms: in [0, 1), (n, length): the token of a step is the first i with P(token ≤ i) > u.
            sampling: from the logits to the law that is sampled from.
            ends: a sequence ends with the first of these, or at `length`.
            topk: the number of likeliest tokens to keep of every law; 0 keeps none.
            support: whether to record the tokens that the sampler keeps, where it cuts any.
            vocab: the number of tokens that a law covers.
        """
        self._uniforms, self._sampling = check_reals(uniforms, "uniforms", "n", "length"), sampling
        self._ends = np.asarray(sorted(ends), dtype=np.int64)
        shape = uniforms.shape
        self.length = shape[1]
        self._tokens: Ints = np.zeros(shape, dtype=np.int64)
        self._mask: Flags = np.zeros(shape, dtype=np.bool_)
        self._log_probs: Floats = np.zeros(shape)
        self._raw_log_probs: Floats = np.zeros(shape)
        k = min(topk, vocab)
        self._ids = np.zeros((*shape, k), dtype=np.int32)
        self._top = np.full((*shape, k), -np.inf, dtype=np.float32)
        self._kept: list[tuple[Ints, Ints]] | None = [] if support and sampling.cuts else None
        """The place of each token kept, row · length + step, and its id."""

    def draw(self, rows: Ints, step: int, scores: Tensor) -> tuple[Ints, Flags]:
        """The tokens of these sequences at this step, and True where a sequence goes on; both (rows,).

        Args:
            rows: the sequences, (rows,).
            step: the index of the token.
            scores: logits, (rows, vocab).
        """
        law = self._sampling.log_probs(scores)
        tokens = categorical(law, scores.new_tensor(self._uniforms[rows, step, None], dtype=law.dtype))
        drawn = to_numpy(tokens)[:, 0]
        self._tokens[rows, step], self._mask[rows, step] = drawn, True
        xp = namespace(law)
        self._log_probs[rows, step] = to_numpy(xp.take_along_axis(law, tokens, axis=-1))[:, 0]
        self._raw_log_probs[rows, step] = self._log_probs[rows, step]
        if not self._sampling.is_plain:
            own = scores.double()
            raw = xp.take_along_axis(own, tokens, axis=-1) - logsumexp(own, keepdims=True)
            self._raw_log_probs[rows, step] = to_numpy(raw)[:, 0]
        if self._ids.shape[-1]:
            top = TopK.of(law, self._ids.shape[-1])
            self._ids[rows, step], self._top[rows, step] = to_numpy(top.ids), to_numpy(top.log_probs)
        if self._kept is not None:
            row, ids = np.nonzero(to_numpy(law > -np.inf))
            self._kept.append((rows[row] * self.length + step, ids.astype(np.int32)))
        return drawn, ~np.isin(drawn, self._ends)

    def written(self, prompt: Ints) -> Written:
        """The sequences with their log-probs, in the order of their rows."""
        topk = TopK(self._ids, self._top) if self._ids.shape[-1] else None
        return Written(prompt, self._tokens, self._mask, self._log_probs, self._raw_log_probs, topk, self._support())

    def _support(self) -> SamplingMask | None:
        if self._kept is None:
            return None
        place, ids = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        count = np.bincount(place, minlength=self._tokens.size)
        offsets = np.concatenate([[0], np.cumsum(count)])
        places = np.arange(self._tokens.size).reshape(self._tokens.shape)
        return SamplingMask(ids[np.argsort(place, kind="stable")], offsets, places)


def _write(steps: _Steps, prompts: Sequence[Ints], prompt: Ints, rows: Ints, pages: Pages, together: bool) -> None:
    """Writes the sequences `rows`, each after its prompt, as one batch."""
    model = steps.scorer.model
    distinct, which = np.unique(prompt, return_inverse=True)
    ids, mask = left_padded([prompts[each] for each in distinct])
    cache = steps.scorer.empty_cache()
    scores = steps.logits(rows, 0, ids, mask, cache, which)
    samples = int(np.bincount(which).max())
    if together and pays(model, samples, pages.length) and (which[1:] >= which[:-1]).all():
        _write_together(Rows(model, cache, mask, which), rows, pages, scores)
        return
    cache, mask = _gathered(model, cache, which), mask[which]
    for step in range(pages.length):
        drawn, going_on = pages.draw(rows, step, scores)
        if step + 1 == pages.length or not going_on.any():
            return
        if not going_on.all():
            staying = np.flatnonzero(going_on)
            rows, drawn, mask, cache = rows[staying], drawn[staying], mask[staying], _gathered(model, cache, staying)
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=True)
        scores = steps.logits(rows, step + 1, drawn[:, None], mask, cache, np.arange(len(rows)))


def _write_together(read: Rows, rows: Ints, pages: Pages, scores: Tensor) -> None:
    """Writes the sequences `rows` on from the logits after their prompts, those of a prompt in one row of the model."""
    for step in range(pages.length):
        drawn, going_on = pages.draw(rows, step, scores)
        if step + 1 == pages.length or not going_on.any():
            return
        rows = rows[going_on]
        with scoring_mode(read.model):
            scores = read.read(going_on, drawn[going_on])


class _Steps:
    """The steps of a model: each gives the logits for the next token of some sequences, and may keep their states."""

    def __init__(self, scorer: CausalLM, norm: Model | None, shape: tuple[int, ...]) -> None:
        self.scorer, self._norm, self._shape = scorer, norm, shape
        self._states: Tensor | None = None

    def logits(self, rows: Ints, step: int, ids: Ints, mask: Flags, cache: Cache, which: Ints) -> Tensor:
        """Logits for the token of a step, (rows, vocab); the cache grows by all of `ids`.

        Args:
            rows: the sequences, (rows,).
            step: the index of the token that is chosen next.
            ids: new tokens, (read, new).
            mask: True on tokens and False on padding, of those in the cache and the new ones, (read, all).
            cache: the keys and values of what has been read before.
            which: the row of `ids` that each sequence follows, (rows,).
        """
        model, norm = self.scorer.model, self._norm
        visible, positions = seen(model, mask, ids.shape[1])
        listed: AbstractContextManager[list[Tensor]] = nullcontext([]) if norm is None else inputs_of(norm)
        with scoring_mode(model), listed as inputs:
            read = on_device(model, ids)
            scores = logits(model, read, LAST, cache=cache, mask=visible, positions=positions)[:, 0]
        taken = on_device(model, which)
        if inputs:
            values = inputs[-1][:, -1]
            if self._states is None:
                self._states = empty_states(self._shape, values)
            self._states[on_device(model, rows), step] = values[taken]
        return scores[taken]

    def states(self) -> States | None:
        """The states of all steps, if they were kept."""
        return None if self._states is None else States(self.scorer, self._states)


def _gathered(model: Model, cache: Cache, rows: Ints) -> Cache:
    with scoring_mode(model):
        return gathered(cache, on_device(model, rows))
