"""Ours against TRL's own code, by the values that `python -m tests.frameworks trl` has stored.

Deviation of TRL's, tested as such: VESPO clamps S to log 1e-8 from below and 20 from above.
"""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core import log_ratios
from jackpot_sim.estimators import Aggregate, Denominator, get
from tests.cases import each
from tests.frameworks.batches import CLAMPED, batches
from tests.frameworks.stored import ours, stored, tokens_of

TRL = stored("trl")
NAMES = list(TRL["batches"])


def test_the_stored_batches_and_bounds_are_ours() -> None:
    assert TRL["batches"] == batches()
    assert TRL["clip"] == {"min": None, "max": 3.0}
    for preset in estimators.presets().values():
        assert preset.framework != "trl" or preset.version == TRL["version"]


@each("name, mode", [(n, m) for n in NAMES for m in TRL["ratios"]])
def test_a_mode_has_trls_ratio(name: str, mode: str) -> None:
    """TRL multiplies the loss by it, and divides by the count of all tokens: the `proposed` denominator."""
    preset = estimators.presets()[f"trl:{mode}"]
    accept, weight, live = ours(get(preset.name), tokens_of(TRL["batches"][name]))
    expected = np.broadcast_to(TRL["ratios"][mode][name], live.shape)
    np.testing.assert_allclose((accept * weight)[live], expected[live], rtol=1e-6)
    assert preset.denominator is Denominator.PROPOSED
    assert preset.sequence == ("e^S" if mode.startswith("sequence") else None)


def test_the_modes_mask_some_and_keep_some() -> None:
    for mode in ("token_mask", "sequence_mask"):
        ratios = np.concatenate([np.ravel(TRL["ratios"][mode][name]) for name in NAMES])
        assert 0 < np.mean(ratios == 0) < 1


@each("name", NAMES)
def test_the_off_policy_mask_is_trls(name: str) -> None:
    accept, _, live = ours(get("trl:off_policy_mask"), tokens_of(TRL["batches"][name]))
    expected = np.broadcast_to(TRL["off_policy_mask"][name], live.shape)
    np.testing.assert_array_equal(accept[live], expected[live])


@each("name, loss", [(n, loss) for n in NAMES if n != CLAMPED for loss in TRL["losses"]])
def test_the_gradient_of_a_loss_is_trls(name: str, loss: str) -> None:
    batch = TRL["batches"][name]
    tokens = tokens_of(batch)
    accept, weight, live = ours(get(f"trl:{loss}"), tokens)
    share = live / live.sum()
    if loss == "sapo":
        share = live / (live.sum(-1, keepdims=True) * len(live))
    if loss == "luspo":
        # Its loss is one term per sequence, of which s stands at every token: the sum over tokens, over sequences.
        share = live / len(live)
    expected = np.array(TRL["losses"][loss][name])
    mine = -accept * weight * np.array(batch["advantage"])[:, None] * share
    if loss == "vespo":
        total = np.asarray(log_ratios.aggregate(tokens.log_ratio, tokens.live, Aggregate.SUM))
        inside = (math.log(1e-8) < total) & (total < 20)
        assert inside.all()
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-9)
