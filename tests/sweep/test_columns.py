"""Every column has its description, and no other has."""

from __future__ import annotations

import pytest

from jackpot_sim.sweep import columns, records
from jackpot_sim.sweep.cli import main


@pytest.mark.parametrize("table", list(records.TABLES))
def test_every_column_is_described_and_nothing_else(table: str) -> None:
    told = columns.described()[table]
    assert list(told) == records.TABLES[table].names
    assert set(columns._TABLES[table]) <= set(told)
    assert all(what.strip() for what in told.values())


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--columns"]) == 0
    printed = capsys.readouterr().out
    assert "standard error of kl_effective" in printed
    assert all(f"RUN/{table}/*.parquet" in printed for table in records.TABLES)
    assert main(["--columns", "--seeds", "1"]) == 2
    assert "--columns stands alone" in capsys.readouterr().err
