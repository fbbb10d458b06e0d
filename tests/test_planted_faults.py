"""Planted faults are known by what they change, and their verdicts outlive a kill."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import faults, planted_faults
from tests.faults import Change, chosen, described, faults_of, known_equivalent, planted

MODULE = Path("jackpot_sim/some/module.py")
SOURCE = "def larger(x, y):\n    if x > y:\n        return x\n    return y\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one module."""
    (tmp_path / MODULE).parent.mkdir(parents=True)
    (tmp_path / MODULE).write_text(SOURCE)
    for module in (faults, planted_faults):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def changes_of(root: Path) -> set[Change]:
    return {described(fault, root)[0] for fault in faults_of(MODULE)}


def test_a_fault_is_known_by_its_statement_whatever_its_line(root: Path) -> None:
    first = Change(str(MODULE), "larger", "if x > y:", "if x >= y:")
    found = changes_of(root)
    assert first in found
    (root / MODULE).write_text("# a comment\nNAME = 'more'\n\n\n" + SOURCE)
    assert changes_of(root) == found


def test_a_planted_fault_is_what_it_says(root: Path) -> None:
    for fault in faults_of(MODULE):
        change, _ = described(fault, root)
        text = planted(SOURCE, fault)
        assert change.before in ast.unparse(ast.parse(SOURCE))
        assert change.after in text
        assert text != ast.unparse(ast.parse(SOURCE))


def test_equivalent_faults_are_not_drawn(root: Path) -> None:
    one, *others = sorted(changes_of(root))
    drawn = {described(fault, root)[0] for fault in chosen([MODULE], 99, 0, frozenset([one]))}
    assert drawn == set(others)


def test_verdicts_outlive_a_kill_and_not_a_change(root: Path) -> None:
    (root / "tests/some").mkdir(parents=True)
    tests = root / "tests/some/test_module.py"
    tests.write_text("def test_it(): ...\n")
    caught, missed = faults_of(MODULE)[:2]
    file = root / "results.jsonl"
    results = planted_faults.Results(file)
    results.add(caught, "caught", root)
    results.add(missed, "UNCAUGHT", root)
    file.write_text(file.read_text() + '{"change": ["jackpot')  # cut short
    again = planted_faults.Results(file)
    assert [again.verdict(fault) for fault in (caught, missed)] == ["caught", "UNCAUGHT"]
    tests.write_text("def test_more(): ...\n")
    assert [again.verdict(fault) for fault in (caught, missed)] == ["caught", None]
    (root / MODULE).write_text(SOURCE.replace("return y", "return y + 0"))
    assert again.verdict(caught) is None


def test_too_small_a_share_ends_with_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "tests/some").mkdir(parents=True)
    (root / "tests/some/test_module.py").write_text("")
    planted_here = faults_of(MODULE)[:2]
    results = planted_faults.Results(None)
    for fault, verdict in zip(planted_here, ("time", "UNCAUGHT"), strict=True):
        results.add(fault, verdict, root)
    assert planted_faults.tell(planted_here, results, at_least=0.5) == 0
    assert planted_faults.tell(planted_here, results, at_least=0.51) == 1
    told = capsys.readouterr().out
    assert "1 caught, 50.0%" in told
    assert f"survivor: {described(planted_here[1], root)[0]}" in told


def test_every_known_equivalent_fault_still_has_its_statement() -> None:
    known = known_equivalent()
    assert known
    for change, reason in known.items():
        nodes: list[ast.AST] = [ast.parse((faults.ROOT / change.module).read_text())]
        for name in filter(None, change.function.split(".")):
            nodes = [node for top in nodes for node in ast.walk(top) if getattr(node, "name", None) == name]
        heads = {faults.head(node) for top in nodes for node in ast.walk(top) if isinstance(node, ast.stmt)}
        assert change.before in heads, f"{change}: gone, so leave it out of the list"
        assert change.before != change.after
        assert reason.endswith(".")


def test_the_default_covers_core_the_estimators_and_the_objective() -> None:
    names = {str(path) for path in planted_faults.default_modules()}
    for name in ("core/backend", "core/weighted_laws", "estimators/mismatch/clusters", "training/objective/loss"):
        assert f"jackpot_sim/{name}.py" in names
