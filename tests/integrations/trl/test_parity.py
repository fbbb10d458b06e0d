"""Loss and gradient of TRL's own loss under the mixin, against the project's.

A stand-in for the model has the batch's logits: its backbone gives them as hidden states, and its head is the identity.
All else is TRL's: the fused head, the scoring of tokens, and the loss.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest

from jackpot_sim.integrations.corrected import Loss, correct
from jackpot_sim.integrations.trl import CorrectedGRPOTrainer
from jackpot_sim.integrations.trl.processes import FIGURES
from jackpot_sim.integrations.trl.states import FusedHead
from jackpot_sim.training.objective import Aggregation, TokenPass
from tests.cases import each
from tests.environments.tiny_checkpoints import save_checkpoint
from tests.integrations.parity import CORRECTIONS, LENGTH, ROWS, VOCAB, Case, assert_equal, case
from tests.record.test_trl import trained

trl, torch, transformers = (pytest.importorskip(name) for name in ("trl", "torch", "transformers"))
fused = pytest.importorskip("trl.trainer.utils").add_fused_lm_head

LARGEST = 6
"""TRL's largest length of a completion, by which dr_grpo divides: that of the trainer, not of the batch."""


class Table(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A causal model whose logits are given."""

    def __init__(self) -> None:
        super().__init__()
        config = types.SimpleNamespace(model_type="table")
        config.get_text_config = lambda: config
        self.config, self.logits, self.base_model = config, None, Backbone(self)
        self.head = torch.nn.Linear(VOCAB, VOCAB, bias=False)
        self.head.weight = torch.nn.Parameter(torch.eye(VOCAB))
        fused(self, outputs=("log_probs", "entropy"))

    def forward(self, *_: Any, **__: Any) -> None:
        raise AssertionError("TRL made logits")

    def get_output_embeddings(self) -> Any:
        return self.head


class Backbone(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = [table]  # in a list, which torch does not look into
        self.calls = 0

    def forward(self, **_: Any) -> Any:
        self.calls += 1
        logits = self.table[0].logits
        last = torch.cat([logits, logits.new_zeros(ROWS, 1, VOCAB)], dim=1)
        return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=last)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("parity")
    return trained(CorrectedGRPOTrainer, save_checkpoint(folder / "policy", 3), folder)


def found(trainer: Any, batch: Case, loss_type: str, *, moved: bool) -> tuple[Any, Any]:
    """The loss, and its gradient, of a batch as TRL has it: generated, scored, and passed to its loss."""
    table, settings = Table(), batch.settings
    trainer.model, trainer.settings, trainer.loss_type = table, settings, loss_type
    trainer.topk = settings.topk if settings.needs_topk else 0
    trainer._head = FusedHead.of(table)
    output = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": batch.ids,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantage,
        "num_items_in_batch": 2 * batch.mask.sum(),
        "sampling_per_token_logps": batch.given.actor_log_probs,
    }
    stored = type(trainer._stored)()
    trainer._stored, trainer._places = stored, None
    if batch.topk is not None:
        first = stored.add(batch.topk.ids.flatten(0, 1), batch.topk.log_probs.flatten(0, 1))
        trainer._places = (first + torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)).tolist()
    ids, attended = (torch.cat([output[f"prompt_{name}"], output[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    trainer._passes, table.logits = [], batch.before
    if moved:
        with torch.no_grad():
            scored = trainer._get_per_token_logps_and_entropies(table, ids, attended, LENGTH)
        output["old_per_token_logps"] = scored[0]
    trainer._finish(output)
    trainer._passes, table.logits = None, batch.logits
    before = table.base_model.calls
    loss = trainer._compute_loss(table, output)
    assert table.base_model.calls == before + 1
    return loss, batch.gradient(loss)


def own(batch: Case, loss_type: str) -> tuple[float, Any]:
    """The project's loss under TRL's denominator."""
    loss, gradient = batch.own(
        Loss(
            {
                "grpo": Aggregation.SEQUENCE_MEAN,  # the mean over sequences of the means over tokens
                "bnpo": Aggregation.TOKEN_MEAN,  # the mean over tokens of the micro-batch
                "dr_grpo": Aggregation.SEQUENCE_SUM,  # over sequences × the largest length
                "dapo": Aggregation.TOKEN_MEAN,  # over tokens of the generation batch: here twice as many
            }[loss_type]
        )
    )
    share = {"dr_grpo": 1 / LARGEST, "dapo": 1 / 2}.get(loss_type, 1.0)
    return loss * share, gradient * share


@pytest.mark.parametrize("moved", [True, False], ids=["p_ref of an earlier pass", "p_ref of this pass"])
@pytest.mark.parametrize("topk", [False, True], ids=["batch", "topk"])
@each("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@each("name", CORRECTIONS)
def test_loss_and_gradient_are_the_projects_own(
    name: str, loss_type: str, topk: bool, moved: bool, trainer: Any
) -> None:
    batch = case(CORRECTIONS[name], topk=topk, divisor="accepted")
    if not moved:
        batch = dataclasses.replace(batch, before=batch.logits.detach().log_softmax(-1))
    assert_equal(found(trainer, batch, loss_type, moved=moved), own(batch, loss_type))


@each("divisor", ["proposed", "kept_sequences", "batch_normalized"])
def test_the_other_divisors_are_the_projects_own(divisor: str, trainer: Any) -> None:
    batch = case(CORRECTIONS["icepop"], topk=False, divisor=divisor)
    assert_equal(found(trainer, batch, "bnpo", moved=True), own(batch, "bnpo"))


@each(
    "name, divisor",
    [
        *(("icepop", "accepted"), ("icepop", "batch_normalized")),
        *(("sequence-mis", "kept_sequences"), ("sequence-mis", "batch_normalized")),
    ],
)
def test_the_divisor_is_over_all_processes(
    name: str, divisor: str, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two processes weighs one half of a batch, with what the other gathers; the last two rows are empty."""
    batch = case({"kind": name, "low": 0.8, "high": 3.0}, topk=False, divisor=divisor)
    given = batch.given
    mask = batch.mask & (torch.arange(ROWS) < 4)[:, None]
    monkeypatch.setattr(trainer, "settings", batch.settings)
    sent: list[list[Any]] = [[], []]

    def weighed(rank: int, other: list[Any]) -> Any:
        def gather(own: Any) -> Any:
            sent[rank].append(own)
            return torch.cat([own, other[len(sent[rank]) - 1] if other else own])

        sent[rank] = []
        accelerator = types.SimpleNamespace(num_processes=2, device="cpu", gather=gather)
        accelerator.pad_across_processes = lambda own, dim: own
        monkeypatch.setattr(trainer, "accelerator", accelerator)
        rows = slice(3 * rank, 3 * rank + 3)
        own = {
            "completion_mask": mask[rows].long(),
            "actor_log_probs": given.actor_log_probs[rows],
            "old_per_token_logps": given.reference_log_probs[rows],
            "correction_uniforms": given.uniforms[rows],
            "advantages": torch.ones(3),
        }
        trainer._weigh(own, given.reference_log_probs[rows], None)
        return own["advantages"]

    alone = [weighed(rank, []) for rank in (0, 1)]
    theirs = sent[::-1]
    together = torch.cat([weighed(rank, list(theirs[rank])) for rank in (0, 1)])
    live = dataclasses.replace(given, mask=mask).take(slice(0, 4))
    expected = correct(batch.settings, live, TokenPass(live.reference_log_probs))
    torch.testing.assert_close(together[:4], expected.factor)
    assert not together[4:].any()
    assert not torch.allclose(torch.cat(alone)[:4], expected.factor)
    logged = [float(figures[0, FIGURES.index("divisor")]) for _, figures in sent]
    assert logged == [pytest.approx(expected.divisor)] * 2


@each("level", ["token", "sequence"])
@each("loss_type", ["grpo", "cispo", "sapo", "luspo", "vespo"])
def test_every_other_loss_is_linear_in_the_factor(
    loss_type: str, level: str, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a mask the loss is that of TRL alone with the advantages of the kept tokens, and 0 for the others."""
    batch = case(CORRECTIONS["icepop"], topk=False)
    monkeypatch.setattr(trainer, "importance_sampling_level", level)
    corrected, gradient = found(trainer, batch, loss_type, moved=True)
    plain = {**trainer_batch(trainer, batch), "advantages": batch.advantage[:, None] * kept(batch)}
    loss = trl.GRPOTrainer._compute_loss(trainer, trainer.model, plain)
    assert_equal((corrected, gradient), (float(loss.detach()), batch.gradient(loss)))


def kept(batch: Case) -> Any:
    """IcePop's m·w, by its formula: r between 0.5 and 5, else 0."""
    ratio = (batch.given.reference_log_probs - batch.given.actor_log_probs).exp()
    return torch.where((ratio >= 0.5) & (ratio <= 5.0) & batch.mask, ratio, 0.0)


def trainer_batch(trainer: Any, batch: Case) -> dict[str, Any]:
    return {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": batch.ids,
        "completion_mask": batch.mask.long(),
        "num_items_in_batch": 2 * batch.mask.sum(),
        "old_per_token_logps": batch.given.reference_log_probs,
    }
