from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.record import Recorder

B, T, K = 3, 4, 2
PRESENT = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
MASK = PRESENT & np.array([[1, 0, 1, 1]], dtype=bool)


def batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    top = [
        (rng.integers(99, size=(B, T, K)).astype(np.int32), -rng.exponential(size=(B, T, K)).astype(np.float32))
        for _ in "ap"
    ]
    return {
        "mask": MASK,
        "present": PRESENT,
        "tokens": rng.integers(99, size=(B, T)),
        "actor_log_probs": -rng.exponential(size=(B, T)).astype(np.float32),
        "policy_log_probs": -rng.exponential(size=(B, T)),
        "advantages": rng.normal(size=B),
        "rewards": rng.normal(size=B).astype(np.float32),
        "weight_version": np.arange(B),
        "entropy": rng.exponential(size=(B, T)),
        "actor_topk": top[0],
        "policy_topk": top[1],
    }


def only_table(folder: Path) -> TokenTable:
    (table,) = open_dump([folder]).tables()
    return table


def holds(table: TokenTable, written: dict[str, Any], rows: tuple[int, ...] = (0, 2)) -> None:
    """Asserts that the table holds the batch's tokens, bit for bit."""
    assert table.lengths.tolist() == PRESENT[list(rows)].sum(axis=1).tolist()
    for name, column in {"mask": "mask", "tokens": "token", "entropy": "entropy"}.items():
        assert np.array_equal(getattr(table, column), written[name][PRESENT]), name
    for name in ("actor_log_probs", "policy_log_probs"):
        found = getattr(table, name)
        assert found.dtype == np.float64
        assert np.array_equal(found, written[name][PRESENT].astype(np.float64), equal_nan=True), name
    assert np.array_equal(table.position, np.nonzero(PRESENT)[1])
    lengths = PRESENT.sum(axis=1)
    assert np.array_equal(table.advantages, np.repeat(written["advantages"], lengths))  # type: ignore[arg-type]
    assert np.array_equal(table.weight_version, np.repeat(written["weight_version"], lengths))  # type: ignore[arg-type]
    assert np.array_equal(table.reward, written["rewards"][list(rows)])  # type: ignore[arg-type]
    for side in ("actor_topk", "policy_topk"):
        top = getattr(table, side)
        assert np.array_equal(top.ids, written[side][0][PRESENT])
        assert np.array_equal(top.log_probs, written[side][1][PRESENT])


def test_a_batch_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    given = batch()
    given["actor_log_probs"][0, 1] = np.nan
    given["policy_log_probs"][2, 0] = -np.inf
    path = Recorder(tmp_path).write(7, **given)
    assert path == tmp_path / "step_000007_rank_0.parquet"
    table = only_table(tmp_path)
    holds(table, given)
    assert table.step is not None
    assert table.step.tolist() == [7, 7]
    assert table.name == ("7-0-0-0", "7-0-0-2")


def test_tensors_are_read_back_as_arrays_are(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    given = batch()

    def tensor(values: Any) -> Any:
        return tuple(map(tensor, values)) if isinstance(values, tuple) else torch.tensor(values)

    tensors = {name: tensor(values) for name, values in given.items()}
    tensors["policy_log_probs"] = tensors["policy_log_probs"].requires_grad_()
    tensors["mask"] = tensors["mask"].long()
    Recorder(tmp_path / "x").write(7, **tensors)
    holds(only_table(tmp_path / "x"), given)
    half = tensors["actor_log_probs"].bfloat16()
    Recorder(tmp_path / "y").write(7, **tensors | {"actor_log_probs": half})
    holds(only_table(tmp_path / "y"), given | {"actor_log_probs": half.float().numpy()})


def test_what_is_not_given_is_not_there(tmp_path: Path) -> None:
    Recorder(tmp_path).write(1, mask=MASK, policy_log_probs=batch()["policy_log_probs"])
    table = only_table(tmp_path)
    assert table.columns == {"policy_log_probs", "position", "mask", "step"}
    assert table.mask.all()


def test_batches_of_steps_ranks_and_parts_stand_beside_each_other(tmp_path: Path) -> None:
    for rank in (0, 1):
        recorder = Recorder(tmp_path, rank=rank)
        for step in (1, 2, 1):
            recorder.write(step, **batch())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step_00000{step}_rank_{rank}{part}.parquet" for step, rank, part in [
            *[(1, 0, ""), (1, 0, "_part_1"), (1, 1, ""), (1, 1, "_part_1"), (2, 0, ""), (2, 1, "")]
        ]
    ]  # fmt: skip
    table = only_table(tmp_path)
    assert len(set(table.name)) == table.sequences == 12


def test_a_step_that_is_made_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """At once: whoever reads the old file goes on reading it."""
    path = Recorder(tmp_path).write(1, **batch(0))
    assert path is not None
    before = path.read_bytes()
    with path.open("rb") as reading:
        Recorder(tmp_path).write(1, **batch(1))
        assert reading.read() == before
    holds(only_table(tmp_path), batch(1))


def test_the_rank_is_that_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    path = Recorder(tmp_path).write(1, **batch())
    assert path is not None
    assert path.name == "step_000001_rank_3.parquet"


def test_a_batch_without_a_token_leaves_no_file(tmp_path: Path) -> None:
    assert Recorder(tmp_path / "x").write(1, mask=MASK & False, policy_log_probs=batch()["policy_log_probs"]) is None
    assert not (tmp_path / "x").exists()


KILLED = """
import os, sys
import numpy as np, pyarrow.parquet as pq
from jackpot_sim.record import Recorder

def half(table, file, **_):
    file.write(b"PAR1 and half of it")
    file.flush()
    os._exit(9)

recorder = Recorder(sys.argv[1])
given = {"mask": np.ones((2, 3), bool), "policy_log_probs": -np.ones((2, 3))}
recorder.write(1, **given)
pq.write_table = half
recorder.write(2, **given)
"""


def test_a_run_that_is_killed_leaves_no_file_that_is_cut_short(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    table = only_table(tmp_path)
    assert table.step is not None
    assert table.step.tolist() == [1, 1]


def test_a_failure_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder(tmp_path).write(1, **batch(0))

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(OSError, match="no space"):
            Recorder(tmp_path).write(1, **batch(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001_rank_0.parquet"]
    holds(only_table(tmp_path), batch(0))


BAD: dict[str, dict[str, Any]] = {
    "there are no log-probs": {"actor_log_probs": None, "policy_log_probs": None},
    "mask has shape \\(3,\\)": {"mask": MASK[:, 0]},
    "mask must hold 0 and 1 alone": {"mask": MASK * 2.0},
    "mask marks tokens that present does not": {"present": MASK & (np.arange(T) > 0)},
    "present has shape \\(3, 3\\), not \\(3, 4\\)": {"present": PRESENT[:, 1:]},
    "actor_log_prob has shape \\(3,\\), not \\(3, 4\\)": {"actor_log_probs": np.zeros(B)},
    "policy_log_prob has shape \\(3, 3\\), not \\(3, 4\\)": {"policy_log_probs": np.zeros((B, T - 1))},
    "advantage has shape \\(4,\\), not \\(3,\\)": {"advantages": np.zeros(T)},
    "reward has shape \\(3, 4\\), not \\(3,\\)": {"rewards": np.zeros((B, T))},
    "token has shape \\(3,\\), not": {"tokens": np.zeros(B, dtype=int)},
    "token must hold integers": {"tokens": np.zeros((B, T))},
    "entropy": {"entropy": np.zeros((B, T), dtype=int)},
    "actor_topk log_probs has shape": {"actor_topk": (np.zeros((B, T, 2), dtype=int), np.zeros((B, T, 3)))},
    "policy_topk ids has shape": {"policy_topk": (np.zeros((B, 2), dtype=int), np.zeros((B, T, 2)))},
    "actor_topk ids must lie from 0 to 2147483647": {"actor_topk": (np.full((B, T, 1), 2**31), np.zeros((B, T, 1)))},
}  # fmt: skip


@pytest.mark.parametrize("told", BAD)
def test_what_does_not_fit_is_refused_and_nothing_written(told: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Recorder(tmp_path).write(1, **batch() | BAD[told])
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_is_made_again_takes_the_place_of_all_its_parts(tmp_path: Path) -> None:
    mask, log_probs = np.ones((2, 3), dtype=np.bool_), np.full((2, 3), -1.0)
    for parts in (3, 2):
        recorder = Recorder(tmp_path, rank=0)
        for _ in range(parts):
            recorder.write(10, mask=mask, actor_log_probs=log_probs)
        Recorder(tmp_path, rank=1).write(10, mask=mask, actor_log_probs=log_probs)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000010_rank_0.parquet",
        "step_000010_rank_0_part_1.parquet",
        "step_000010_rank_1.parquet",
    ]


def test_a_folder_that_cannot_be_written_is_refused_before_there_is_anything_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=rf"^rollouts cannot be recorded in {folder}: .*file is a file, not a fo"):
            Recorder(folder)
    with pytest.raises(ValueError, match=r"^rollouts cannot be recorded in /proc/nope: "):
        Recorder("/proc/nope")
    for folder in (3, True, ""):
        with pytest.raises(TypeError, match="give its path, not "):
            Recorder(folder)  # type: ignore[arg-type]
    Recorder(tmp_path / "new" / "er")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
