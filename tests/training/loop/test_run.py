"""A run from its first step to its last: killed and resumed, diverged, faulty rewards, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jackpot_sim.environments.language_models.checkpoints import Precision, load
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training import records
from jackpot_sim.training.loop import checkpoints
from jackpot_sim.training.loop import run as run_module
from jackpot_sim.training.loop.evaluation import Scores, evaluated
from jackpot_sim.training.loop.run import EVENTS, LOG, POLICY, PROVENANCE, STEPS, train
from jackpot_sim.training.models import preparation
from jackpot_sim.training.models.preparation import beginning, key_of
from jackpot_sim.training.study import Run
from tests.packages import without
from tests.training.tiny import (
    COSTS,
    MODES,
    assert_same,
    reason_of,
    rewards_of_length,
    rows_of,
    run_of,
    weights_of,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


class Killed(BaseException):
    """What a test ends a run with, as a signal would."""


def killed_at(step: int) -> Callable[[Any], None]:
    def watch(row: Any) -> None:
        if row["step"] == step:
            raise Killed

    return watch


def go(run: Run, folder: Path, models: Path, **options: Any) -> Path:
    train(run, folder, models, **{"reward": rewards_of_length, "keep_policy": True} | options)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- killed and resumed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "every"), [*((mode, 1) for mode in MODES), ("stale", 2), ("joint", 2)])
def test_a_run_that_is_killed_at_every_step_is_the_same(tmp_path: Path, models: Path, mode: str, every: int) -> None:
    run = run_of(MODES[mode], {"steps": 4, "checkpoint_every": every})
    whole = go(run, tmp_path / "whole", models)
    for step in range(4):
        with pytest.raises(Killed):
            go(run, tmp_path / "cut", models, watch=killed_at(step))
        assert not (tmp_path / "cut" / STEPS).exists()
    assert_same(go(run, tmp_path / "cut", models), whole)
    assert names(tmp_path / "cut") == {LOG, POLICY, PROVENANCE, STEPS}


@pytest.mark.parametrize("mixed", ["autocast", "param_dtype"])
@pytest.mark.parametrize("mode", ["on-policy", "stale", "joint"])
def test_a_run_in_float16_resumes_with_the_scale_that_it_had(
    tmp_path: Path, models: Path, mode: str, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = torch.amp.GradScaler.__init__

    def large(self: Any, device: str) -> None:  # the first update overflows, and the scale grows after two others
        inner(self, device, init_scale=2.0**40, growth_interval=3)

    monkeypatch.setattr(torch.amp.GradScaler, "__init__", large)
    run = run_of(MODES[mode], {"steps": 16, "checkpoint_every": 1, "precision": "fp16", "mixed_precision": mixed})
    whole = go(run, tmp_path / "whole", models)
    for step in (1, 14):
        with pytest.raises(Killed):
            go(run, tmp_path / "cut", models, watch=killed_at(step))
    assert_same(go(run, tmp_path / "cut", models), whole)
    rows = rows_of(whole)[:-1]
    assert rows["skipped_updates"].iloc[0] == 1
    assert (rows["skipped_updates"] == 0).any()
    assert len(set(rows["loss_scale"])) > 3


def test_a_run_names_the_code_of_every_process_that_trained_it(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose steps are all made again is none of them."""
    run = run_of({"steps": 4, "checkpoint_every": 2})
    for commit, step in (("a", 1), ("b", 3), ("c", 2), ("d", 9)):
        monkeypatch.setattr(run_module, "provenance", lambda commit=commit: {"version": "1", "commit": commit})
        monkeypatch.setattr(run_module, "source_digest", lambda commit=commit: f"source of {commit}")
        with contextlib.suppress(Killed):
            go(run, tmp_path, models, watch=killed_at(step), config_hash="of the study")
    told = json.loads((tmp_path / PROVENANCE).read_text())
    assert [(each["step"], each["commit"], each["source"]) for each in told] == [
        (0, "b", "source of b"),
        (2, "d", "source of d"),
    ]
    assert {each["config_hash"] for each in told} == {"of the study"}


def test_the_clock_asks_for_checkpoints_too(tmp_path: Path, models: Path) -> None:
    changes = {"steps": 3, "checkpoint_every": None}
    whole = go(run_of(changes), tmp_path / "whole", models)
    for name, minutes, kept in (("never", 10.0, {0}), ("always", 1e-9, {1, 2})):
        run = run_of(changes, {"checkpoint_minutes": minutes})
        with pytest.raises(Killed):
            go(run, tmp_path / name, models, watch=killed_at(2))
        found = {int(path.stem.split("-")[1]) for path in (tmp_path / name).glob("checkpoint-*.pt")}
        assert found == kept, name
        assert_same(go(run, tmp_path / name, models), whole)


def test_a_step_says_what_it_cost(tmp_path: Path, models: Path) -> None:
    frame = records.read(go(run_of({"steps": 2}), tmp_path, models) / STEPS)[0].to_pandas()
    steps = frame[frame["step"] < 2]
    assert (steps[COSTS] > 0).all(axis=None)
    assert (steps["seconds_rollouts"] + steps["seconds_update"] <= steps["seconds"]).all()
    assert (steps["memory"] < psutil.virtual_memory().total / 2**30).all()


def test_a_resumed_log_holds_every_step_once(tmp_path: Path, models: Path) -> None:
    run = run_of({"steps": 4, "checkpoint_every": 2})
    with pytest.raises(Killed):
        go(run, tmp_path, models, watch=killed_at(3))
    go(run, tmp_path, models)
    assert [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_a_run_whose_first_models_are_those_of_other_code_does_not_go_on(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(MODES["frozen"], {"steps": 4, "checkpoint_every": 2})
    with pytest.raises(Killed):
        go(run, tmp_path, models, watch=killed_at(3))
    folder = models / key_of(run.training, run.seed)
    log = (tmp_path / LOG).read_text()
    monkeypatch.setattr(preparation, "source_digest", lambda *_: "another")
    shutil.copytree(folder, models.parent / "others" / key_of(run.training, run.seed))
    with pytest.raises(StudyError, match=r"began with first models that other code made: delete .* or go back"):
        go(run, tmp_path, models.parent / "others")
    assert (tmp_path / LOG).read_text() == log


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "no state"])
def test_the_checkpoint_before_a_damaged_one_serves(tmp_path: Path, models: Path, damage: str) -> None:
    run = run_of(MODES["joint"])
    whole = go(run, tmp_path / "whole", models)
    with pytest.raises(Killed):
        go(run, tmp_path / "cut", models, watch=killed_at(2))
    newest = tmp_path / "cut" / "checkpoint-000002.pt"
    content = newest.read_bytes()
    if damage == "no state":
        torch.save(torch.zeros(3), newest)
    else:
        newest.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\x80no"}[damage])
    (tmp_path / "cut" / ".checkpoint-000003.pt.tmp").write_bytes(content[:100])
    seen: list[int] = []
    go(run, tmp_path / "cut", models, watch=lambda row: seen.append(int(row["step"])))
    assert seen == [1, 2]
    assert_same(tmp_path / "cut", whole)
    assert names(tmp_path / "cut") == {LOG, POLICY, PROVENANCE, STEPS}


def test_a_finished_run_is_never_redone(tmp_path: Path, models: Path) -> None:
    run = run_of()
    go(run, tmp_path, models, keep_policy=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    train(run, tmp_path, tmp_path / "no models", reward=lambda *_: 1 / 0, keep_policy=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_kill_while_the_policy_is_saved_does_not_lose_it(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of()
    whole = go(run, tmp_path / "whole", models)

    def killed(model: Any, tokenizer: Any, folder: Path) -> None:
        (folder.parent / ".policy.tmp").mkdir()
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "save_model", killed)
        with pytest.raises(Killed):
            go(run, tmp_path / "cut", models)
    assert_same(go(run, tmp_path / "cut", models), whole)
    assert names(tmp_path / "cut") == {LOG, POLICY, PROVENANCE, STEPS}


def test_two_runs_of_one_configuration_are_the_same_and_seeds_differ(tmp_path: Path, models: Path) -> None:
    first, second, other = (
        go(run_of(MODES["joint"], {"seeds": [seed]}), tmp_path / name, models)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_same(first, second)
    with pytest.raises(AssertionError):
        assert_same(first, other)


# --- what is left -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["on-policy", "joint"])
def test_a_kept_policy_has_the_recorded_accuracy(tmp_path: Path, models: Path, mode: str) -> None:
    run = run_of(MODES[mode], {"evaluation": {"samples": 32}, "update": {"learning_rate": 1e-3}})
    go(run, tmp_path, models, reward=None)
    texts, _, _ = beginning(run, models)
    kept = load(tmp_path / POLICY, precision=Precision.FP32, device="cpu")
    assert kept.tokenizer.get_vocab() == texts.tokenizer.get_vocab()
    scores = evaluated(kept.model, texts, texts.task.held_out(2), 32, 1.0, run.seed)
    last = rows_of(tmp_path).iloc[-1]
    assert scores._asdict() == {name: last[name] for name in ("accuracy", "mean_at_k", "pass_at_k")}
    assert scores.mean_at_k > 0, "or there would be nothing to compare"


def test_every_step_has_a_row_and_tests_come_when_they_are_due(tmp_path: Path, models: Path) -> None:
    run = run_of({"steps": 5, "evaluation": {"every": 3, "samples": 0}})
    rows = rows_of(go(run, tmp_path, models))
    assert rows["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.loc[rows["accuracy"].notna(), "step"].tolist() == [0, 3, 5]
    assert rows["mean_at_k"].isna().all()
    assert rows.loc[rows["loss"].notna(), "step"].tolist() == [0, 1, 2, 3, 4]


def test_a_run_stops_once_it_has_stayed_collapsed(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([1.0] * 20 + [0.0] * 100)

    def scored(trainer: Any) -> Any:
        return Scores(next(accuracies), math.nan, math.nan)

    monkeypatch.setattr(run_module.Trainer, "evaluate", scored)
    monkeypatch.setattr(run_module.Trainer, "advance", lambda trainer: setattr(trainer, "step", trainer.step + 1) or {})
    run = run_of({"steps": 200, "stop_after_collapse": 25, "evaluation": {"every": 1}, "checkpoint_every": 200})
    go(run, tmp_path, models)
    outcome = records.outcome(*records.read(tmp_path / STEPS), 200)
    assert (outcome["ended"], outcome["collapsed_at"], outcome["steps"]) == ("collapsed", 30, 55)
    assert "checkpoint" not in "".join(names(tmp_path))


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [lambda *_: 1 / 0, lambda texts, _: [math.nan] * len(texts), lambda *_: [1.0]])
def test_a_run_goes_on_with_a_better_reward(tmp_path: Path, models: Path, fault: Any) -> None:
    run = run_of({"steps": 4})
    whole = go(run, tmp_path / "whole", models)
    calls: list[int] = []

    def sometimes(texts: Any, problems: Any) -> Any:
        calls.append(len(calls))
        return rewards_of_length(texts, problems) if len(calls) < 3 else fault(texts, problems)

    with pytest.raises(StudyError, match=r"^run\.run\.0: step 2: the reward .*$"):
        go(run, tmp_path / "cut", models, reward=sometimes)
    seen: list[int] = []
    go(run, tmp_path / "cut", models, watch=lambda row: seen.append(int(row["step"])))
    assert seen == [2, 3], "nothing that was finished is done again"
    assert_same(tmp_path / "cut", whole)


def diverging(trainer: Any, step: int) -> None:
    """Makes the gradient NaN from a step on."""
    parameter = next(iter(trainer.policy.parameters()))
    parameter.register_hook(lambda gradient: gradient * (math.nan if trainer.step >= step else 1.0))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_run_that_diverges_keeps_its_rows_and_a_checkpoint(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Diverging(run_module.Trainer):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            diverging(self, step)

    run = run_of()
    whole = rows_of(go(run, tmp_path / "whole", models))
    monkeypatch.setattr(run_module, "Trainer", Diverging)
    rows = rows_of(go(run, tmp_path / "cut", models))
    assert rows[:step].equals(whole[:step])
    assert rows["step"].tolist() == list(range(step + 1)), "the last row says how many steps were made"
    assert rows["accuracy"].notna().tolist() == [at % 2 == 0 for at in range(step + 1)]
    assert math.isnan(rows["loss"].iloc[-1])
    assert reason_of(tmp_path / "cut").startswith(f"step {step}: training diverged: loss")
    outcome = records.outcome(*records.read(tmp_path / "cut" / STEPS), 3)
    assert (outcome["steps"], outcome["ended"]) == (step, reason_of(tmp_path / "cut"))
    state = checkpoints.newest(tmp_path / "cut")
    assert state is not None
    assert state["trainer"]["step"] == step
    assert all(bool(torch.isfinite(weight).all()) for weight in state["trainer"]["policy"].values())
    assert not (tmp_path / "cut" / POLICY).exists()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_a_learning_rate_that_is_far_too_large_ends_in_a_sentence_at_most(
    tmp_path: Path, models: Path, mode: str, rate: float
) -> None:
    go(run_of(MODES[mode], {"update": {"learning_rate": rate}}), tmp_path, models)
    reason = reason_of(tmp_path)
    assert "training diverged" in reason or rate < 1e30
    if not reason:
        assert all(bool(torch.isfinite(torch.tensor(each)).all()) for each in weights_of(tmp_path).values())


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(run_module.Trainer):
        def advance(self) -> Any:
            row = super().advance()
            if self.step == 2:
                with torch.no_grad():
                    next(iter(self.policy.parameters()))[0, 0] = math.inf
            return row

    monkeypatch.setattr(run_module, "Trainer", Broken)
    go(run_of(), tmp_path, models)
    assert reason_of(tmp_path) == "step 2: training diverged: a weight is NaN or inf"
    assert rows_of(tmp_path)["step"].tolist() == [0, 1, 2]
    state = checkpoints.newest(tmp_path)
    assert state is not None
    assert state["trainer"]["step"] == 1


def test_a_policy_that_cannot_be_tested_even_once_has_an_outcome(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untestable(trainer: Any) -> Any:
        raise run_module.DivergedError(trainer.step, "no law")

    monkeypatch.setattr(run_module.Trainer, "evaluate", untestable)
    go(run_of(), tmp_path, models)
    outcome = records.outcome(*records.read(tmp_path / STEPS), 3)
    assert (outcome["steps"], outcome["ended"], outcome["collapsed_at"]) == (
        0,
        "step 0: training diverged: no law",
        None,
    )
    assert math.isnan(outcome["best_accuracy"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"task": {"kind": "modular", "modulus": 2, "operations": ["+"]}},
            "run.run.0: modular holds out no problem to test on: make the task larger",
        ),
        ({"rollout": {"length": 99}}, "reads at most 64 tokens: .* give a model with a larger context, or a smaller"),
        ({"policy": {"kind": "checkpoint", "path": "/no/such"}}, "/no/such: no such folder"),
        ({"device": "abacus"}, "device='abacus' is not there"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    tmp_path: Path, models: Path, changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jackpot_sim.training.models.preparation.key_of", lambda *_: next(models.iterdir()).name)
    with pytest.raises(StudyError, match=sentence):
        train(run_of(changes), tmp_path, models)
    assert not (tmp_path / STEPS).exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, models: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot write .*file"):
        train(run_of(), tmp_path / "file" / "run", models)


# --- TensorBoard ------------------------------------------------------------------------------------------


def events(folder: Path) -> dict[str, list[int]]:
    """The steps of every curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / EVENTS)).Reload()
    return {tag: [each.step for each in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_tensorboard_gets_every_step_once(tmp_path: Path, models: Path) -> None:
    pytest.importorskip("tensorboard")
    run = run_of({"checkpoint_every": 2})
    with pytest.raises(Killed):
        go(run, tmp_path, models, tensorboard=True, watch=killed_at(2))
    go(run, tmp_path, models, tensorboard=True)
    found = events(tmp_path)
    assert found["reward"] == [0, 1, 2]
    assert found["accuracy"] == [0, 2, 3]
    assert "step" not in found
    assert "lam" not in found, "it is nan"


def test_without_tensorboard_the_wish_is_refused(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "tensorboard")
    with pytest.raises(StudyError, match="--tensorboard needs tensorboard, which is missing: pip install"):
        go(run_of(), tmp_path, models, tensorboard=True)


def test_a_trained_policy_is_kept_unless_told_otherwise(tmp_path: Path, models: Path) -> None:
    run = run_of({"steps": 1})
    train(run, tmp_path / "run", models)
    assert weights_of(tmp_path / "run")
