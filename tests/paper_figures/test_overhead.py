"""The figure of costs: drawn from records that are made up, and from those that ship with it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paper_figures import overhead, records
from paper_figures.__main__ import FIGURES

Captured = pytest.CaptureFixture[str]

SHARES = {("tis", ""): 0.1, ("jackpot", "bracket"): 0.5, ("jackpot", "kappa"): 4.0, ("jackpot", "exact"): 9.0}


def found(device: str = "cpu", vocabulary: int = 32_000, ours: float = 0.5) -> dict[str, Any]:
    """What the benchmark writes of one setting, with its share for each method."""
    setting = {"shape": "cpu-30m", "parameters": 30_000_000, "vocabulary": vocabulary, "device": device}
    setting |= {"precision": "float32", "batch": 4, "length": 128, "k": 20, "threads": 1}
    none = {"correction": "none", "way": "", "mode": "eager"}
    findings = [{"value": 0.5, "labels": {"figure": "step", **setting, **none}}]
    for (correction, way), share in SHARES.items():
        method = {"correction": correction, "way": way, "mode": "eager"}
        value = ours if way == "bracket" else share
        for figure, each in (("weights share", value), ("step / none", 1.01), ("memory / none", 1.02)):
            findings.append({"value": each, "labels": {"figure": figure, **setting, **method}})
    rollout = {"figure": "top-k at rollout", **setting, "correction": "jackpot", "way": "bracket", "mode": "eager"}
    compiled = findings[4] | {"labels": findings[4]["labels"] | {"mode": "compiled"}}  # type: ignore[operator]
    unlabelled: dict[str, Any] = {"value": 1.0, "labels": {}}
    findings += [{"value": 6.0, "labels": rollout}, compiled, unlabelled]
    return {"machine": {"processor": "A processor", "torch": "2"}, "findings": findings}


def write(folder: Path, *every: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, each in enumerate(every):
        (folder / f"overhead-{number}.json").write_text(json.dumps(each))
    return folder


def draw(given: Path, out: Path) -> int:
    return overhead.main(["--records", str(given), "--out", str(out)])


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(("ours", "code", "told"), [(0.5, 0, "agrees with"), (3.5, 1, "DOES NOT agree with")])
def test_the_verdict_follows_the_share(tmp_path: Path, capsys: Captured, ours: float, code: int, told: str) -> None:
    given = write(tmp_path / "records", found(), found(vocabulary=4096, ours=ours), found(device="cuda"))
    assert draw(given, tmp_path) == code
    shown = capsys.readouterr().out
    verdict = shown.rstrip().splitlines()[-1]
    assert verdict.startswith("VERDICT: ")
    assert told in verdict
    assert f"{'0.5' if code == 0 else '0.5 to 3.5'} % of a step" in verdict
    assert "κ·Z_k takes 4 %" in verdict
    assert "an exact Z takes 9 %" in verdict
    assert "at rollout takes 6 %" in verdict
    assert "…" not in shown
    assert shown.count("cpu-30m (cuda)") == 5


def test_the_claim_is_the_papers() -> None:
    assert records.published("overhead")["percent"].tolist() == [3]


def test_one_file_may_be_given_and_gives_the_same_bytes(tmp_path: Path, capsys: Captured) -> None:
    given = write(tmp_path / "records", found())
    assert draw(given, tmp_path / "first") == 0
    assert draw(given / "overhead-0.json", tmp_path / "again") == 0
    for kind in ("png", "pdf"):
        first, again = (tmp_path / each / f"overhead.{kind}" for each in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()


def test_what_ships_with_it_is_drawn(tmp_path: Path, capsys: Captured) -> None:
    """The measured records are of the model and the vocabularies that the text speaks of."""
    assert overhead.main(["--out", str(tmp_path)]) == 0
    assert "agrees with the paper's less than 3 %" in capsys.readouterr().out
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "overhead.pdf").read_bytes().startswith(b"%PDF")
    rows = overhead.load("overhead", None).rows
    assert {4096, 32_000, 151_936} <= set(rows.loc[rows["shape"] == "cpu-30m", "vocabulary"])


def _unlike() -> Iterator[tuple[str, str]]:
    """Files that are no records of a step, and what is said of each."""
    yield "nonsense", "is not what `python -m jackpot_sim.bench --out FILE` writes"
    yield "[]", "is not what"
    yield json.dumps({"machine": {}, "findings": []}), "is not what"
    another = copy.deepcopy(found())
    another["findings"] = [{"value": 1.0, "labels": {"estimator": "tis"}}]
    yield json.dumps(another), "holds no overhead of a GRPO step"
    another["findings"] = []
    yield json.dumps(another), "holds no overhead of a GRPO step"
    without = found()
    without["findings"] = [each for each in without["findings"] if each["labels"].get("way") != "bracket"]
    yield json.dumps(without), "hold no Jackpot with Z from the stored top-k"


@pytest.mark.parametrize(("text", "told"), list(_unlike()))
def test_files_that_do_not_fit_are_refused_in_one_sentence(
    tmp_path: Path, capsys: Captured, text: str, told: str
) -> None:
    (tmp_path / "overhead-x.json").write_text(text)
    assert draw(tmp_path / "overhead-x.json", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("overhead: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_files_and_settings_that_are_there_twice(tmp_path: Path, capsys: Captured) -> None:
    assert draw(tmp_path / "nowhere.json", tmp_path) == 2
    assert "cannot read" in capsys.readouterr().err
    assert draw(write(tmp_path / "empty"), tmp_path) == 2
    assert "holds no overhead-*.json" in capsys.readouterr().err
    assert draw(write(tmp_path / "twice", found(), found()), tmp_path) == 2
    assert "cpu-30m at vocabulary 32,000 on cpu twice" in capsys.readouterr().err


def test_help_says_what_its_records_are(capsys: Captured) -> None:
    assert overhead.main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "jackpot_sim.bench" in shown
    assert "--records" in shown
    assert FIGURES["overhead"] is overhead.main
