"""The JSON is the diagnosis, keeps to the schema that is published, and is whole or absent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jackpot_sim.diagnose.report import as_json
from jackpot_sim.diagnose.results import Diagnosis
from jackpot_sim.studies.errors import StudyError
from tests.diagnose.report.made import diagnosis, figure
from tests.diagnose.report.schemas import breaches


def test_it_reads_back_as_the_same_diagnosis() -> None:
    made = diagnosis()
    for ascii_only in (False, True):
        text = as_json.text(made, ascii_only=ascii_only)
        assert Diagnosis.model_validate_json(text) == made
        assert text.isascii() == ascii_only


def test_what_is_not_finite_is_null() -> None:
    text = as_json.text(diagnosis(metrics=[figure("chi-square", math.inf), figure("k1", math.nan)]))
    assert [each["value"] for each in json.loads(text)["metrics"]] == [None, None]
    cause = diagnosis().causes[0].model_copy(update={"figures": {"slope": 1.0, "odds": math.inf}})
    content, schema = json.loads(as_json.text(diagnosis(causes=[cause]))), json.loads(as_json.schema())
    assert [*breaches(content, schema, schema)] == []
    assert content["causes"][0]["figures"] == {"slope": 1.0}


def test_it_keeps_to_the_schema() -> None:
    schema = json.loads(as_json.schema())
    content = json.loads(as_json.text(diagnosis()))
    assert [*breaches(content, schema, schema)] == []
    for name in ("verdict", "causes", "metrics", "corrections", "advice", "rows"):
        assert name in schema["required"]
        without = {key: value for key, value in content.items() if key != name}
        assert [*breaches(without, schema, schema)] == [f"$ lacks {name}"]
    assert [*breaches(content | {"other": 1}, schema, schema)] == ["$ has other"]
    assert [*breaches(content | {"causes": [{**content["causes"][0], "confidence": 2}]}, schema, schema)]
    assert [*breaches(content | {"verdict": {"state": "ill", "sentence": ""}}, schema, schema)]


def test_a_file_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = diagnosis()
    file = tmp_path / "report.json"
    as_json.require_writable(str(file))
    as_json.write(made, str(file))
    as_json.write(made, "-")
    assert file.read_text(encoding="utf-8") == as_json.text(made) == capsys.readouterr().out
    assert [*tmp_path.iterdir()] == [file]


def test_a_file_that_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    for file, part in (
        (tmp_path, "is a folder"),
        ("", "is a folder"),
        (tmp_path / "no" / "x.json", "no folder"),
        ("--quiet", "no file"),
    ):
        with pytest.raises(StudyError, match=part):
            as_json.require_writable(str(file))
    with pytest.raises(StudyError, match="cannot write"):
        as_json.require_writable("/proc/x.json")
