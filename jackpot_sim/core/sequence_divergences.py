"""Divergences of two policies over sequences: exact, and from rollouts.

Per token and per sequence are both told. By the chain rule KL(p(y)‖q(y)) is the sum over prefixes of the
policy's expected visits times KL(p(·|s)‖q(·|s)); divided by the expected length it is the mean over the
tokens that the policy writes. The other figures per token are means over the tokens that the actor
writes, as those are that frameworks can see. With several prompts, a figure is the mean over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.log_ratios import chi_square_term
from jackpot_sim.core.sequences import Enumeration, SampledSequences, SequenceLaws, occupancy, per_sequence

NAMES = (
    *("kl_policy_actor", "kl_actor_policy", "total_variation", "chi_square"),
    *("kl_sequence", "chi_square_sequence", "mean_length"),
)
"""The figures, nats where they are KLs: four per token, two per sequence, and the actor's expected length."""


def exact(enumeration: Enumeration) -> dict[str, float]:
    """The figures `NAMES` of one prompt, from all its sequences.

    chi_square is E_q[Σ_t r²]/E_q[length] − 1, chi_square_sequence Σ_y p(y)²/q(y) − 1, as Σ_y (p(y) − q(y))²/q(y):
    where log-probs differ by s, their rounding by 1e-16 changes that by 1e-16/s of itself, as sums that miss 1
    at one prefix do not cancel against those at another.
    """
    laws, sequences = enumeration.laws, enumeration.sequences
    p, q = (sequences.log_probs(table) for table in (laws.policy_log_probs, laws.actor_log_probs))
    visits = [occupancy(sequences, np.exp(each), laws.shape).sum(axis=-1) for each in (p, q)]
    lengths = [float(np.exp(each) @ sequences.lengths) for each in (p, q)]
    ratio = sequences.log_ratio(laws.policy_log_probs, laws.actor_log_probs)
    square = float(divergences.chi_square_of_checked(p, ratio, q))
    at_policy, at_actor = (_at_prefixes(laws, where) for where in (_AT_POLICY, _AT_ACTOR))
    found = {name: _expect(visits[0], values) for name, values in at_policy.items()}
    found |= {name: _expect(visits[1], values) / lengths[1] for name, values in at_actor.items()}
    return found | {
        "kl_policy_actor": found["kl_sequence"] / lengths[0],
        "chi_square_sequence": square,
        "mean_length": lengths[1],
    }


def sampled(rollouts: Sequence[SampledSequences]) -> tuple[dict[str, float], dict[str, float]]:
    """The figures `NAMES` over all prompts, and the standard error of each.

    The divergence at a prefix is exact; what is sampled is which prefixes are met.
    """
    per_prompt = [_of_prompt(each) for each in rollouts]
    values = {name: float(np.mean([found[name][0] for found in per_prompt])) for name in NAMES}
    errors = {name: math.sqrt(sum(found[name][1] ** 2 for found in per_prompt)) / len(per_prompt) for name in NAMES}
    return values, errors


def _of_prompt(rollouts: SampledSequences) -> dict[str, tuple[float, float]]:
    laws, actor, policy = rollouts.laws, rollouts.actor, rollouts.policy
    ones = np.ones(len(actor))
    kl = per_sequence(policy.gather(_at_prefixes(laws, _AT_POLICY)["kl_sequence"]))
    found = {"kl_sequence": ratio_of_means(kl, ones), "kl_policy_actor": ratio_of_means(kl, policy.lengths)}
    for name, values in _at_prefixes(laws, _AT_ACTOR).items():
        found[name] = ratio_of_means(per_sequence(actor.gather(values)), actor.lengths)
    with np.errstate(over="ignore"):
        square = chi_square_term(actor.log_ratio(laws.policy_log_probs, laws.actor_log_probs))
    # The actor's own draws cannot show what it never writes; χ² is infinite where KL is, being at least e^KL − 1.
    unreachable = found["kl_sequence"][0] == math.inf
    mean, error = (math.inf, math.nan) if unreachable else ratio_of_means(square, ones)
    return found | {"chi_square_sequence": (mean, error), "mean_length": ratio_of_means(actor.lengths, ones)}


_AT_POLICY: dict[str, Callable[[Floats, Floats], Array]] = {"kl_sequence": divergences.kl}
_AT_ACTOR = {name: divergence for name, divergence in divergences.BY_NAME.items() if name != "kl_policy_actor"}


def _at_prefixes(laws: SequenceLaws, which: dict[str, Callable[[Floats, Floats], Array]]) -> dict[str, Floats]:
    return {name: np.asarray(f(laws.policy_log_probs, laws.actor_log_probs)) for name, f in which.items()}


def _expect(visits: Floats, values: Floats) -> float:
    """Σ visits · values, where a prefix that is never met adds nothing, not even inf."""
    there = visits > 0
    return float(visits[there] @ values[there])


def ratio_of_means(values: Floats, counts: Floats, stratum: Ints | None = None) -> tuple[float, float]:
    """Σ values / Σ counts over sequences, both of shape (n,), and its standard error by the delta method.

    Args:
        values: of each sequence.
        counts: what they are divided by.
        stratum: which prompt each sequence follows, (n,), if prompts are fixed: then only what differs among
            sequences of the same prompt is an error. None: the sequences are a sample as they are.
    """
    ratio = float(values.sum() / counts.sum())
    if not math.isfinite(ratio):
        return ratio, math.nan
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        left = values - ratio * counts
        if stratum is None:
            square = np.sum(left**2) * len(values) / (len(values) - 1)
        else:
            at = np.unique(stratum, return_inverse=True)[1]
            size = np.bincount(at)
            spread = np.bincount(at, (left - (np.bincount(at, left) / size)[at]) ** 2)
            square = np.sum(spread * size / (size - 1))
        return ratio, float(np.sqrt(square) / counts.sum())
