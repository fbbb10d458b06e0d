"""Divergences of two policies over sequences: exact, and from rollouts.

Figures are given per token and per sequence. By the chain rule KL(p(y)‖q(y)) is the sum over prefixes of the
policy's expected visits times KL(p(·|s)‖q(·|s)); divided by the expected length it is the mean over the
tokens that the policy writes. The other figures per token are means over the tokens that the actor
writes, which are those that frameworks see. With several prompts a figure is the mean over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.checks import check_alike, check_integers, check_shape
from jackpot_sim.core.log_ratios import chi_square_term
from jackpot_sim.core.sequences import Enumeration, SampledSequences, SequenceLaws, occupancy, per_sequence

NAMES = (
    *("kl_policy_actor", "kl_actor_policy", "total_variation", "chi_square"),
    *("kl_sequence", "chi_square_sequence", "mean_length"),
)
"""The figures, nats where they are KLs: four per token, two per sequence, and the actor's expected length."""


def exact(enumeration: Enumeration) -> dict[str, float]:
    """The figures `NAMES` of one prompt, from all its sequences.

    chi_square is E_q[Σ_t r²]/E_q[length] − 1, and chi_square_sequence Σ_y p(y)²/q(y) − 1, computed as
    Σ_y (p(y) − q(y))²/q(y). Where log-probs differ by s, their rounding by 1e-16 changes it by a relative
    1e-16/s: the laws at different prefixes miss 1 by different amounts, which do not cancel.
    """
    laws, sequences = enumeration.laws, enumeration.sequences
    p, q = (sequences.log_probs(table) for table in (laws.policy_log_probs, laws.actor_log_probs))
    visits = [occupancy(sequences, np.exp(each), laws.shape).sum(axis=-1) for each in (p, q)]
    lengths = [float(np.exp(each) @ sequences.lengths) for each in (p, q)]
    ratio = sequences.log_ratio(laws.policy_log_probs, laws.actor_log_probs)
    square = float(divergences.chi_square_of_checked(p, ratio, q))
    at_policy, at_actor = (_at_prefixes(laws, where) for where in (_AT_POLICY, _AT_ACTOR))
    figures = {name: _expect(visits[0], values) for name, values in at_policy.items()}
    figures |= {name: _expect(visits[1], values) / lengths[1] for name, values in at_actor.items()}
    return figures | {
        "kl_policy_actor": figures["kl_sequence"] / lengths[0],
        "chi_square_sequence": square,
        "mean_length": lengths[1],
    }


def sampled(rollouts: Sequence[SampledSequences]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures `NAMES` over all prompts, and the standard error of each.

    The divergence at each prefix is exact; only the visited prefixes are sampled.
    """
    per_prompt = [_of_prompt(each) for each in rollouts]
    values = {name: float(np.mean([figures[name][0] for figures in per_prompt])) for name in NAMES}
    errors = {name: math.sqrt(sum(figures[name][1] ** 2 for figures in per_prompt)) / len(per_prompt) for name in NAMES}
    return values, errors


def _of_prompt(rollouts: SampledSequences) -> dict[str, tuple[float, float]]:
    laws, actor, policy = rollouts.laws, rollouts.actor, rollouts.policy
    ones = np.ones(len(actor))
    kl = per_sequence(policy.gather(_at_prefixes(laws, _AT_POLICY)["kl_sequence"]))
    figures = {"kl_sequence": ratio_of_means(kl, ones), "kl_policy_actor": ratio_of_means(kl, policy.lengths)}
    for name, values in _at_prefixes(laws, _AT_ACTOR).items():
        figures[name] = ratio_of_means(per_sequence(actor.gather(values)), actor.lengths)
    with np.errstate(over="ignore"):
        square = chi_square_term(actor.log_ratio(laws.policy_log_probs, laws.actor_log_probs))
    # The actor's draws cannot show what it never writes; but χ² ≥ e^KL − 1 is infinite where the KL is.
    unreachable = figures["kl_sequence"][0] == math.inf
    mean, error = (math.inf, math.nan) if unreachable else ratio_of_means(square, ones)
    return figures | {"chi_square_sequence": (mean, error), "mean_length": ratio_of_means(actor.lengths, ones)}


_AT_POLICY: dict[str, Callable[[Floats, Floats], Array]] = {"kl_sequence": divergences.kl}
_AT_ACTOR = {name: divergence for name, divergence in divergences.BY_NAME.items() if name != "kl_policy_actor"}


def _at_prefixes(laws: SequenceLaws, which: dict[str, Callable[[Floats, Floats], Array]]) -> dict[str, Floats]:
    return {name: np.asarray(f(laws.policy_log_probs, laws.actor_log_probs)) for name, f in which.items()}


def _expect(visits: Floats, values: Floats) -> float:
    """Σ visits · values, where a prefix that is never met adds nothing, not even inf."""
    visited = visits > 0
    return float(visits[visited] @ values[visited])


def ratio_of_means(values: Floats, counts: Floats, stratum: Ints | None = None) -> tuple[float, float]:
    """Σ values / Σ counts over sequences, both of shape (n,), and its standard error by the delta method.

    Args:
        values: the numerator of each sequence.
        counts: its denominator.
        stratum: the prompt of each sequence, (n,), where prompts are fixed: only the spread among sequences of
            the same prompt then counts as error. None: all sequences are one sample.

    Raises:
        ValueError: a shape is not (n,).
    """
    check_alike(values=values, counts=counts)
    if values.ndim != 1:
        raise ValueError(f"values has shape {values.shape}: it must be (n,), one number per sequence")
    if stratum is not None:
        check_shape(check_integers(stratum, "stratum"), (len(values),), "stratum", "one number per sequence")
    ratio = float(values.sum() / counts.sum())
    if not math.isfinite(ratio):
        return ratio, math.nan
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        residual = values - ratio * counts
        if stratum is None:
            square = np.sum(residual**2) * len(values) / (len(values) - 1)
        else:
            at = np.unique(stratum, return_inverse=True)[1]
            size = np.bincount(at)
            spread = np.bincount(at, (residual - (np.bincount(at, residual) / size)[at]) ** 2)
            square = np.sum(spread * size / (size - 1))
        return ratio, float(np.sqrt(square) / counts.sum())
