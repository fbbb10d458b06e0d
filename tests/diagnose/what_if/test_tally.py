"""The sums of a correction, with all their shortcuts, beside the same sums written out."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given as drawn
from hypothesis import strategies as st

from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.what_if.blocks import Block
from jackpot_sim.diagnose.what_if.effects import cells_of, weighed
from jackpot_sim.diagnose.what_if.scales import LENGTHS, WEIGHTS
from jackpot_sim.diagnose.what_if.tally import Tally
from jackpot_sim.estimators import TokenWeights, given
from tests.diagnose.what_if.dumps import dump

ACCEPTS = ("ones", "whole", "sequences", "fractions")
WEIGHTS_OF = ("ones", "ratio", "clipped", "sequences", "zeros", "any")


@drawn(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from(ACCEPTS),
    st.sampled_from(WEIGHTS_OF),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_shortcuts_change_no_sum(
    lengths: list[int], accepts: str, weights: str, padded: bool, advantages: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    batch = Batch(dump(seed, np.asarray(lengths), spread=0.5), 510)
    block = Block(batch, np.arange(len(lengths)), padded)
    owner, tokens, ratio = batch.table.owner, len(batch.table), np.exp(batch.log_ratio)
    sequence = generator.random(len(lengths))[owner]
    accept = {
        "ones": np.ones(tokens),
        "whole": np.round(generator.random(tokens)),
        "sequences": np.round(sequence),
        "fractions": generator.random(tokens) * np.round(generator.random(tokens)),
    }[accepts]
    weight = {
        "ones": np.ones(tokens),
        "ratio": ratio,
        "clipped": np.minimum(ratio, 1.1),
        "sequences": 3 * generator.random(len(lengths))[owner],
        "zeros": ratio * np.round(generator.random(tokens)),
        "any": 3 * generator.random(tokens),
    }[weights]
    found = Tally()
    pair = TokenWeights(block.shaped(accept), block.shaped(weight))
    found.add(*weighed(block, cells_of(block, advantages), pair))
    gain = given(batch.table.advantages) if advantages else None
    for name, value in written_out(batch, accept, weight, gain).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, atol=1e-12, err_msg=name)


def written_out(batch: Batch, accept: Floats, weight: Floats, advantages: Floats | None) -> dict[str, Floats | float]:
    """The fields of a tally."""
    both, ratio, lengths = accept * weight, np.exp(batch.log_ratio), batch.table.lengths
    size = np.ones(len(accept)) if advantages is None else np.abs(advantages)
    signed = np.zeros(len(accept)) if advantages is None else advantages
    kept = both > 0
    groups = np.zeros((GROUPS, 4))
    by_length, by_weight = LENGTHS.zeros(), WEIGHTS.zeros()
    any_kept = of_units = 0.0
    for row, (start, length) in enumerate(zip(batch.table.starts, lengths, strict=False)):
        own = slice(int(start), int(start + length))
        columns = (accept, accept * size, both, both * weight)
        groups[(510 + row) % GROUPS] += [each[own].sum() for each in columns]
        by_length[LENGTHS.bins(np.array([float(length)]))] += accept[own].sum()
        any_kept += 1 - math.prod(1 - accept[own])
        of_units += both[own].mean()
    for a, w in zip(accept, weight, strict=True):
        by_weight[WEIGHTS.bins(np.array([w]))] += a
    log_both = np.log(both, where=kept, out=np.zeros(len(both)))
    cross: dict[str, Floats | float] = {} if np.any(~kept) else {"cross": float((ratio * log_both).sum())}
    return cross | {
        "of_groups": groups,
        "kept_by_length": by_length,
        "mass_by_weight": by_weight,
        "positive": float((both * signed)[signed > 0].sum()),
        "negative": float(-(both * signed)[signed < 0].sum()),
        "sequences_kept": any_kept,
        "of_units": of_units,
        "largest": float(np.max(weight, where=accept > 0, initial=-math.inf)),
        "own": float((both * log_both).sum()),
        "towards": float((both * batch.log_ratio).sum()),
        "lost": float(np.any(~kept)),
    }
