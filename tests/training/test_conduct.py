"""A study conducted: its models, its runs, in any processes and any order; what is refused, and what is kept."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jackpot_sim.studies import shared as shared_module
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, SerialExecutor, opened
from jackpot_sim.studies.files import locked
from jackpot_sim.studies.shared import SharedFolder
from jackpot_sim.training import conduct as conduct_module
from jackpot_sim.training.conduct import Options, Progress, check_possible, conduct, last_row, load, manifest
from jackpot_sim.training.loop.run import train
from jackpot_sim.training.records import ENDS, OUTCOMES, STEPS
from jackpot_sim.training.study import Study
from tests.training.tiny import COSTS, MODES, assert_same, study_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

STUDY = study_of({"methods": {name: MODES[name] for name in ("on-policy", "stale", "joint")}, "steps": 2})


def run_all(study: Study, root: Path, models: Path, executor: Executor | None = None, **options: Any) -> Progress:
    return conduct(study, root, executor or SerialExecutor(), options=Options(models=models, **options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    root = tmp_path_factory.mktemp("whole") / "study"
    run_all(STUDY, root, models, keep_policies=True)
    return root


def assert_same_study(found: Path, expected: Path) -> None:
    for ours, theirs in zip(load(found), load(expected), strict=True):
        pd.testing.assert_frame_equal(
            ours.drop(columns=COSTS, errors="ignore"), theirs.drop(columns=COSTS, errors="ignore")
        )


# --- records ----------------------------------------------------------------------------------------------


def test_the_records_hold_every_step_of_every_run(whole: Path) -> None:
    steps, outcomes = load(whole)
    assert list(steps.columns) == STEPS.names
    assert list(outcomes.columns) == OUTCOMES.names
    assert steps["step"].tolist() == [0, 1, 2] * 3
    assert outcomes["method"].tolist() == ["on-policy", "stale", "joint"]
    assert outcomes["ended"].tolist() == ["finished"] * 3
    assert outcomes["steps"].tolist() == [2] * 3
    joint = steps[steps["method"] == "joint"]
    assert joint["actor_loss"].notna().tolist() == [True, True, False]
    assert steps[steps["method"] != "joint"]["actor_loss"].isna().all()


def test_the_manifest_says_what_was_asked(whole: Path) -> None:
    found = manifest(whole)
    assert found["config_hash"] == STUDY.config_hash
    assert Study.model_validate(found["config"]).config_hash == STUDY.config_hash
    assert {"version", "numpy", "python", "commit"} <= found.keys()


def test_a_worker_process_and_any_order_give_the_same(whole: Path, tmp_path: Path, models: Path) -> None:
    backwards = Study(name=STUDY.name, grid={"run": dict(reversed(STUDY.grid["run"].items()))})
    # One, as each takes seconds to import torch: with two the tests of kills compare the records.
    with opened(ExecutorKind.LOKY, 1) as pool:
        conduct(backwards, tmp_path / "study", pool, in_flight=2, options=Options(models=models, keep_policies=True))
    for run in STUDY.runs:
        assert_same(tmp_path / "study" / "runs" / run.id, whole / "runs" / run.id)
    steps, theirs = load(tmp_path / "study")[0], load(whole)[0]
    order = ["method", "step"]
    pd.testing.assert_frame_equal(
        steps.sort_values(order, ignore_index=True).drop(columns=COSTS),
        theirs.sort_values(order, ignore_index=True).drop(columns=COSTS),
    )


def test_models_are_made_in_the_studys_own_folder_unless_told(tmp_path: Path) -> None:
    study = study_of({"steps": 1, "policy": {"accuracy": 0.001}})
    conduct(study, tmp_path / "study", SerialExecutor())
    assert [path.name for path in (tmp_path / "study" / "models").glob("*/*") if path.is_dir()] == ["policy"]


def test_progress_is_told_while_it_goes_on(tmp_path: Path, models: Path) -> None:
    told: list[tuple[int, int, list[str]]] = []

    def report(progress: Progress) -> None:
        told.append((progress.finished, len(progress.preparing), list(progress.under_way)))

    conduct(STUDY, tmp_path / "study", SerialExecutor(), options=Options(models=models), report=report)
    assert told[0] == (0, 1, [])
    assert [finished for finished, _, _ in told] == sorted(finished for finished, _, _ in told)
    assert told[-1][0] == 3
    assert {name for _, _, names in told for name in names} == {run.id for run in STUDY.runs}


# --- going on ---------------------------------------------------------------------------------------------


class Counted(SerialExecutor):
    """Counts what is handed out."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tasks.append(fn.__name__)
        return super().submit(fn, *args, **kwargs)


def test_a_finished_study_is_left_as_it_is(whole: Path, models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")}
    counted = Counted()
    done = run_all(STUDY, whole, models, counted)
    assert (done.finished, done.already_there) == (3, 3)
    assert counted.tasks == []
    assert {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")} == before


def test_a_study_goes_on_with_more_seeds(tmp_path: Path, models: Path) -> None:
    study = study_of({"methods": {"a": {}, "b": MODES["stale"]}, "steps": 1})
    run_all(study, tmp_path / "study", models)
    done = run_all(study.model_copy(update={"seeds": (0, 1)}), tmp_path / "study", models)
    assert (done.already_there, done.finished) == (2, 4)
    assert load(tmp_path / "study")[1]["seed"].tolist() == [0, 0, 1, 1]


def test_records_without_the_folder_of_their_runs_go_on_with_more_seeds(tmp_path: Path, models: Path) -> None:
    diverges = {"update": {"learning_rate": 1e30}}
    study = study_of({"methods": {"a": {}, "b": MODES["stale"], "wild": diverges}, "steps": 1})
    root = tmp_path / "study"
    run_all(study, root, models)
    first, ends = load(root)
    shutil.rmtree(root / "runs")
    done = run_all(study.model_copy(update={"seeds": (0, 1)}), root, models)
    assert (done.already_there, done.finished) == (3, 6)
    steps, outcomes = load(root)
    assert len(outcomes) == 6
    pd.testing.assert_frame_equal(steps[steps["seed"] == 0].reset_index(drop=True), first)
    pd.testing.assert_frame_equal(outcomes[outcomes["seed"] == 0].reset_index(drop=True), ends)
    assert ends["ended"].iloc[-1] not in ENDS


def test_a_run_whose_folder_is_taken_away_is_trained_anew(tmp_path: Path, models: Path) -> None:
    study = study_of({"methods": {"a": {}, "b": MODES["stale"]}, "steps": 1})
    root = tmp_path / "study"
    run_all(study, root, models)
    shutil.rmtree(root / "runs" / study.runs[0].id)
    assert run_all(study, root, models).already_there == 1


def test_joined_records_that_cannot_be_read_are_refused_and_kept(tmp_path: Path, models: Path) -> None:
    study = study_of({"steps": 1})
    root = tmp_path / "study"
    run_all(study, root, models)
    shutil.rmtree(root / "runs")
    (root / "steps.parquet").write_bytes(b"no table")
    with pytest.raises(StudyError, match="choose another --out"):
        run_all(study, root, models)
    assert (root / "steps.parquet").read_bytes() == b"no table"
    assert not (root / "runs").exists()


def test_the_manifest_tells_of_the_seeds_that_were_added(tmp_path: Path, models: Path) -> None:
    for seeds in ((0,), (0, 1)):
        study = study_of({"steps": 1}).model_copy(update={"seeds": seeds})
        conduct(study, tmp_path / "study", SerialExecutor(), options=Options(models=models))
        assert manifest(tmp_path / "study")["config"]["seeds"] == list(seeds)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "cuda:7"}, "device='cuda:7' is not there"),
        (
            {"task": {"kind": "modular", "modulus": 2, "operations": ["+"]}},
            "modular holds out no problem to test on: make",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_taught(tmp_path: Path, change: Any, error: str) -> None:
    with pytest.raises(StudyError, match=error):
        conduct(study_of(change), tmp_path / "study", SerialExecutor(), options=Options(models=tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_what_a_kill_left_of_a_finished_run_is_cleared_away(whole: Path, models: Path) -> None:
    left = whole / "runs" / STUDY.runs[0].id / "checkpoint-000002.pt"
    left.write_bytes(b"")
    run_all(STUDY, whole, models)
    assert not left.exists()


def test_a_run_that_fails_keeps_what_is_finished_and_the_same_command_goes_on(
    whole: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(run: Any, *given: Any, **options: Any) -> None:
        def refuse(row: Any) -> None:
            if run.method == "stale" and row["step"] == 1:
                raise ValueError("cannot go on")

        train(run, *given, watch=refuse, **options)

    with monkeypatch.context() as patched:
        patched.setattr(conduct_module, "train", failing)
        with pytest.raises(StudyError, match=r"run\.stale\.0: cannot go on \(what was finished is kept\)"):
            run_all(STUDY, tmp_path / "study", models, keep_policies=True)
    with pytest.raises(StudyError, match="holds no finished study: run it to its end first"):
        load(tmp_path / "study")
    done = run_all(STUDY, tmp_path / "study", models, keep_policies=True)
    assert done.already_there == 1
    assert_same_study(tmp_path / "study", whole)


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path: Path, models: Path) -> None:
    methods = {"wild": {"update": {"learning_rate": 1e30}}, "calm": {}}
    run_all(study_of({"methods": methods, "steps": 2}), tmp_path / "study", models)
    steps, outcomes = load(tmp_path / "study")
    ended = dict(zip(outcomes["method"], outcomes["ended"], strict=True))
    assert ended["calm"] == "finished"
    assert "training diverged" in ended["wild"]
    assert len(steps[steps["method"] == "calm"]) == 3


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "run.on-policy.0 did not fit into memory: give a smaller update.batch_size or rollout"),
        (RuntimeError("CUDA out of memory. Tried"), "run.on-policy.0 did not fit into memory"),
        (BrokenProcessPool("died of excessive memory usage"), "a worker process died, perhaps for lack of memory"),
        (PermissionError(13, "Permission denied", "/there"), "cannot write /there: Permission denied"),
    ],
)
def test_what_a_machine_refuses_is_one_sentence(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(conduct_module, "train", refuse)
    with pytest.raises(StudyError) as caught:
        run_all(STUDY, tmp_path / "study", models)
    assert sentence in str(caught.value)


def test_an_error_of_our_own_is_not_dressed_up(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(conduct_module, "train", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run_all(STUDY, tmp_path / "study", models)


# --- folders ----------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.tex").write_text("dear")
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text(json.dumps({"config_hash": "x", "config": {}}))
    return {name: tmp_path / name for name in ("files", "file", "broken", "other")} | {"below": tmp_path / "file" / "x"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("files", "holds files but no study: choose an empty or a new folder with --out"),
        ("file", "is not a folder: choose another --out"),
        ("below", "cannot write "),
        ("broken", "is not the manifest of a study: it is damaged, or something else's"),
        ("other", "holds another study (config x, this one is "),
    ],
)
def test_a_folder_that_is_no_place_for_a_study_is_refused_and_left_alone(
    folders: dict[str, Path], models: Path, name: str, sentence: str
) -> None:
    def there() -> Sequence[Any]:
        root = folders["file"].parent
        return sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file())

    before = there()
    with pytest.raises(StudyError) as caught:
        run_all(STUDY, folders[name], models)
    assert sentence in str(caught.value)
    assert str(folders[name].parent) in str(caught.value)
    assert there() == before


def test_two_at_once_in_one_folder_are_refused(whole: Path, models: Path) -> None:
    with locked(whole), pytest.raises(StudyError, match=r"another run is writing to .*: wait for it, or choose"):
        run_all(STUDY, whole, models)


def test_two_at_once_in_one_run_are_refused(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct_module, "_PATIENCE", 0.1)
    busy = tmp_path / "study" / "runs" / STUDY.runs[1].id
    begin = conduct_module._begin
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(conduct_module, "_begin", lambda *given: begin(*given) or stack.enter_context(locked(busy)))
        with pytest.raises(StudyError, match=f"another run is writing to {busy}: wait"):
            run_all(STUDY, tmp_path / "study", models)
    run_all(STUDY, tmp_path / "study", models)
    assert len(list((tmp_path / "study" / "runs").glob("*/steps.parquet"))) == len(STUDY.runs)
    assert not list((tmp_path / "study" / "runs").glob("*/.*"))


def test_devices_of_workers_elsewhere_are_theirs_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of({"device": "cuda"})

    def missing(device: str) -> str:
        raise ValueError(f"{device} is not here")

    monkeypatch.setattr(conduct_module, "resolved_device", missing)
    with pytest.raises(StudyError, match="cuda is not here"):
        check_possible(study)
    check_possible(study, devices_elsewhere=True)


def test_a_worker_elsewhere_that_does_not_see_the_folder_trains_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(SharedFolder, "_is_seen", lambda folder: False)
    with pytest.raises(StudyError, match=f"does not see {tmp_path / 'study'}, where what it writes would be lost"):
        run_all(STUDY, tmp_path / "study", models)
    assert not (tmp_path / "study").exists()


def test_a_folder_without_a_study_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no study: .*manifest\.json cannot be read"):
        load(tmp_path)


# --- looking at a log -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('{"step": 0}\n{"step": 1}\n', {"step": 1}),
        ('{"step": 0}\n{"st', {}),
        ("", {}),
        ("[1]\n", {}),
        ("x" * 9000 + '\n{"step": 3}\n', {"step": 3}),
    ],
)
def test_the_newest_line_of_a_log_may_be_half_written(tmp_path: Path, content: str, row: dict[str, float]) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    assert last_row(tmp_path / "log.jsonl") == row
    assert last_row(tmp_path / "missing") == {}
