"""The training objective against verl's: bypass mode, and losses per sequence over its kept tokens."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from jackpot_sim import estimators  # noqa: E402
from jackpot_sim.estimators import Correction, UpdateTarget, get  # noqa: E402
from jackpot_sim.training import objective  # noqa: E402
from jackpot_sim.training.config import Training, Update, settings_of  # noqa: E402
from jackpot_sim.training.objective import Aggregation, Divisor, ModelPass, Proposed  # noqa: E402
from tests.cases import each  # noqa: E402
from tests.frameworks.batches import CLAMPED  # noqa: E402
from tests.frameworks.stored import stored  # noqa: E402

VERL = stored("verl")
NAMES = [name for name in VERL["batches"] if name != CLAMPED]


def gradient(correction: Correction, batch: Any, update: Update, *, at_once: bool = True) -> Any:
    """The gradient of our loss in log p_new, its divisor applied; the minibatch at once, or row by row."""
    policy, actor = (torch.tensor(batch[name], dtype=torch.float64) for name in ("policy", "actor"))
    mask, advantage = torch.tensor(batch["mask"]).bool(), torch.tensor(batch["advantage"], dtype=torch.float64)
    given = Proposed(actor, policy, mask, advantage, None, None, torch.full_like(policy, 0.5))
    log_probs = policy.clone().requires_grad_()
    shares = objective.token_shares(mask, update.aggregation)
    parts = []
    for rows in [slice(None)] if at_once else [slice(row, row + 1) for row in range(len(mask))]:
        scores = torch.zeros((*log_probs[rows].shape, 1), dtype=torch.float64)
        new = ModelPass(scores, scores[..., 0], log_probs[rows])
        parts.append(
            objective.policy_loss(correction, UpdateTarget.REFERENCE, given.take(rows), new, update, shares[rows])
        )
    sum(part.loss for part in parts).backward()
    accepted, factor = (torch.cat([getattr(part, name) for part in parts]) for name in ("accepted", "factor"))
    return log_probs.grad / objective.divisor(update.denominator, accepted, factor, mask, correction.unit)


@each("name, preset", [(n, p) for n in NAMES for p in VERL["bypass"]])
def test_bypass_mode_has_verls_gradient(name: str, preset: str) -> None:
    update = Training(correction=f"verl:{preset}").update  # type: ignore[arg-type]
    assert (update.bypass, update.clip, update.denominator) == (True, None, Divisor.PROPOSED)
    found = gradient(get(f"verl:{preset}"), VERL["batches"][name], update)
    expected = torch.tensor(VERL["bypass"][preset][name]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@each("name", NAMES)
def test_bypass_mode_with_ppos_own_clip_is_verls_where_no_ratio_reaches_its_dual_clip(name: str) -> None:
    batch = VERL["batches"][name]
    found = gradient(get("none"), batch, Update(bypass=True))
    expected = torch.tensor(VERL["bypass"]["bypass_ppo_clip"][name]["gradient"], dtype=torch.float64)
    ratio = (torch.tensor(batch["policy"]) - torch.tensor(batch["actor"])).exp()
    plain = (ratio < 3) | (torch.tensor(batch["advantage"])[:, None] > 0)
    torch.testing.assert_close(found[plain], expected[plain], rtol=1e-6, atol=1e-9)
    assert name != "wild" or not plain.all()


MODES = {
    "token-mean": (Aggregation.TOKEN_MEAN, Divisor.ACCEPTED, Divisor.ACCEPTED),
    "seq-mean-token-mean": (Aggregation.KEPT_MEAN, Divisor.PROPOSED, Divisor.KEPT_SEQUENCES),
    "seq-mean-token-sum": (Aggregation.SEQUENCE_SUM, Divisor.PROPOSED, Divisor.KEPT_SEQUENCES),
}
"""verl's modes of aggregation: ours, and our divisors where it counts all sequences and those with a kept token."""


@each("name, mode, at_once", [(n, m, once) for n in NAMES for m in MODES for once in (True, False)])
def test_losses_after_rejection_are_verls(name: str, mode: str, at_once: bool) -> None:
    batch = VERL["batches"][name]
    weights = 1 + torch.tensor(batch["actor"], dtype=torch.float64)
    aggregation, *divisors = MODES[mode]
    for divisor, counted in zip(divisors, ("whole", "kept"), strict=True):
        update = Update(aggregation=aggregation, denominator=divisor, clip=None)
        found = float((gradient(get("mask-k2", bound=0.1), batch, update, at_once=at_once) * weights).sum())
        assert found == pytest.approx(VERL["aggregation"][mode][name][counted], rel=1e-6)


def test_the_modes_differ_where_a_sequence_loses_all_its_tokens() -> None:
    found = VERL["aggregation"]["seq-mean-token-mean"]["wild"]
    assert found["whole"] != pytest.approx(found["kept"])


def test_a_preset_brings_its_settings_of_the_update() -> None:
    update = Training(correction="verl:decoupled_geo_rs").update  # type: ignore[arg-type]
    assert (update.denominator, update.bypass, update.clip) == (Divisor.ACCEPTED, False, 0.2)
    sapo = Training.model_validate({"correction": {"kind": "verl:sapo"}, "update": {"minibatches": 2}}).update
    assert (sapo.aggregation, sapo.minibatches, sapo.clip) == (Aggregation.SEQUENCE_MEAN, 2, None)
    for preset in estimators.presets().values():
        if preset.parts:
            Update(**settings_of(preset))  # type: ignore[arg-type]
            again = Training(correction=preset.name)  # type: ignore[arg-type]
            assert Training.model_validate(again.model_dump()) == again
