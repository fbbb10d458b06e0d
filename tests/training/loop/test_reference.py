"""p_ref is taken from the rollout where p_ref wrote it, and nowhere else; either way it is that of a pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.training.loop import trainer as loop
from jackpot_sim.training.loop.passes import computing_in, model_pass
from jackpot_sim.training.loop.reference import samples_from_p_ref
from tests.cases import each
from tests.training.tiny import MODES, run_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

CUT = {"top_p": 0.9, "topk": 100}
FORMATS = [(kind, form) for kind in ("quantized-weights", "quantized-kv") for form in ("bf16", "int8")]


class Batch:
    """A batch of rollouts with p_ref, and how the trainer came to it."""

    def __init__(self, trainer: Any) -> None:
        self.passes: list[int] = []
        inner = trainer._pass

        def counted(model: Any, sequences: Any) -> Any:
            self.passes.append(len(sequences))
            return inner(model, sequences)

        before = copy.deepcopy(trainer.policy)
        trainer._pass = counted
        self.first = next(trainer._minibatches())
        self.sequences, self.given, self.read, _ = trainer._rolled_out(self.first)
        with torch.no_grad(), computing_in(trainer.config.precision, before):
            self.plain = model_pass(before, self.sequences, trainer.config.rollout.temperature)

    def assert_is_of_a_pass(self, tolerance: float = 1e-5) -> None:
        """p_ref of the tokens, and of the stored top-k, are those of a pass over all sequences."""
        live, given = self.given.mask, self.given
        equal = {"rtol": 0, "atol": tolerance}
        torch.testing.assert_close(given.reference_log_probs[live], self.plain.log_probs[live], **equal)
        if given.topk is not None:
            found, wanted = given.reference_on_topk[live], self.plain.on(given.topk)[live]
            assert found.dtype == wanted.dtype
            torch.testing.assert_close(found, wanted, **equal)


ALLOWED: list[dict[str, Any]] = [
    {},
    {"rollout": {"topk": 0}},
    {"rollout": {"topk": 100, "temperature": 0.7}},
    {"rollout": CUT | {"log_probs": "support"}},
    {"update": {"batch_size": 4}},
]
REFUSED: list[dict[str, Any]] = [
    {"precision": "bf16"},
    {"rollout": CUT},
    {"rollout": {"top_k": 4}},
    {"precision": "bf16", "rollout": CUT | {"log_probs": "support"}},
    *({"actor": {"kind": "served", "source": {"kind": kind, "format": form, "share": 1}}} for kind, form in FORMATS),
    *(MODES[mode] for mode in MODES if mode != "on-policy"),
]


def in_double(trainer: Any) -> Any:
    """The trainer with a float64 policy."""
    trainer.policy.double()
    trainer.config = trainer.config.model_copy(update={"precision": Precision.FP64})
    return trainer


@each("changes", ALLOWED)
def test_the_rollouts_of_p_ref_tell_it(models: Path, changes: dict[str, Any]) -> None:
    trainer = trainer_of(run_of(changes), models)
    assert samples_from_p_ref(trainer.config)
    batch = Batch(trainer)
    assert sum(batch.passes) == len(batch.first), "the rows of the first update are read, and no others"
    batch.assert_is_of_a_pass()
    rest = ~torch.isin(torch.arange(len(batch.sequences)), batch.first)
    told = batch.given.actor_log_probs.to(batch.given.reference_log_probs.dtype)
    assert torch.equal(batch.given.reference_log_probs[rest], told[rest])
    if batch.read is not None:
        assert torch.equal(batch.read.log_probs.detach(), batch.given.reference_log_probs[batch.first])


@each("changes", REFUSED)
def test_any_other_law_is_read(models: Path, changes: dict[str, Any]) -> None:
    trainer = trainer_of(run_of(changes), models)
    assert not samples_from_p_ref(trainer.config)
    batch = Batch(trainer)
    assert sum(batch.passes) == len(batch.sequences)
    batch.assert_is_of_a_pass(0.05 if "precision" in changes else 1e-5)  # bf16 rounds a batch of another size anew
    assert (batch.given.reference_log_probs != batch.given.actor_log_probs)[batch.given.mask].any()


@each("changes", [changes for changes in REFUSED if "precision" not in changes and changes != MODES["stale"]])
def test_a_law_that_is_wrongly_trusted_is_found_out(
    models: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "samples_from_p_ref", lambda _: True)
    batch = Batch(trainer_of(run_of(changes), models))
    assert sum(batch.passes) == len(batch.sequences)
    batch.assert_is_of_a_pass()


def test_a_float64_top_k_is_not_taken_from_float32(models: Path) -> None:
    for topk in (0, 5):
        trainer = in_double(trainer_of(run_of({"rollout": {"topk": topk}}), models))
        assert samples_from_p_ref(trainer.config)
        batch = Batch(trainer)
        assert sum(batch.passes) == len(batch.sequences if topk else batch.first)
        batch.assert_is_of_a_pass(1e-6)  # norms of the architecture are in float32 in a pass that learns


def test_the_figures_of_a_step_are_those_with_a_pass(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(changes: dict[str, Any]) -> dict[str, float]:
        row: dict[str, float] = trainer_of(run_of(changes), models).advance()
        return row

    for correction in ("none", "jackpot", "tis"):
        for bypass in (False, True):
            changes = {"correction": {"kind": correction}, "update": {"bypass": True, "clip": None} if bypass else {}}
            told = figures(changes)
            with monkeypatch.context() as patch:
                patch.setattr(loop, "samples_from_p_ref", lambda _: False)
                read = figures(changes)
            assert told.keys() == read.keys()
            for name in told:
                assert told[name] == pytest.approx(read[name], rel=1e-5, abs=1e-5, nan_ok=True), name
