"""Running a study: the records depend on the study alone, and no failure loses a finished cell."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from jackpot_sim.studies import executors, files
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, SerialExecutor
from jackpot_sim.sweep import plan, records, summary
from jackpot_sim.sweep.cell import measure
from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.records import RunDirectory
from jackpot_sim.sweep.rows import SAMPLED
from jackpot_sim.sweep.run import Progress, run
from jackpot_sim.sweep.spec import Study
from tests.studies.test_executors import Together
from tests.sweep.studies import BASE, SMALL, assert_same_run, figures, run_serially, shards, small

STUDY = small()
CELLS = [cell.id for cell in plan.cells(STUDY)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; copy it before changing it."""
    return run_serially(STUDY, tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


class Watched(SerialExecutor):
    """Runs each task at once, and remembers which cells it was given."""

    def __init__(self) -> None:
        self.cells: list[str] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.cells.append(args[0].id)
        return super().submit(fn, *args, **kwargs)


# --- what the records depend on ---------------------------------------------------------------------------


def test_worker_processes_give_the_records_of_this_process(whole: Path, tmp_path: Path) -> None:
    with executors.opened(ExecutorKind.LOKY, 2) as pool:
        run(STUDY, tmp_path / "run", pool, in_flight=4)
    assert_same_run(tmp_path / "run", whole)


class InOrder(Executor):
    """Measures in a thread, in an order of its own; each cell lands before the next is begun."""

    def __init__(self, order: list[int]) -> None:
        self.order, self.tasks = order, list[tuple[Future[Any], Callable[[], Any]]]()
        self.landed = threading.Semaphore(0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append((future, lambda: fn(*args, **kwargs)))
        if len(self.tasks) == len(self.order):
            threading.Thread(target=self._work, daemon=True).start()
        return future

    def _work(self) -> None:
        for place in self.order:
            future, task = self.tasks[place]
            future.set_result(task())
            assert self.landed.acquire(timeout=30)

    def report(self, progress: Progress) -> None:
        if progress.finished:
            self.landed.release()


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], random.Random(3).sample(range(6), 6)], ids=["reversed", "mixed"])
def test_the_order_in_which_cells_finish_does_not_matter(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    written: list[str] = []
    write = RunDirectory.write

    def noted(directory: RunDirectory, measured: Measured) -> None:
        written.append(measured.cell.id)
        write(directory, measured)

    monkeypatch.setattr(RunDirectory, "write", noted)
    executor = InOrder(order)
    run(STUDY, tmp_path / "run", executor, in_flight=6, report=executor.report)
    assert written == [CELLS[place] for place in order]
    assert_same_run(tmp_path / "run", whole)


def test_a_cell_measured_twice_is_the_same_to_the_last_bit() -> None:
    cell = plan.cells(STUDY)[1]
    first, second = measure(cell, STUDY), measure(cell, STUDY)
    clean = [pd.DataFrame(each.rows).drop(columns="seconds") for each in (first, second)]
    pd.testing.assert_frame_equal(*clean, check_exact=True)


def test_other_environments_change_nothing_in_a_cell(whole: Path, tmp_path: Path) -> None:
    more = small(
        env=[{"kind": "temperature", "base": BASE, "temperature": 1.5}, *SMALL["env"]],
        estimators=["none", *SMALL["estimators"]],
    )
    run_serially(more, tmp_path / "more")
    for table in ("records", "states"):
        expected, found = figures(whole, table), figures(tmp_path / "more", table)
        both = found[found["cell"].isin(CELLS) & (found["estimator"] != "none")]
        dropped = [name for name in ("config_hash",) if name in found]
        pd.testing.assert_frame_equal(
            both.drop(columns=dropped).reset_index(drop=True), expected.drop(columns=dropped), check_exact=True
        )


def test_cells_and_estimators_draw_independently(whole: Path) -> None:
    table = records.load(whole)
    sampled = table[table["method"] == "monte_carlo"]
    assert not sampled.duplicated("bias_sq").any()


# --- closed forms against draws ---------------------------------------------------------------------------


def test_closed_forms_and_draws_agree_within_their_errors(tmp_path: Path) -> None:
    study = small(
        env=[
            {"kind": "logit-noise", "base": BASE, "sigma": 0.7},
            {"kind": "top-k", "base": {"kind": "zipf", "vocab": 12, "states": 3}, "k": 8},
        ],
        estimators=["none", "is", "obrs", *SMALL["estimators"][1:], {"kind": "jackpot", "rao_blackwell": True}],
        seeds=[2, 3],  # seed 1 holds one draw at 4.4 errors; 900 other streams there have mean 0.0 and deviation 0.97
        n_samples=256,
        replicates=192,
    )
    table = figures(run_serially(study, tmp_path / "run")).set_index(["cell", "estimator"])
    exact, sampled = (table[table["method"] == method] for method in ("exact", "monte_carlo"))
    misses: dict[str, list[float]] = {name: [] for name in SAMPLED}
    for place, row in sampled.iterrows():
        truth = exact.loc[place]
        for name in SAMPLED:
            if not (np.isfinite(row[name]) and np.isfinite(truth[name]) and np.isfinite(row[f"{name}_se"])):
                continue
            if name == "bias" and truth["bias_sq"] < 5 * row["bias_sq_se"]:
                continue  # a root of what may be negative is no unbiased estimate near zero
            miss = row[name] - truth[name]
            assert abs(miss) <= 4 * row[f"{name}_se"] + 1e-12, (place, name, truth[name], row[name])
            if row[f"{name}_se"] > 0:
                misses[name].append(miss / row[f"{name}_se"])
    assert misses.pop("kl_prefix") == [], "states are given: there is nothing to miss"
    for name, each in misses.items():
        assert len(each) >= 8, name
        assert np.mean(np.square(each)) < 2.5, (name, each)  # streams are independent, so many small misses tell
    for name in ("variance", "mse", "ess_fraction"):
        assert (sampled[f"{name}_se"] < 0.08 * sampled[name]).all(), "errors so wide that anything agrees"


# --- resuming ---------------------------------------------------------------------------------------------


def test_a_second_run_measures_nothing_and_touches_no_file(copy: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    executor = Watched()
    progress = run(STUDY, copy, executor)
    assert (progress.finished, progress.total, progress.already_there, len(progress.done)) == (6, 6, 6, 6)
    assert executor.cells == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("table", ["records", "states"])
def test_only_what_is_missing_is_measured_again(copy: Path, whole: Path, table: str) -> None:
    lost = [shards(copy, table)[place] for place in (0, 3)]
    kept = {shard: shard.stat().st_mtime_ns for shard in shards(copy) if shard.stem not in {s.stem for s in lost}}
    for shard in lost:
        shard.unlink()
    executor, told = Watched(), list[Progress]()
    run(STUDY, copy, executor, report=told.append)
    assert sorted(executor.cells) == sorted(shard.stem for shard in lost)
    assert [each.finished for each in told] == [4, 5, 6]
    assert {(each.total, each.already_there) for each in told} == {(6, 4)}
    assert {shard: shard.stat().st_mtime_ns for shard in kept} == kept
    assert_same_run(copy, whole)


@pytest.mark.parametrize("leftover", ["records/.x.parquet.tmp", "states/.y.parquet.tmp", ".manifest.json.tmp"])
def test_what_a_killed_run_was_writing_is_swept_away(copy: Path, whole: Path, leftover: str) -> None:
    (copy / leftover).write_bytes(b"PAR1")
    if leftover.startswith(".manifest"):  # killed before it had a manifest, so before all else
        for path in (copy / "records", copy / "states"):
            shutil.rmtree(path)
        (copy / "manifest.json").unlink()
    run_serially(STUDY, copy)
    assert_same_run(copy, whole)


class Killed(BaseException):
    """The end of the process."""


class Death:
    """Ends the run at its nth act on the disk, half done if it is a write; after that nothing happens any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.acts, self.nth = 0, nth
        for owner, name in (
            *((Path, name) for name in ("mkdir", "replace", "write_text", "unlink")),
            (os, "fsync"),
            (pq, "write_table"),
        ):
            monkeypatch.setattr(owner, name, self.deadly(getattr(owner, name), name))

    def deadly(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            self.acts += 1
            if self.acts < self.nth:
                return real(*args, **kwargs)
            if self.acts == self.nth and name.startswith("write"):
                Path(args[1] if name == "write_table" else args[0]).write_bytes(b"PAR1 and no more")
            raise Killed

        return act


FEW = small(env=SMALL["env"][1], seeds=3)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of three cells."""
    return run_serially(FEW, tmp_path_factory.mktemp("run") / "few")


@pytest.mark.parametrize("nth", range(1, 22))
def test_a_run_killed_at_any_act_can_be_resumed(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        Death(patch, nth)
        with pytest.raises(Killed):
            run(FEW, root, SerialExecutor())
    if shards(root):
        assert len(records.load(root)) == 6 * len(shards(root)), "what can be seen is whole"
        assert records.load(root, "states")["cell"].nunique() == len(shards(root))
    run_serially(FEW, root)
    assert_same_run(root, few)


# --- folders that are not this study's --------------------------------------------------------------------


def refused(study: Study, root: Path, executor: Executor | None = None, **options: Any) -> str:
    with pytest.raises(StudyError) as caught:
        run(study, root, executor or SerialExecutor(), **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_another_studys_folder_is_refused_and_left_alone(copy: Path) -> None:
    before = contents(copy)
    message = refused(small(seeds=3), copy)
    assert str(copy) in message
    assert STUDY.config_hash in message
    assert small(seeds=3).config_hash in message
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["thesis.tex", "records/precious.parquet", ".hidden"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    assert str(tmp_path) in refused(STUDY, tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert "not a folder" in refused(STUDY, tmp_path / "file")
    assert f"cannot write {tmp_path / 'file' / 'below'}" in refused(STUDY, tmp_path / "file" / "below")
    assert "File name too long" in refused(STUDY, tmp_path / ("x" * 300))
    assert (tmp_path / "file").read_text() == "precious"


def test_two_runs_at_once_are_refused(tmp_path: Path, whole: Path) -> None:
    root = tmp_path / "run"
    with RunDirectory(root, STUDY, plan.cells(STUDY)).opened():
        assert f"another run is writing to {root}" in refused(STUDY, root)
        assert shards(root) == []
    run_serially(STUDY, root)
    assert_same_run(root, whole)


def test_a_folder_taken_by_another_study_in_the_last_instant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the folder and the lock another run may begin and end."""
    real = files.FileLock

    def late(path: Any) -> Any:
        monkeypatch.setattr(files, "FileLock", real)
        run_serially(small(seeds=1), tmp_path / "run")
        return real(path)

    monkeypatch.setattr(files, "FileLock", late)
    assert "another study" in refused(STUDY, tmp_path / "run")


# --- cells that fail --------------------------------------------------------------------------------------

UNATTAINABLE = SMALL | {
    "env": [
        *SMALL["env"],
        {"kind": "temperature", "base": BASE, "target_kl": 1e9},
        {"kind": "dirichlet-mixture", "base": BASE, "epsilon": 0.1},
    ]
}


@pytest.mark.parametrize("executor", [["serial"], ["loky", "--workers", "2"]])
def test_a_target_that_cannot_be_met_names_its_cell_and_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], executor: list[str]
) -> None:
    config = tmp_path / "study.yaml"
    config.write_text(json.dumps(UNATTAINABLE))
    command = ["--config", str(config), "--out", str(tmp_path / "run"), "--executor", *executor]
    assert main(command) == 2
    printed = capsys.readouterr()
    bad = plan.cells(small(**UNATTAINABLE))[6]
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"sweep: cell {bad.id.removesuffix('-0')}-")
    assert "target_kl=1e+09 is unattainable" in printed.err
    kept = shards(tmp_path / "run")
    assert {shard.stem for shard in kept} <= {cell.id for cell in plan.cells(small(**UNATTAINABLE))}
    assert len(kept) >= (6 if executor == ["serial"] else 3), "all that came before"


def test_a_study_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    bad = small(env={"kind": "temperature", "base": BASE, "target_kl": 1e9})
    assert "unattainable" in refused(bad, tmp_path / "runs" / "bad")
    assert list(tmp_path.iterdir()) == []


def test_cells_that_land_beside_a_failure_are_kept(tmp_path: Path) -> None:
    study = small(**UNATTAINABLE)
    message = refused(study, tmp_path / "run", Together(10), in_flight=10)
    assert message.endswith("finished cells are kept")
    assert len(shards(tmp_path / "run")) == 8


class Failing(SerialExecutor):
    """Fails at the third cell, when it is handed over or when it should come back."""

    def __init__(self, error: Exception, at_once: bool) -> None:
        self.error, self.at_once, self.count = error, at_once, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        if self.count < 3:
            return super().submit(fn, *args, **kwargs)
        if self.at_once:
            raise self.error
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "at_once", "part"),
    [
        (BrokenExecutor(), False, "a worker process died"),
        (BrokenExecutor(), True, "a worker process died"),
        (MemoryError(), False, "did not fit into memory"),
        (ValueError("cell x: no"), False, "cell x: no"),
    ],
)
def test_a_worker_that_fails_is_one_sentence(
    tmp_path: Path, whole: Path, error: Exception, at_once: bool, part: str
) -> None:
    assert part in refused(STUDY, tmp_path / "run", Failing(error, at_once))
    assert len(shards(tmp_path / "run")) == 2
    run_serially(STUDY, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


class Deadly(Executor):
    """Hands the third cell to a worker process as a task that ends the process."""

    def __init__(self, pool: Executor) -> None:
        self.pool, self.count = pool, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return self.pool.submit(os._exit, 7) if self.count == 3 else self.pool.submit(fn, *args, **kwargs)


def test_a_worker_process_that_dies_is_one_sentence(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(StudyError, match="a worker process died"), executors.opened(ExecutorKind.LOKY, 1) as pool:
        run(STUDY, tmp_path / "run", Deadly(pool))
    assert len(shards(tmp_path / "run")) == 2
    run_serially(STUDY, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.fixture
def interrupting() -> Iterator[SerialExecutor]:
    class Interrupting(SerialExecutor):
        count = 0

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self.count += 1
            if self.count == 4:
                raise KeyboardInterrupt
            return super().submit(fn, *args, **kwargs)

    return Interrupting()


def test_an_interrupted_run_keeps_its_cells_and_frees_its_folder(
    tmp_path: Path, whole: Path, interrupting: SerialExecutor
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(STUDY, tmp_path / "run", interrupting)
    assert len(shards(tmp_path / "run")) == 3
    run_serially(STUDY, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_an_error_that_is_a_bug_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(STUDY, tmp_path / "run", Failing(ZeroDivisionError(), False))


@pytest.mark.parametrize(("seeds", "told"), [(1, "(1 seed)"), (2, "(means over 2 seeds)")])
def test_the_table_of_many_environments_tells_how_many_seeds(tmp_path: Path, seeds: int, told: str) -> None:
    env = {"kind": "logit-noise", "base": BASE, "sigma": [0.1 * n for n in range(1, 8)]}
    study = small(env=env, estimators=["is"], seeds=seeds, methods=["exact"])
    (table,) = summary.tables(records.load(run_serially(study, tmp_path / "run")))
    assert str(table.title).endswith(told)
