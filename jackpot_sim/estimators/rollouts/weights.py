"""Weights, masks and divisors of rollouts of which only the drawn tokens are scored.

This module does for scored tokens what `sequences` does for tables of prefixes. Where a correction needs the
overlap Z(λ) at each state, the caller gives it. Sequences are distributed among replicates, each of which is the
batch of one update.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.checks import check_floats, check_integers, check_mask, check_numpy, check_shape
from jackpot_sim.core.log_ratios import ess_fraction
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights, in_numpy
from jackpot_sim.estimators.replicates import jackknife
from jackpot_sim.estimators.statistics import Denominator, divisor


def weigh(
    rollouts: ScoredRollouts, correction: Correction, overlap: Floats | None = None, *, replicate: Ints | None = None
) -> TokenWeights[Floats]:
    """Accept probability and weight of every token, both (n, length), 0 at padding.

    Args:
        rollouts: sequences that the actor wrote.
        correction: any correction; its target is the policy of the rollouts.
        overlap: Z(correction.overlap_lam) at the state of each token, (n, length), in [0, 1]; ignored at padding, and
            by a correction that needs none.
        replicate: the batch of each sequence, (n,), for corrections that look at the batch; None: a single batch.

    Raises:
        TypeError: `overlap` is not a numpy array of real floating numbers, or `replicate` not one of integers.
        ValueError: as `Correction.weights`, or a shape differs.
    """
    if overlap is not None:
        _check_per_token(rollouts, overlap, "overlap")
        overlap = np.where(rollouts.mask, overlap, 1.0)
    if replicate is not None:
        _check_replicate(rollouts, replicate)
    if replicate is None or not correction.looks_at_batch:
        return _weigh(rollouts, correction, overlap)
    accept, weight = (np.zeros(rollouts.mask.shape) for _ in range(2))
    for rows in _batches(replicate):
        batch = None if overlap is None else overlap[rows]
        accept[rows], weight[rows] = _weigh(rollouts.take(rows), correction, batch)
    return TokenWeights(accept, weight)


def _weigh(rollouts: ScoredRollouts, correction: Correction, overlap: Floats | None) -> TokenWeights[Floats]:
    with overflow_to_inf():
        return in_numpy(correction.weights(tokens_of_rollouts(rollouts, overlap)))


def tokens_of_rollouts(rollouts: ScoredRollouts, overlap: Floats | None = None) -> Tokens:
    """The tokens of rollouts, shape (n, length), with advantages of shape (n, 1).

    Args:
        rollouts: sequences that the actor wrote.
        overlap: Z(λ) at the state of each token, (n, length), for a correction that needs it.

    Raises:
        TypeError: `overlap` is not a numpy array of real floating numbers.
        ValueError: `overlap` has another shape.
    """
    if overlap is not None:
        _check_per_token(rollouts, overlap, "overlap")
    return Tokens(
        rollouts.log_ratio,
        policy_log_probs=rollouts.policy_log_probs,
        actor_log_probs=rollouts.actor_log_probs,
        overlap=overlap,
        mask=rollouts.mask,
        advantages=rollouts.advantage[:, None],
    )


def draw(rollouts: ScoredRollouts, pair: TokenWeights[Floats], generator: np.random.Generator) -> tuple[Flags, Floats]:
    """The mask m, drawn for every token from its accept probability, and m·w; both (n, length).

    Raises:
        TypeError: a or w is not a numpy array of real floating numbers.
        ValueError: a or w has another shape than the rollouts.
    """
    for name, values in pair._asdict().items():
        _check_per_token(rollouts, values, name)
    mask = (generator.random(pair.accept.shape) < pair.accept) & rollouts.mask
    return mask, np.where(mask, pair.weight, 0.0)


def scale(
    rollouts: ScoredRollouts,
    mask: Flags,
    weight: Floats,
    denominator: Denominator | str,
    unit: Level,
    replicate: Ints,
) -> Floats:
    """The divisor of each sequence's sum, besides the number of sequences; (n,).

    `proposed`: 1. `accepted`: the share of its replicate's tokens that are kept. `self_normalized`: the mean weight
    of its prompt in its replicate, over tokens or, for corrections of whole sequences, over sequences. The divisor
    is nan where nothing is kept.

    Args:
        rollouts: the sequences.
        mask: the tokens that are kept, (n, length).
        weight: m·w, the same shape.
        denominator: a `Denominator` or its name.
        unit: the correction's unit.
        replicate: the update of each sequence, (n,).

    Raises:
        TypeError: the mask is not boolean, weights are no real floating numbers, replicates no integers, or one of
            them no numpy array.
        ValueError: a shape differs, the mask keeps what is no token, or the denominator is unknown.
    """
    denominator = Denominator(denominator)
    _check_kept(rollouts, mask, weight)
    _check_replicate(rollouts, replicate)
    per_unit, units = _units(rollouts, unit)
    batch = np.column_stack([replicate, rollouts.prompt])
    divisors = divisor(
        denominator,
        _shares(mask.sum(axis=-1), rollouts.lengths, replicate[:, None]),
        _shares(np.sum(weight * per_unit, axis=-1), units, batch),
    )
    return np.where(divisors > 0, divisors, np.nan)


def weight_figures(
    rollouts: ScoredRollouts, mask: Flags, weight: Floats, unit: Level, replicate: Ints
) -> tuple[dict[str, float], dict[str, float]]:
    """acceptance_rate and ess_fraction by their names, and the standard error of each.

    acceptance_rate is the share of tokens that are kept, and ess_fraction (Σ mw)²/(units · Σ mw²), over all
    replicates together; the standard errors are delete-one jackknives over replicates. The arguments are those
    of `scale`.

    Raises:
        TypeError: as `scale`.
        ValueError: a shape differs, the mask keeps what is no token, or there are fewer than 3 replicates.
    """
    _check_kept(rollouts, mask, weight)
    _check_replicate(rollouts, replicate)
    per_unit, units = _units(rollouts, unit)
    with overflow_to_inf():
        columns = (
            mask.sum(axis=-1),
            rollouts.lengths,
            units,
            np.sum(weight * per_unit, axis=-1),
            np.sum(weight**2 * per_unit, axis=-1),
        )
    sums = np.array([[column[rows].sum() for column in columns] for rows in _batches(replicate)])
    if len(sums) < 3:
        raise ValueError(f"replicate names {len(sums)} replicates: a jackknife needs at least 3")
    value = _weight_figures(sums)
    left_out = [_weight_figures(np.delete(sums, index, axis=0)) for index in range(len(sums))]
    return value, {name: jackknife([each[name] for each in left_out]) for name in value}


def _weight_figures(sums: Floats) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kept, tokens, units, weight, square = sums.sum(axis=0)
        return {"acceptance_rate": float(kept / tokens), "ess_fraction": float(ess_fraction(weight, square, units))}


def _units(rollouts: ScoredRollouts, unit: Level) -> tuple[float | Floats, Floats]:
    """The share of a token's weight in its unit, (n, 1) or 1, and the units of each sequence, (n,)."""
    if unit is Level.TOKEN:
        return 1.0, rollouts.lengths
    return 1 / rollouts.lengths[:, None], np.ones(len(rollouts))


def _shares(part: Floats | Ints, whole: Floats, batch: Ints) -> Floats:
    """Σ part / Σ whole over all sequences with the same row of `batch`, for each sequence, (n,)."""
    at = np.unique(batch, axis=0, return_inverse=True)[1].ravel()
    return np.asarray((np.bincount(at, weights=part) / np.bincount(at, weights=whole))[at])


def _batches(replicate: Ints) -> Iterator[Ints]:
    """The rows of each replicate, (m,)."""
    order = np.argsort(replicate, kind="stable")
    _, first = np.unique(replicate[order], return_index=True)
    yield from np.split(order, first[1:])


def _check_kept(rollouts: ScoredRollouts, mask: Flags, weight: Floats) -> None:
    check_numpy(mask=mask)
    check_mask(mask, rollouts.mask, "rollouts.mask")
    if np.any(mask & ~rollouts.mask):
        raise ValueError("mask keeps what is no token: it must be False where rollouts.mask is")
    _check_per_token(rollouts, weight, "weight")


def _check_per_token(rollouts: ScoredRollouts, values: Floats, name: str) -> None:
    check_floats(values, rollouts.mask.shape, name, "one number per token")


def _check_replicate(rollouts: ScoredRollouts, replicate: Ints) -> None:
    check_numpy(replicate=replicate)
    check_shape(check_integers(replicate, "replicate"), (len(rollouts),), "replicate", "one number per sequence")
