"""The files of every producer give the same rollouts back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.sequence import DumpedSequence
from tests.readers.formats.producers import WRITTEN, Written
from tests.readers.formats.reading import read
from tests.readers.formats.rollouts import STEP, K, Rollout
from tests.readers.formats.rollouts import rollouts as rollouts

COLUMNS = frozenset(DumpedSequence.__dataclass_fields__) - {"name", "place", "position"}


def expected(rollout: Rollout, column: str) -> Any:
    if column == "step":
        return STEP
    value = getattr(rollout, column)
    return np.full(len(rollout.token), value) if column == "weight_version" else value


def assert_same(found: Any, told: Any, column: str) -> None:
    if isinstance(told, TopK):
        assert isinstance(found, TopK)
        # OpenAI's form does not tell whether a sampled token that is the least likely there is one of the likeliest.
        assert found.k in (K, K - 1)
        told = told.first(found.k)
        np.testing.assert_array_equal(found.log_probs, told.log_probs)
        live = np.isfinite(told.log_probs)
        np.testing.assert_array_equal(found.ids[live], told.ids[live])
        return
    if isinstance(told, np.ndarray):
        assert found.dtype == (bool if told.dtype == bool else np.int64 if told.dtype.kind == "i" else np.float64)
    np.testing.assert_array_equal(found, told, err_msg=column)


@pytest.mark.parametrize("written", WRITTEN, ids=lambda each: f"{each.producer}:{each.write.__name__}")
def test_every_format_gives_the_same_rollouts(written: Written, rollouts: list[Rollout], tmp_path: Path) -> None:
    found = read(written.producer, written.write(tmp_path, rollouts))
    assert len(found) == len(rollouts)
    assert len({each.name for each in found}) == len(rollouts)
    for sequence, rollout in zip(found, rollouts, strict=True):
        assert str(tmp_path) in sequence.place
        for column in COLUMNS:
            if column not in written.columns:
                assert getattr(sequence, column) is None, column
            else:
                assert_same(getattr(sequence, column), expected(rollout, column), column)
