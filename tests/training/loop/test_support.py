"""An actor whose sampler cuts: the trap of its ratios, and training on the recorded support."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.studies.errors import StudyError
from tests.cases import each
from tests.training.tiny import MODES, run_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

WHOLE = {"rollout": {"topk": 100}}
"""The actor's whole laws are stored."""


def rolled_out(models: Path, mode: str, **rollout: Any) -> tuple[Any, Any, Any]:
    trainer = trainer_of(run_of(MODES[mode], WHOLE, {"rollout": rollout}), models)
    return trainer, *trainer._rolled_out(next(trainer._minibatches()))[:2]


@each("told, top_p", [(told, top_p) for told in ("processed", "support") for top_p in (1.0, 0.99, 0.95, 0.9, 0.6)])
def test_the_ratio_of_a_policy_to_its_own_nucleus(models: Path, told: str, top_p: float) -> None:
    """It is the mass S of the tokens kept, at every token; on the recorded support it is 1."""
    trainer, sequences, given = rolled_out(models, "on-policy", top_p=top_p, log_probs=told)
    assert (sequences.kept is not None) == (told == "support" and top_p < 1)
    ratio = (given.reference_log_probs - given.actor_log_probs).exp()[given.mask]
    with torch.no_grad():
        law = trainer._pass(trainer.policy, sequences).law()[given.mask].double().exp()
    kept = given.topk.log_probs[given.mask].isfinite()
    mass = (law.gather(-1, given.topk.ids[given.mask].long()) * kept).sum(-1)
    wanted = mass if told == "processed" else torch.ones_like(mass)
    torch.testing.assert_close(ratio.double(), wanted, rtol=2e-5, atol=0)
    if told == "processed":
        assert float(mass.min()) > top_p - 1e-5
        assert (float(mass.min()) < 1 - 1e-4) == (top_p < 1), "near-certain states lose nothing, others do"


def test_the_gradient_is_that_of_the_renormalised_law(models: Path) -> None:
    from jackpot_sim.training import objective

    trainer, sequences, given = rolled_out(models, "on-policy", top_k=3, log_probs="support")
    shares = objective.token_shares(given.mask, trainer.config.update.aggregation)
    correction = trainer._correction(given)[0]
    new = trainer._pass(trainer.policy, sequences)
    weights = list(trainer.policy.parameters())
    target = trainer.config.correction.target
    loss = objective.policy_loss(correction, target, given, new, trainer.config.update, shares).loss
    found = torch.autograd.grad(loss, weights)
    # On policy but for the cut, r is 1: −Σ share·A·∇log(p/S), S being the mass on the three tokens stored as kept.
    assert trainer.config.rollout.temperature == 1
    plain = trainer._pass(trainer.policy, dataclasses.replace(sequences, kept=None))
    inside = torch.where(given.topk.log_probs.isfinite(), plain.logits.gather(-1, given.topk.ids.long()), -torch.inf)
    chosen = plain.logits.gather(-1, sequences.tokens[..., None])[..., 0]
    log_probs = chosen - torch.logsumexp(torch.where(given.mask[..., None], inside, 0.0), -1)
    wanted = torch.autograd.grad(-(shares * given.advantage[:, None] * log_probs)[given.mask].sum(), weights)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert max(float(each.abs().max()) for each in found) > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_every_actor_can_be_cut_and_replayed(models: Path, mode: str) -> None:
    for told, stored in (("support", 100), ("support", 2), ("processed", 100)):
        rollout = {"rollout": {"top_p": 0.9, "top_k": 5, "log_probs": told, "topk": stored}}
        row = trainer_of(run_of(MODES[mode], rollout), models).advance()
        infinite = {name for name, value in row.items() if np.isinf(value)}
        assert infinite == ({"kl_policy_actor", "kl_new_actor", "chi_square"} if told == "processed" else set())
        if told == "support" and mode == "on-policy":
            assert row["overlap"] == pytest.approx(1, abs=1e-5)
            assert row["log_ratio_max"] < 1e-4


def test_without_a_cut_a_recorded_support_changes_nothing(models: Path) -> None:
    plain, replayed = (
        [trainer_of(run_of(MODES["frozen"], {"rollout": {"log_probs": told}}), models).advance() for _ in range(2)]
        for told in ("processed", "support")
    )
    np.testing.assert_equal(replayed, plain)


@each(
    "rollout, correction, message",
    [
        ({"log_probs": "raw"}, "none", "rollout.log_probs.*'processed' or 'support'"),
        ({"log_probs": "mask"}, "none", "rollout.log_probs.*'processed' or 'support'"),
        ({"top_p": 0}, "none", "rollout.top_p"),
        ({"top_p": 1.5}, "none", "rollout.top_p"),
        ({"top_k": 0}, "none", "rollout.top_k"),
    ],
)
def test_what_cannot_be_is_one_sentence(rollout: Any, correction: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message) as error:
        run_of({"rollout": rollout, "correction": correction})
    assert "\n" not in str(error.value)
