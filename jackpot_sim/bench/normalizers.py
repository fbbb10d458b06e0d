"""Accuracy, memory and time of each way to the overlap Z without whole laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.bench.timing import Finding, in_turn, peak_bytes, ratios
from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.heads import Head
from jackpot_sim.core.numerics import log_ratio, log_softmax
from jackpot_sim.core.sampling import categorical
from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.states.base_laws import LmLike
from jackpot_sim.environments.states.families import LogitNoise
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison, LawBlock, Way, compare

K = 20

_TARGETS = {"float32": 1e-4, "float64": 1e-10}
_KLS = (0.001, 0.005, 0.02, 0.1, 0.5)
_HELD_UNTIL = 0.02
"""The largest mean KL, in nats, at which the accuracy of the calibrated bracket has a target."""


def normalizers(
    tokens: int = 512, vocab: int = 32_768, hidden: int = 256, rounds: int = 5, batches: int = 8
) -> Iterator[Finding]:
    """Chunks of the vocabulary against whole laws, then the estimates from the top-k against the exact Z."""
    models = _models(tokens, vocab, hidden)
    yield from _chunked(models)
    yield from _times(models.cast("float32"), rounds)
    yield from _accuracy(batches)


@dataclass(frozen=True, eq=False)
class _Models:
    """Last hidden states of two policies, and the weights of their heads."""

    policy_hidden: NDArray[np.floating]
    policy_weight: NDArray[np.floating]
    actor_hidden: NDArray[np.floating]
    actor_weight: NDArray[np.floating]

    def cast(self, dtype: str) -> _Models:
        return _Models(*(each.astype(dtype) for each in vars(self).values()))

    def laws(self) -> tuple[Array, Array]:
        """log p and log q in full, each of shape (tokens, vocab)."""
        policy = log_softmax(self.policy_hidden @ self.policy_weight.T)
        return policy, log_softmax(self.actor_hidden @ self.actor_weight.T)

    def full(self) -> Array:
        return obrs.overlap(*self.laws())

    def chunked(self) -> Array:
        heads = Head(self.policy_weight), Head(self.actor_weight)
        return normalizer.chunked(self.policy_hidden, self.actor_hidden, *heads)

    @property
    def law_bytes(self) -> int:
        """The bytes of both arrays of log-probs together."""
        return 2 * len(self.policy_hidden) * len(self.policy_weight) * int(self.policy_hidden.itemsize)


def _models(tokens: int, vocab: int, hidden: int) -> _Models:
    """A policy with logits of standard deviation 4, and an actor with 5 % of noise on all numbers of the policy."""
    generator = np.random.default_rng(0)
    states = generator.standard_normal((tokens, hidden))
    weight = 4 / math.sqrt(hidden) * generator.standard_normal((vocab, hidden))
    moved = [each * (1 + 0.05 * generator.standard_normal(each.shape)) for each in (states, weight)]
    return _Models(states, weight, moved[0], moved[1])


def _chunked(models: _Models) -> Iterator[Finding]:
    for dtype, within in _TARGETS.items():
        rounded = models.cast(dtype)
        exact = rounded.cast("float64").full()
        labels = {"way": "chunked", "dtype": dtype}
        error = float(np.max(np.abs(np.asarray(rounded.chunked() / exact) - 1)))
        yield Finding(f"chunked Z, {dtype}, largest relative error", error, at_most=within, labels=labels)
        peak = peak_bytes(rounded.chunked) / models.cast(dtype).law_bytes
        yield Finding(f"chunked Z, {dtype}, memory / both laws", peak, "x", at_most=0.1, labels=labels)


def _times(models: _Models, rounds: int) -> Iterator[Finding]:
    p, q = models.laws()
    stored = TopK.of(q, K)
    generator = np.random.default_rng(1)
    drawn = categorical(q, generator.random((len(q), 1)))
    accept = obrs.acceptance_probability(namespace(p).take_along_axis(log_ratio(p, q), drawn, axis=-1)[:, 0], 1.0)

    def on_topk() -> tuple[Array, Array]:
        return normalizer.bracket_on_topk(stored.gather(p), stored.log_probs)

    candidates: dict[str, Callable[[], object]] = {
        "full": models.full,
        "chunked": models.chunked,
        "overlap": partial(obrs.overlap, p, q),
        "top-k": partial(normalizer.topk, p, q, K),
        "calibrated": lambda: normalizer.calibrated(*normalizer.bracket(p, q, K), accept),
        "bracket_on_topk": on_topk,
        "server-calibrated": lambda: normalizer.calibrated_on_topk(stored.gather(p), stored.log_probs, accept),
    }
    seconds = in_turn(candidates, rounds)
    where = f"{p.shape[0]} x {p.shape[1]}, hidden {models.policy_hidden.shape[1]}, float32"
    labels: dict[str, str | float] = {"tokens": p.shape[0], "vocab": p.shape[1], "k": K}
    in_rounds = ratios(seconds["chunked"], seconds["full"])
    what = "time of chunked / full, from hidden states"
    yield Finding.over_rounds(what, in_rounds, note=where, labels={"way": "chunked"} | labels)
    for way in ("top-k", "calibrated", "bracket_on_topk", "server-calibrated"):
        what, in_rounds = f"time of {way} / exact, from log-probs at hand", ratios(seconds[way], seconds["overlap"])
        yield Finding.over_rounds(what, in_rounds, labels={"way": way} | labels)
    labels |= {"way": "bracket_on_topk"}
    in_rounds = ratios(seconds["bracket_on_topk"], seconds["full"])
    yield Finding.over_rounds("time of bracket_on_topk / full", in_rounds, at_most=0.03, labels=labels)


def _accuracy(batches: int, states: int = 256, vocab: int = 8192) -> Iterator[Finding]:
    """The errors of every way on batches of 256 tokens, at each mean KL.

    60 % of the states are near-certain, the others Zipf with exponents 1 to 1.6, so that k = 20 keeps 87 % of Z
    at small KL, as [J] reports of real models.
    """
    base = LmLike(vocab=vocab, states=states, near_certain=0.6)
    for kl in _KLS:
        sigma = LogitNoise(base=base, target_kl=kl).build(0).knob
        pairs = (LogitNoise(base=base, sigma=sigma).build(seed).pair for seed in range(batches))
        blocks = (_block(pair, number) for number, pair in enumerate(pairs))
        comparisons = compare(blocks, [K], batch=states)
        for one in comparisons:
            yield from _of_way(one, kl)
        outside = max(one.outside for one in comparisons)
        yield Finding(f"states with Z outside a bracket, KL {kl:g}", outside, at_most=0.0, labels={"k": K, "kl": kl})


def _block(pair: PolicyPair, number: int) -> LawBlock:
    """The states of a pair with a token of the actor at each; every state is a cluster of its own."""
    generator = np.random.default_rng([2, number])
    states = len(pair.actor_log_probs)
    tokens = categorical(pair.actor_log_probs, generator.random((states, 1)))[:, 0]
    cluster = number * states + np.arange(states)
    return LawBlock(pair.policy_log_probs, pair.actor_log_probs, tokens, generator.random(states), cluster)


def _of_way(comparison: Comparison, kl: float) -> Iterator[Finding]:
    labels: dict[str, str | float] = {"way": str(comparison.way), "k": comparison.k, "kl": kl}
    at_most = at_least = None
    if kl <= _HELD_UNTIL:
        at_most = 0.01 if comparison.way is Way.CALIBRATED else None
        at_least = 0.1 if comparison.way is Way.TOPK else None
    errors = f"se {comparison.error_se:.2g}, keeps {comparison.kept:.4f} (se {comparison.kept_se:.2g})"
    note = f"{errors}, largest {comparison.error_max:.3g}"
    what = f"error of Z, {comparison.way}, k {comparison.k}, KL {kl:g}"
    yield Finding(what, comparison.error, "x", at_most=at_most, at_least=at_least, note=note, labels=labels)
    if comparison.way in (Way.BIAS_CORRECTED, Way.SERVER_BIAS_CORRECTED):
        what = f"states with an estimate above 1, {comparison.way}, KL {kl:g}"
        yield Finding(what, comparison.above_one, labels=labels)
