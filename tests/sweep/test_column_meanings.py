"""Every column has its description, and no other has."""

from __future__ import annotations

import pytest

from jackpot_sim.sweep import column_meanings, schema
from jackpot_sim.sweep.cli import main


@pytest.mark.parametrize("table", list(schema.TABLES))
def test_every_column_is_described_and_nothing_else(table: str) -> None:
    told = column_meanings.described()[table]
    assert list(told) == schema.TABLES[table].names
    assert set(column_meanings._TABLES[table]) <= set(told)
    assert all(what.strip() for what in told.values())


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--columns"]) == 0
    printed = capsys.readouterr().out
    assert "standard error of kl_effective" in printed
    assert all(f"RUN/{table}/*.parquet" in printed for table in schema.TABLES)
    assert main(["--columns", "--seeds", "1"]) == 2
    assert "--columns stands alone" in capsys.readouterr().err
