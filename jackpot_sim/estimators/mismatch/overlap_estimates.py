"""Ways to estimate the overlap Z without whole laws, compared with the exact Z on given states.

Whole laws are read a block at a time, and only numbers per token are kept: memory does not grow with
the vocabulary times the states.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.arrays import Array, Flags, Floats, Ints
from jackpot_sim.core.backend import as_ids, floating, namespace, to_numpy
from jackpot_sim.core.checks import check_alike, check_axes, check_ids, check_integers, check_shape
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.core.topk import TopK

ROUNDING = 1e-5
"""The error of a probability summed in float32, by which Z may lie outside a bracket."""

Ends: TypeAlias = tuple[Floats, Floats]
"""The low and the high end of a bracket at every token, each of shape (tokens,)."""


class _Source(StrEnum):
    """The tokens whose terms an estimate adds up."""

    UNION = "union"
    SERVER = "server"
    INTERSECTION = "intersection"


class Way(StrEnum):
    """The ways to estimate Z.

    The first three use both laws on TopK(q) ∪ TopK(p), the next three on the actor's TopK(q) alone, as an inference
    server returns it. Bias-corrected is κ·Z_k of [J] with the drawn masks; calibrated is the point of the bracket
    that meets the mean acceptance probability. The last two are those of [J]'s authors in Sparrow: min(q/λ, p) over
    TopK(q) ∩ TopK(p), right at λ = 1 only, and that times κ, at most 1.
    """

    TOPK = "top-k"
    BIAS_CORRECTED = "bias-corrected"
    CALIBRATED = "calibrated"
    SERVER_TOPK = "server-top-k"
    SERVER_BIAS_CORRECTED = "server-bias-corrected"
    SERVER_CALIBRATED = "server-calibrated"
    INTERSECTION = "intersection"
    INTERSECTION_CORRECTED = "intersection-bias-corrected"

    @property
    def from_server(self) -> bool:
        """True where of the actor's law only its own top-k is known."""
        return self not in (Way.TOPK, Way.BIAS_CORRECTED, Way.CALIBRATED)

    @property
    def source(self) -> _Source:
        """The tokens that are known of both laws."""
        if self in (Way.INTERSECTION, Way.INTERSECTION_CORRECTED):
            return _Source.INTERSECTION
        return _Source.SERVER if self.from_server else _Source.UNION


@dataclass(frozen=True, eq=False)
class LawBlock:
    """Some states with both whole laws, each with the token that the actor wrote there.

    Attributes:
        policy_log_probs: log p, shape (rows, vocab), nats, of any array library.
        actor_log_probs: log q, the same shape and library.
        tokens: the token sampled by the actor at each state, integers of shape (rows,).
        uniforms: one number in [0, 1) per token, which decides its mask, shape (rows,).
        cluster: the sequence, or other independently sampled unit, of each token, integers of shape (rows,).

    Raises:
        TypeError: laws or uniforms are not arrays of real floating numbers, or tokens or clusters of integers.
        ValueError: the shapes do not fit, or a token lies outside the vocabulary.
    """

    policy_log_probs: Array
    actor_log_probs: Array
    tokens: Array
    uniforms: Array
    cluster: Array

    def __post_init__(self) -> None:
        check_alike(policy_log_probs=self.policy_log_probs, actor_log_probs=self.actor_log_probs)
        check_axes(self.policy_log_probs, "policy_log_probs", "rows", "vocab")
        floating(self.uniforms, "uniforms")
        check_integers(self.cluster, "cluster")
        check_ids(self.tokens, int(self.policy_log_probs.shape[1]), "tokens")
        for name in ("tokens", "uniforms", "cluster"):
            check_shape(getattr(self, name), (len(self),), name, "one number per row")

    def __len__(self) -> int:
        return int(self.policy_log_probs.shape[0])


@dataclass(frozen=True)
class Comparison:
    """The errors of one way against the exact Z, over tokens that the actor wrote.

    Standard errors use the delta method over clusters, and include the noise of a κ or a share that is fitted
    to the same tokens; they are nan with a single cluster. Where the noise of the fit is nearly all of the error,
    as for the calibrated ways, |Ẑ − Z| is folded at 0 and its standard error is up to 1.7 times too wide. Figures
    of a bias-corrected way are nan if some batch has no top-k term above 0.

    Attributes:
        way: the way to estimate Z.
        k: the number of tokens kept of each law.
        lam: λ.
        tokens: the number of tokens.
        overlap: mean Z.
        kept: mean Ẑ / mean Z.
        kept_se: the standard error of `kept`.
        error: the mean over tokens of |Ẑ − Z|/Z.
        error_se: the standard error of `error`.
        error_max: the largest |Ẑ − Z|/Z.
        above_one: the share of tokens whose Ẑ exceeds 1, though Z ≤ 1.
        outside: the share of tokens whose Z lies outside the way's bracket by more than `ROUNDING`. The two of the
            intersection have no bracket but [0, 1].
        width: the mean of the width of this bracket over Z.
        bytes_per_token: the part of the actor's law that the rollout must store: 8·k for its top-k, or the whole
            law in float32, as TopK(p) is unknown when the rollout is written.
        seconds: the trainer's time for all tokens, with the policy's whole log-probs given and without the exact Z.
    """

    way: Way
    k: int
    lam: float
    tokens: int
    overlap: float
    kept: float
    kept_se: float
    error: float
    error_se: float
    error_max: float
    above_one: float
    outside: float
    width: float
    bytes_per_token: int
    seconds: float


def compare(
    blocks: Iterable[LawBlock],
    ks: Sequence[int],
    lam: float = 1.0,
    batch: int | None = None,
    shuffle: np.random.Generator | None = None,
) -> list[Comparison]:
    """The comparison of every way at every k, in the order of `ks` and of `Way`.

    Args:
        blocks: the states, read once and in order.
        ks: numbers of tokens kept of each law, each at least 1; a k beyond the vocabulary keeps all of it.
        lam: λ > 0.
        batch: the number of tokens to which κ and the share of the bracket are fitted at a time (the last batch may
            be smaller); None fits all at once.
        shuffle: the source of a random order of the tokens, as minibatches mix prompts; None keeps their order.

    Raises:
        ValueError: there is no token or no k, a k or the batch is below 1, λ is not positive, or a law is not
            normalised.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must hold at least one k, each at least 1, got {list(ks)}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    measured = [_measure(block, ks, lam) for block in blocks]
    if not sum(len(one.z) for one in measured):
        raise ValueError("blocks hold no token: there is nothing to compare")
    tokens = sum(len(one.z) for one in measured)
    order = np.arange(tokens) if shuffle is None else shuffle.permutation(tokens)
    z, accept, mask, cluster = (
        np.concatenate([getattr(one, name) for one in measured])[order] for name in ("z", "accept", "mask", "cluster")
    )
    drawn = _Drawn(z, accept, mask, cluster, batch or len(z))
    vocab = measured[0].vocab
    comparisons = []
    for k in ks:
        for way in Way:
            brackets = [one.brackets[k, way.source] for one in measured]
            ends = tuple(np.concatenate([timed.ends[side] for timed in brackets])[order] for side in (0, 1))
            stored = 8 * min(k, vocab) if way.from_server else 4 * vocab
            spent = sum(timed.seconds for timed in brackets)
            comparisons.append(_judge(way, (k, lam, stored, spent), drawn, (ends[0], ends[1])))
    return comparisons


# ------------------------------------------------------------- block by block


@dataclass(frozen=True, eq=False)
class _Timed:
    ends: Ends
    seconds: float


@dataclass(frozen=True, eq=False)
class _MeasuredBlock:
    """The figures of a block: numbers per token, and the bracket of each k and source."""

    z: Floats
    accept: Floats
    mask: Flags
    cluster: Ints
    vocab: int
    brackets: dict[tuple[int, _Source], _Timed]


def _measure(block: LawBlock, ks: Sequence[int], lam: float) -> _MeasuredBlock:
    p, q = floating(block.policy_log_probs), floating(block.actor_log_probs)
    xp = namespace(p, q)
    z = _floats(obrs.overlap(p, q, lam))
    tokens = as_ids(block.tokens, p)[:, None]
    drawn = log_ratio(*(xp.take_along_axis(law, tokens, axis=-1)[:, 0] for law in (p, q)))
    accept = _floats(obrs.acceptance_probability(drawn, lam))
    brackets = {}
    longest = TopK.of(q, max(ks))
    for k in ks:
        brackets[k, _Source.UNION] = _timed(normalizer.bracket, p, q, k, lam)
        brackets[k, _Source.SERVER] = _timed(_from_server, p, longest.first(k), lam)
        brackets[k, _Source.INTERSECTION] = _timed(_on_intersection, p, q, k, lam)
    mask = to_numpy(block.uniforms) < accept
    return _MeasuredBlock(z, accept, mask, to_numpy(block.cluster), int(p.shape[-1]), brackets)


def _from_server(policy_log_probs: Array, stored: TopK, lam: float) -> tuple[Array, Array]:
    return normalizer.bracket_on_topk(stored.gather(policy_log_probs), stored.log_probs, lam)


def _on_intersection(p: Array, q: Array, k: int, lam: float) -> tuple[Array, Array]:
    """The estimate on the intersection, twice: it bounds nothing."""
    estimate = normalizer.intersection(p, q, k, lam)
    return estimate, estimate


def _timed(bracket: Callable[..., tuple[Array, Array]], *given: object) -> _Timed:
    """The bracket on the host, and its time: fetching it waits for an asynchronous device."""
    started = time.perf_counter()
    low, high = bracket(*given)
    ends = _floats(low), _floats(high)
    return _Timed(ends, time.perf_counter() - started)


def _floats(x: Array) -> Floats:
    return np.asarray(to_numpy(x), dtype=np.float64)


# ---------------------------------------------------------- over all tokens


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The compared tokens: exact Z, acceptance probability, mask and cluster of each, and the size of a batch."""

    z: Floats
    accept: Floats
    mask: Flags
    cluster: Ints
    batch: int

    def batches(self) -> list[slice]:
        return [slice(start, start + self.batch) for start in range(0, len(self.z), self.batch)]


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Ẑ = base + θ·slope with one θ per batch, and each token's contribution to θ's error times the mean slope."""

    value: Floats
    slope: Floats
    residual: Floats


def _judge(way: Way, setting: tuple[int, float, int, float], drawn: _Drawn, ends: Ends) -> Comparison:
    k, lam, stored, spent = setting
    low, high = ends
    started = time.perf_counter()
    values = [_FIT[way](drawn, where, low[where], high[where]) for where in drawn.batches()]
    spent += time.perf_counter() - started
    z = drawn.z
    fitted = _Fitted(
        *(np.concatenate([getattr(one, name) for one in values]) for name in ("value", "slope", "residual"))
    )
    if way.source is _Source.INTERSECTION:
        low, high = np.zeros_like(z), np.ones_like(z)
    error = _relative(np.abs(fitted.value - z), z)
    kept, kept_se = _ratio(fitted.value + fitted.residual, z, drawn.cluster)
    mean_error, error_se = _ratio(error + _through_fit(fitted, drawn), np.ones_like(z), drawn.cluster)
    return Comparison(
        way=way,
        k=k,
        lam=lam,
        tokens=len(z),
        overlap=float(np.mean(z)),
        kept=kept,
        kept_se=kept_se,
        error=mean_error,
        error_se=error_se,
        error_max=float(np.max(error)),
        above_one=float(np.mean(fitted.value > 1 + ROUNDING)),
        outside=float(np.mean((z < low - ROUNDING) | (z > high + ROUNDING))),
        width=float(np.mean(_relative(high - low, z))),
        bytes_per_token=stored,
        seconds=spent,
    )


def _through_fit(fitted: _Fitted, drawn: _Drawn) -> Floats:
    """The contribution of each token to the mean error through θ, to first order; it sums to 0 over a batch."""
    out = np.zeros_like(drawn.z)
    has_overlap = drawn.z > 0
    steepness = np.sign(fitted.value - drawn.z) * fitted.slope / np.where(has_overlap, drawn.z, 1.0)
    for where in drawn.batches():
        slope = np.mean(fitted.slope[where])
        if slope > 0:
            out[where] = np.mean(np.where(has_overlap, steepness, 0.0)[where]) / slope * fitted.residual[where]
    return out


def _plain(drawn: _Drawn, where: slice, low: Floats, high: Floats) -> _Fitted:
    return _Fitted(low, np.zeros_like(low), np.zeros_like(low))


def _corrected(drawn: _Drawn, where: slice, low: Floats, high: Floats) -> _Fitted:
    mask = drawn.mask[where]
    # If the top-k of a whole batch share nothing, κ does not exist, but the other ways still work.
    value = np.asarray(normalizer.bias_correction(low, mask)) if np.any(low > 0) else np.full_like(low, math.nan)
    return _Fitted(value, low, mask - value)


def _corrected_to_one(drawn: _Drawn, where: slice, low: Floats, high: Floats) -> _Fitted:
    unbounded = _corrected(drawn, where, low, high)
    free = ~(unbounded.value > 1)  # an estimate that is cut to 1 does not vary with κ
    slope = np.where(free, low, 0.0)
    share = np.mean(slope) / np.mean(low) if np.any(low > 0) else 0.0
    return _Fitted(np.where(free, unbounded.value, 1.0), slope, share * unbounded.residual)


def _calibrated(drawn: _Drawn, where: slice, low: Floats, high: Floats) -> _Fitted:
    accept = drawn.accept[where]
    value = np.asarray(normalizer.calibrated(low, high, accept))
    # A share that is clipped to an end of the bracket does not vary with the tokens.
    free = np.mean(low) < np.mean(accept) < np.mean(high)
    return _Fitted(value, high - low, accept - value if free else np.zeros_like(value))


_FIT: dict[Way, Callable[[_Drawn, slice, Floats, Floats], _Fitted]] = {
    Way.TOPK: _plain,
    Way.BIAS_CORRECTED: _corrected,
    Way.CALIBRATED: _calibrated,
    Way.SERVER_TOPK: _plain,
    Way.SERVER_BIAS_CORRECTED: _corrected,
    Way.SERVER_CALIBRATED: _calibrated,
    Way.INTERSECTION: _plain,
    Way.INTERSECTION_CORRECTED: _corrected_to_one,
}


def _relative(x: Floats, z: Floats) -> Floats:
    """x/Z ≥ 0; where Z = 0, it is 0 for x = 0 and inf otherwise."""
    some = np.where(x > 0, math.inf, 0.0)
    return np.where(z > 0, x / np.where(z > 0, z, 1.0), some)


def _ratio(values: Floats, counts: Floats, cluster: Ints) -> tuple[float, float]:
    """Σ values / Σ counts and its standard error over clusters."""
    _, index = np.unique(cluster, return_inverse=True)
    sums = [np.asarray(np.bincount(index, weights=each), dtype=np.float64) for each in (values, counts)]
    if len(sums[0]) == 1:
        return float(sums[0][0] / sums[1][0]), math.nan
    return ratio_of_means(sums[0], sums[1])
