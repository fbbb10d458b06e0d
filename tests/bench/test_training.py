"""Both trainers do the same work in turn and all of it is counted; nothing here is judged by its speed."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from jackpot_sim.bench import training
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.environments.language_models.build import TinyQwen3
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.training.config import Sampling, Training, Update
from tests.packages import without

ROUNDS, PROMPTS, SAMPLES, UPDATES = 2, 4, 2, 2
TINY = Training(
    task=training.TASK, rollout=Sampling(prompts=PROMPTS, samples=SAMPLES, topk=0), update=Update(minibatches=UPDATES)
)
MODEL = TinyQwen3(hidden=16, layers=1, heads=1, kv_heads=1)


class Seen:
    """What passes through both trainers."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.prompts: dict[str, list[list[str]]] = {"ours": [], "theirs": []}
        self.updates = {"ours": 0, "theirs": 0}
        self.minibatches: list[int] = []


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
def findings(seen: Seen) -> Any:
    """Those of a tiny run in which everything is written down."""
    import trl

    with pytest.MonkeyPatch.context() as patch:
        advance, update = training.Trainer.advance, training.Trainer._updated
        generate, compute = trl.GRPOTrainer._generate, trl.GRPOTrainer._compute_loss

        def advanced(self: Any) -> Any:
            seen.order.append("ours")
            drawn = self.texts.task.problems(keyed_generator(self.seed, "training", self.step, "problems"), PROMPTS)
            seen.prompts["ours"].append([problem.prompt.text for problem in drawn for _ in range(SAMPLES)])
            return advance(self)

        def updated(self: Any, sequences: Any, *args: Any) -> None:
            seen.updates["ours"] += 1
            seen.minibatches.append(len(sequences))
            update(self, sequences, *args)

        def generated(self: Any, prompts: Any) -> Any:
            seen.order.append("theirs")
            seen.prompts["theirs"].append(list(prompts))
            return generate(self, prompts)

        def computed(self: Any, model: Any, inputs: Any) -> Any:
            seen.updates["theirs"] += 1
            seen.minibatches.append(len(inputs["completion_ids"]))
            assert "old_per_token_logps" in inputs
            names = ("is_activation_checkpointing", "is_gradient_checkpointing")  # the new one and the old one
            assert not next(getattr(model, name) for name in names if hasattr(model, name))
            return compute(self, model, inputs)

        patch.setattr(training.Trainer, "advance", advanced)
        patch.setattr(training.Trainer, "_updated", updated)
        patch.setattr(trl.GRPOTrainer, "_generate", generated)
        patch.setattr(trl.GRPOTrainer, "_compute_loss", computed)
        return list(training.training(ROUNDS, TINY, MODEL))


def test_both_take_turns_and_do_the_same(seen: Seen, findings: Any) -> None:
    assert seen.order == ["theirs", "ours"] * (ROUNDS + 1)
    assert seen.prompts["ours"] == seen.prompts["theirs"]
    assert seen.updates == {"ours": UPDATES * (ROUNDS + 1), "theirs": UPDATES * (ROUNDS + 1)}
    assert set(seen.minibatches) == {PROMPTS * SAMPLES // UPDATES}


def test_what_is_found(findings: Any) -> None:
    ratio, ours, theirs, *parts = findings
    assert ratio.at_least == 2.5
    assert "aim 3" in ratio.note
    assert ratio.value > 0
    assert (ours.unit, theirs.unit) == ("s", "s")
    assert ours.value > 0
    assert theirs.value > 0
    assert [part.unit for part in parts] == ["%"] * 3
    assert all(part.value > 0 for part in parts)
    assert 60 < sum(part.value for part in parts) <= 100.1


def test_rounds_are_compared_by_tokens_per_second() -> None:
    turns = training._Turns(seconds=[9.0, 2.0, 4.0], tokens=[1.0, 10.0, 40.0])
    assert turns.per_second() == [5.0, 10.0]


@pytest.mark.parametrize("absent", ["trl", "datasets"])
def test_without_trl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    without(monkeypatch, absent)
    with pytest.raises(CannotMeasureError, match=rf"needs {absent}, which is missing: pip install"):
        next(training.training())
