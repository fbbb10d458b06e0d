"""Exact bias, variance, MSE and ESS of a correction, in closed form over the vocabulary.

At each state s the policy gradient in logits is g_s = E_p[f] with f(x) = A(x)(e_x − p), so that
‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²). A correction (a, w) estimates it by ĝ_s, whose numerator is
g_w = E_q[a·w·f]; the denominator is an explicit option, because frameworks disagree and offer none.

States are read in cache-sized blocks, or one by one where a state is larger. On each block all corrections are measured
with all denominators, so that they share what depends on the laws alone. A state gives a row of `StateStatistics`, and
`combine` turns the rows into the moments of a cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import stop_gradient, to_numpy
from jackpot_sim.core.checks import check_alike
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states.blocks import Block, Blocks, Columns
from jackpot_sim.estimators.states.summed import Summed
from jackpot_sim.estimators.states.token_by_token import TokenByToken
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine_cell

__all__ = ["Denominator", "Moments", "StateStatistics", "exact", "measure"]


def exact(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
    believed: BelievedLaws | None = None,
) -> Moments:
    """The exact moments of `correction` over the given states.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5])
    >>> m = exact(p, q, np.array([1.0, -1.0, 0.5]), estimators.get("is"), n_samples=100)
    >>> round(m.bias, 12), round(m.variance, 3)
    (0.0, 2.299)

    A token to which the actor gives less than the smallest normal number is never proposed here, though
    the KLs still count it. Acceptance rate, KLs and ESS of a centred correction are those of the correction inside.

    Between near-equal laws, bias, direction_bias and the KLs have as many digits as the weights: all digits where
    a·w is 1 or r, as for none, is, masks, and obrs and tis at a threshold of 1. Any other a·w near 1 is rounded
    to 1e-16, which is a relative 1e-16/s of a bias or a log-ratio of size s. A bias is that of the log-probs as
    given, not normalised again; `self_normalized` takes E[mw] relative to Σp where both are near 1.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a correction of single tokens.
        denominator: a `Denominator` or its name.
        n_samples: proposals per state, for `mse`, which is nan without it.
        believed: the laws of the ratios, and of the update's ∇log p̂, where a trainer has others than p and q; the
            same shape. The wanted gradient and the KLs are those of p and q.

    Raises:
        ValueError: a law is not normalised, the shapes differ, an advantage is not finite, a parameter
            is neither a number nor one per state, the denominator is unknown, or n_samples < 1.
    """
    denominator = Denominator(denominator)
    laws = policy_log_probs, actor_log_probs, advantage
    (found,) = measure(*laws, [correction], denominators=[denominator], n_samples=n_samples, believed=believed)
    return found[denominator]


def measure(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    corrections: Sequence[Correction],
    *,
    denominators: Sequence[Denominator | str] = tuple(Denominator),
    n_samples: int | None = None,
    believed: BelievedLaws | None = None,
) -> list[dict[Denominator, Moments]]:
    """The exact moments of many corrections, by denominator, in the order of the corrections: `exact` of each.

    The states are read once for all of them; those at which sums would lose digits are read twice where `accepted` is
    among the denominators. Arguments and errors are those of `exact`.
    """
    wanted = [Denominator(each) for each in denominators]
    arrays = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    log_p, log_q, values = (stop_gradient(x) for x in arrays)
    blocks = Blocks(log_p, log_q, values, corrections, believed)
    measured = [_Measured(index, wanted) for index in range(len(corrections))]
    for block in blocks:
        for each in measured:
            each.add(block)
    for place in sorted({place for each in measured for place in each.lacking()}):
        block = blocks.at(place)
        for each in measured:
            each.complete(place, block)
    return [each.moments(n_samples) for each in measured]


class _Measured:
    """One correction at all states, block by block; only numbers of each state are held."""

    def __init__(self, index: int, wanted: Sequence[Denominator]) -> None:
        self._index = index
        self._columns: dict[Denominator, list[Columns | None]] = {each: [] for each in wanted}
        self._rates: list[Array] = []
        self._sums: list[Summed | None] = []
        self._truth: list[Columns] = []

    def add(self, block: Block) -> None:
        """Adds the next block."""
        sums, weighed = block.summed(self._index), None
        for denominator, parts in self._columns.items():
            if denominator is not Denominator.ACCEPTED:  # whose divisor is known after the last block alone
                columns = None if sums is None else sums.statistics(denominator)
                if columns is None:
                    weighed = weighed or TokenByToken(block, self._index)
                    columns = weighed.statistics(denominator, None)
                parts.append(block.truth | columns)
        if Denominator.ACCEPTED in self._columns:
            self._sums.append(sums)
            self._truth.append(block.truth)
            self._rates.append((weighed or TokenByToken(block, self._index)).rate if sums is None else sums.rate)

    def lacking(self) -> list[int]:
        """The places of the blocks from whose sums the update of `accepted` does not follow."""
        if Denominator.ACCEPTED not in self._columns:
            return []
        for sums, truth in zip(self._sums, self._truth, strict=True):
            columns = None if sums is None else sums.statistics(Denominator.ACCEPTED, self._batch_rate)
            self._columns[Denominator.ACCEPTED].append(None if columns is None else truth | columns)
        return [place for place, columns in enumerate(self._columns[Denominator.ACCEPTED]) if columns is None]

    @cached_property
    def _batch_rate(self) -> float:
        """The share of tokens that is kept, over all states."""
        return float(np.mean(np.concatenate([to_numpy(rate) for rate in self._rates])))

    def complete(self, place: int, block: Block) -> None:
        """Adds what the block at a place lacks."""
        parts = self._columns.get(Denominator.ACCEPTED, [])
        if parts and parts[place] is None:
            weighed = TokenByToken(block, self._index)
            parts[place] = block.truth | weighed.statistics(Denominator.ACCEPTED, self._batch_rate)

    def moments(self, n_samples: int | None) -> dict[Denominator, Moments]:
        """The moments by denominator."""
        return {
            denominator: combine_cell(
                StateStatistics(
                    **{
                        field.name: np.concatenate(
                            [to_numpy(part[field.name]) for part in parts if part is not None], dtype=np.float64
                        )
                        for field in dataclasses.fields(StateStatistics)
                    }
                ),
                denominator,
                n_samples,
            )
            for denominator, parts in self._columns.items()
        }
