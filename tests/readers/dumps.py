"""Small dumps of the plain schema, written for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.sequence import DumpedSequence

Row = dict[str, Any]


def token_rows(lengths: Iterable[int] = (3, 2), k: int = 0, **constants: Any) -> list[Row]:
    """Rows of tokens of random sequences a0, a1, …, with every column; `k` adds the top-k of both sides."""
    rng = np.random.default_rng(7)
    rows: list[Row] = []
    for number, length in enumerate(lengths):
        for position in range(length):
            row: Row = {
                "sequence": f"a{number}",
                "position": position,
                "token": int(rng.integers(1000)),
                "actor_log_prob": -float(rng.exponential()),
                "policy_log_prob": -float(rng.exponential()),
                "mask": bool(position % 2 == 0),
                "advantage": float(rng.normal()),
                "reward": float(number),
                "step": 4,
                "weight_version": 3,
                "entropy": float(rng.exponential()),
            }
            for side in ("actor", "policy") if k else ():
                row[f"{side}_topk_ids"] = rng.integers(1000, size=k).tolist()
                row[f"{side}_topk_log_probs"] = np.float32(-rng.exponential(size=k)).tolist()
            rows.append(row | constants)
    return rows


OF_SEQUENCE = ("sequence", "reward", "step")


def sequence_rows(rows: Iterable[Row]) -> list[Row]:
    """The same, one row a sequence."""
    found: dict[Any, Row] = {}
    for row in rows:
        lists = found.setdefault(row["sequence"], {})
        for name, value in row.items():
            if name in OF_SEQUENCE:
                lists[name] = value
            else:
                lists.setdefault(name, []).append(value)
    return list(found.values())


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def written(path: Path, content: bytes | Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else jsonl(content))
    return path


def read(*paths: Path, **options: Any) -> list[DumpedSequence]:
    return list(open_dump(paths, **options).sequences())


def same(first: object, second: object) -> None:
    """Asserts that two sequences, or tables, hold the same, bit for bit, but for their places."""
    assert type(first) is type(second)
    for name, one in vars(first).items():
        other = getattr(second, name)
        if name == "place":
            continue
        if isinstance(one, TopK):
            same(one, other)
        elif isinstance(one, np.ndarray):
            assert isinstance(other, np.ndarray), name
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, err_msg=name)
        else:
            assert one == other, name
