"""Records on disk: fixed columns, shards that are whole or not there, and errors that name the file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jackpot_sim
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import plan, records, schema
from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.run import run
from tests.sweep.studies import SMALL, assert_same_run, leftovers, run_serially, shards, small

STUDY = small()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; copy it before changing it."""
    return run_serially(STUDY, tmp_path_factory.mktemp("records") / "whole")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# --- the tables -------------------------------------------------------------------------------------------

GOLDEN_RECORDS = """
cell environment env_kind base_kind knob_name knob target_divergence target_kl achieved_kl achieved_kl_se vocab states
length seed space estimator estimator_kind level masked_by target rao_blackwell batch_normalize centred laws
acceptance_low acceptance_low_se acceptance_high acceptance_high_se clip floor low high bound lam c1 c2 threshold delta
aggregate inverted direction clip_on dual tau_positive tau_negative epsilon
k_positive lambda_positive k_negative lambda_negative acceptance_budget budget_per_state denominator method
kl_policy_actor kl_actor_policy total_variation chi_square kl_sequence chi_square_sequence mean_length
kl_policy_actor_se kl_actor_policy_se total_variation_se chi_square_se kl_sequence_se chi_square_sequence_se
mean_length_se prefix_total_variation acceptance_rate kl_accepted kl_effective kl_prefix bias_sq bias direction_bias
gain variance mse mse_rescaled ess_fraction acceptance_rate_se kl_accepted_se kl_effective_se kl_prefix_se bias_sq_se
bias_se direction_bias_se gain_se variance_se mse_se mse_rescaled_se ess_fraction_se bias_share_prefix
bias_share_continuation bias_share_weight grad_norm_sq grad_norm_sq_se on_policy_variance noise_to_signal
degenerate_states n_samples
replicates config_hash version numpy python commit seconds weight_seconds
""".split()  # noqa: SIM905

GOLDEN_STATES = """
cell estimator denominator state kl_policy_actor acceptance_rate weight_mean weight_square grad_norm_sq
on_policy_variance divisor error_sq error_dot estimate_sq estimate_dot second_moment kl_accepted kl_effective
kl_prefix length units kept_dot_cov length_dot_cov kept_var kept_length_cov length_var
""".split()  # noqa: SIM905


def test_the_columns_are_fixed(whole: Path) -> None:
    assert schema.RECORDS.names == GOLDEN_RECORDS
    assert schema.STATES.names == GOLDEN_STATES
    for table, known in (("records", schema.RECORDS), ("states", schema.STATES)):
        assert {type_.id for type_ in known.types} <= {
            t.id for t in (pa.string(), pa.float64(), pa.int64(), pa.bool_())
        }
        for shard in shards(whole, table):
            assert pq.read_schema(shard).equals(known)


def test_a_row_for_each_cell_estimator_denominator_and_method(tmp_path: Path) -> None:
    study = small(denominators=["proposed", "accepted", "self_normalized"])
    table = records.load(run_serially(study, tmp_path / "run"))
    keys = ["cell", "estimator", "denominator", "method"]
    assert len(table) == 6 * 3 * 3 * 2
    assert not table.duplicated(keys).any()
    assert not table[keys].isna().any().any()
    states = records.load(tmp_path / "run", "states")
    assert len(states) == 6 * 3 * 3 * 3, "exact rows alone have states"
    assert not states.duplicated(["cell", "estimator", "denominator", "state"]).any()


def test_rows_say_what_was_asked_and_how(whole: Path) -> None:
    table = records.load(whole)
    assert set(table["config_hash"]) == {STUDY.config_hash}
    assert set(table["version"]) == {jackpot_sim.__version__}
    assert set(table["numpy"]) == {np.__version__}
    assert (table["seconds"] > 0).all()
    assert set(table["seed"]) == {0, 1}
    budget = table[table["estimator"] == "jackpot(acceptance=0.9)"]
    assert (budget["acceptance_budget"] == 0.9).all()
    assert budget["budget_per_state"].all()
    assert budget["lam"].isna().all(), "a lam for each state is no scalar"
    tis = table[table["estimator"] == "tis(clip=1.5)"]
    assert (tis["clip"] == 1.5).all()
    assert tis["acceptance_budget"].isna().all()
    exact, sampled = table[table["method"] == "exact"], table[table["method"] == "monte_carlo"]
    assert exact["acceptance_rate_se"].isna().all()
    assert sampled["acceptance_rate_se"].notna().all()
    noise = table[table["knob_name"] == "sigma"]
    assert set(noise["knob"]) == {0.2, 0.5}
    assert (np.abs(noise["achieved_kl"] - noise["kl_policy_actor"]) < 1e-12).all()


def test_the_states_of_a_cell_average_to_its_row(whole: Path) -> None:
    rows = records.load(whole)
    rows = rows[rows["method"] == "exact"].set_index(["cell", "estimator"])
    means = (
        records.load(whole, "states")
        .groupby(["cell", "estimator"], sort=False)[
            ["acceptance_rate", "kl_policy_actor", "kl_accepted", "kl_effective"]
        ]
        .mean()
    )
    for name in means.columns:
        np.testing.assert_allclose(means[name], rows.loc[means.index, name], rtol=1e-12, atol=1e-15)


def test_a_study_without_exact_figures_has_an_empty_table_of_states(tmp_path: Path) -> None:
    root = run_serially(small(methods=["monte_carlo"]), tmp_path / "run")
    assert len(records.load(root)) == 18
    states = records.load(root, "states")
    assert len(states) == 0
    assert list(states.columns) == GOLDEN_STATES


def test_the_order_is_the_manifests(whole: Path, copy: Path) -> None:
    planned = [cell.id for cell in plan.cells(STUDY)]
    manifest = records.read_manifest(copy)
    assert [cell["cell"] for cell in manifest["cells"]] == planned
    for table in ("records", "states"):
        assert list(records.load(copy, table)["cell"].unique()) == planned
    manifest["cells"].reverse()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert list(records.load(copy)["cell"].unique()) == planned[::-1]


def test_pandas_reads_the_folder_as_it_is(whole: Path) -> None:
    assert len(pd.read_parquet(whole / "records")) == len(records.load(whole))


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    root = run_serially(small(seeds=1), tmp_path / "knob=7" / "cell=x")
    assert list(records.load(root).columns) == GOLDEN_RECORDS


# --- damage -----------------------------------------------------------------------------------------------


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(StudyError) as caught:
        action()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def again(root: Path) -> None:
    run(STUDY, root, SerialExecutor())


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-8] + b"\0" * 8,
    "garbage": lambda content: bytes(range(256)) * 20,
    "text": lambda content: b"cell,estimator\n1,2\n",
}


@pytest.mark.parametrize("table", ["records", "states"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_can_be_remade(whole: Path, copy: Path, table: str, damage: str) -> None:
    shard = shards(copy, table)[2]
    shard.write_bytes(DAMAGE[damage](shard.read_bytes()))
    for action in (lambda: records.load(copy, table), lambda: again(copy)):
        assert str(shard) in refused(action)
    shard.unlink()
    again(copy)
    assert_same_run(copy, whole)


def test_a_missing_shard_of_states_is_named_and_remade(whole: Path, copy: Path) -> None:
    shard = shards(copy, "states")[2]
    shard.unlink()
    message = refused(lambda: records.load(copy, "states"))
    assert str(shard) in message
    assert "missing" in message
    again(copy)
    assert_same_run(copy, whole)


def test_a_shard_with_other_columns_is_refused(copy: Path) -> None:
    shard = shards(copy)[1]
    pq.write_table(pq.read_table(shard).drop_columns(["bias"]), shard)
    for action in (lambda: records.load(copy), lambda: again(copy)):
        message = refused(action)
        assert str(shard) in message
        assert "columns" in message


def test_parameters_of_other_versions_are_read(whole: Path, copy: Path) -> None:
    """An older shard lacks a parameter, and a newer one has another; all other columns are as they were."""
    expected, (older, newer, *_) = records.load(whole), shards(copy)
    pq.write_table(pq.read_table(older).drop_columns(["delta"]), older)
    table = pq.read_table(newer)
    place = table.column_names.index("acceptance_budget")
    pq.write_table(table.add_column(place, "another", pa.array([0.5] * len(table))), newer)
    loaded = records.load(copy)
    pd.testing.assert_frame_equal(loaded[expected.columns], expected, check_exact=True)
    assert loaded["another"].dropna().tolist() == [0.5] * len(table)
    assert set(loaded.columns) == {*expected.columns, "another"}
    again(copy)


def test_records_from_before_there_was_centring_are_read(whole: Path, copy: Path) -> None:
    older, expected = shards(copy)[0], records.load(whole)
    pq.write_table(pq.read_table(older).drop_columns(["centred", "laws", "acceptance_low"]), older)
    loaded = records.load(copy)
    pd.testing.assert_frame_equal(loaded, expected, check_exact=True)
    assert loaded["centred"].dtype == bool
    assert (loaded["laws"] == "whole").all()
    assert not loaded["centred"].any()
    again(copy)


def test_a_parameter_elsewhere_or_of_another_type_is_no_parameter(copy: Path) -> None:
    shard = shards(copy)[0]
    table = pq.read_table(shard)
    misplaced = table.append_column("another", pa.array([0.5] * len(table)))
    text = table.set_column(table.column_names.index("clip"), "clip", pa.array(["x"] * len(table)))
    for other in (misplaced, text):
        pq.write_table(other, shard)
        assert str(shard) in refused(lambda: records.load(copy))


@pytest.mark.parametrize("table", ["records", "states"])
def test_a_flipped_byte_never_goes_unseen(whole: Path, copy: Path, table: str) -> None:
    shard = shards(copy, table)[0]
    content, expected = shard.read_bytes(), records.load(whole, table)
    generator = np.random.default_rng(5)
    seen = 0
    for place in generator.choice(len(content), size=60, replace=False):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        shard.write_bytes(flipped)
        try:
            found = records.load(copy, table)
        except StudyError as error:
            assert str(shard) in str(error)  # noqa: PT017
            seen += 1
        else:
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert seen > 10


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"config_hash": 1, "cells": []}',
        b'{"config_hash": "x"}',
        b'{"config_hash": "x", "cells": 5}',
        b'{"config_hash": "x", "cells": [1]}',
        b'{"config_hash": "x", "cells": [{"cell": 1}]}',
    ],
)
def test_a_damaged_manifest_is_named(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    for action in (lambda: records.load(copy), lambda: again(copy)):
        assert str(copy / "manifest.json") in refused(action)


def test_a_folder_without_a_run_is_named(tmp_path: Path, copy: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        message = refused(lambda root=root: records.load(root))
        assert str(root) in message
        assert "holds no run" in message
    for shard in shards(copy):
        shard.unlink()
    assert "no finished cell" in refused(lambda: records.load(copy))


# --- a write that fails -----------------------------------------------------------------------------------


def half_then_full(path: Any) -> None:
    Path(path).write_bytes(b"PAR1 and no more")


STEPS = {"write_table": 12, "write_text": 1, "fsync": 13, "replace": 13, "mkdir": 3}
"""The calls that a run of six cells makes, by what it writes with."""


class FullDisk:
    """Makes the nth call of one writing function fail as on a full disk, having written half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str, nth: int) -> None:
        owner: Any = {"write_table": pq, "write_text": Path, "fsync": os, "replace": Path, "mkdir": Path}[step]
        real = getattr(owner, step)
        self.calls = 0

        def failing(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls != nth:
                return real(*args, **kwargs)
            if step == "write_table":
                half_then_full(args[1])
            elif step == "write_text":
                half_then_full(args[0])
            raise OSError(errno.ENOSPC, "the disk said no")

        monkeypatch.setattr(owner, step, failing)


def places(count: int) -> list[int]:
    """The first calls, which are not alike, one in the middle and the last."""
    return sorted({1, 2, 3, count // 2 + 1, count} & {*range(1, count + 1)})


@pytest.mark.parametrize(("step", "nth"), [(step, nth) for step, count in STEPS.items() for nth in places(count)])
def test_a_full_disk_leaves_only_whole_files_and_the_next_run_finishes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, nth: int
) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, step, nth)
        message = refused(lambda: again(root))
        assert disk.calls == nth, "nothing is written after a failure"
    assert f"cannot write {root}" in message
    assert os.strerror(errno.ENOSPC) in message
    assert leftovers(root) == []
    assert {shard.name for shard in shards(root)} <= {shard.name for shard in shards(root, "states")}
    for table in ("records", "states"):
        for shard in shards(root, table):
            whole_shard = pq.read_table(whole / table / shard.name)
            figures = [name for name in whole_shard.column_names if name not in schema.NOT_FIGURES]
            assert pq.read_table(shard).to_pandas()[figures].equals(whole_shard.to_pandas()[figures])
    again(root)
    assert_same_run(root, whole)


def test_every_step_of_writing_was_made_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for step in STEPS:
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, step, nth=-1)
            again(tmp_path / step)
            counts[step] = disk.calls
    assert counts.pop("mkdir") >= STEPS["mkdir"], "filelock may make one too"
    assert counts == {step: count for step, count in STEPS.items() if step != "mkdir"}


def test_an_error_of_writing_says_that_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch, "replace", 5)
    message = refused(lambda: again(tmp_path / "run"))
    assert message.endswith("finished cells are kept")
    assert ".tmp" not in message


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_real_full_disk(tiny_disk: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps(SMALL | {"name": "study"}))
    command = ["--config", str(config), "--out", str(tiny_disk / "run"), "--executor", "serial", "--quiet"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sweep: cannot write {tiny_disk}")
    assert os.strerror(errno.ENOSPC) in error
    assert error.count("\n") == 1
    assert leftovers(tiny_disk) == []
    assert 0 < len(shards(tiny_disk / "run")) < 6
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    assert main(command) == 0
    assert_same_run(tiny_disk / "run", whole)
