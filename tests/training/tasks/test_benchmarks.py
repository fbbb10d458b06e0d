"""Benchmarks read from local copies with the columns that are published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.requirements import RequirementError
from jackpot_sim.training.tasks.benchmarks import PUBLISHED, Benchmark, Name
from jackpot_sim.training.tasks.tables import read_rows
from tests.packages import without

pytest.importorskip("math_verify")
datasets = pytest.importorskip("datasets")

ROWS: dict[Name, list[dict[str, Any]]] = {
    Name.GSM8K: [
        {"question": f"{at} thousand and one?", "answer": f"So {at}*1000=<<{at}*1000={at}000>>{at}000\n#### {at},001"}
        for at in range(1, 11)
    ],
    Name.MATH_500: [
        {
            "problem": f"Halve {at}.",
            "solution": f"It is $\\boxed{{\\frac{{{at}}}{{2}}}}$.",
            "answer": f"\\frac{{{at}}}{{2}}",
            "level": 1,
        }
        for at in range(1, 11)
    ],
    Name.AMC: [{"id": at, "problem": f"Twice {at}?", "answer": 2.0 * at, "url": ""} for at in range(1, 11)],
    Name.AIME: [
        {"id": at, "problem": f"What is {at}?", "solution": "Look.", "answer": f"{at:03d}"} for at in range(1, 11)
    ],
}
LAST = {Name.GSM8K: "10001", Name.MATH_500: "\\frac{10}{2}", Name.AMC: "20", Name.AIME: "010"}
WORKING = {
    Name.GSM8K: "So 10*1000=10000\n\\boxed{10001}",
    Name.MATH_500: "It is $\\boxed{\\frac{10}{2}}$.",
    Name.AMC: None,
    Name.AIME: "Look.\n\\boxed{010}",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def stored(form: str, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in one of the forms that are read."""
    path = folder / f"set{form if form.startswith('.') else ''}"
    if form == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    table = datasets.Dataset.from_list(rows)
    if form == ".parquet":
        table.to_parquet(str(path))
    elif form == "saved":
        table.save_to_disk(str(path))
    else:
        datasets.DatasetDict({"train": table, "test": table.select([0, 1])}).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("name", Name)
@pytest.mark.parametrize("form", [".jsonl", ".parquet", "saved", "splits"])
def test_every_set_is_read_in_every_form(name: Name, form: str, tmp_path: Path) -> None:
    path = stored(form, tmp_path, ROWS[name])
    task = Benchmark(name=name, path=path, split="train" if form == "splits" else None)
    held = task.held_out(1)
    assert [problem.answer for problem in held] == [LAST[name]]
    assert task.solution(held[0]) == WORKING[name]
    drawn = task.problems(np.random.default_rng(0), 9)
    assert len({problem.answer for problem in (*drawn, *held)}) == 10
    solutions = [task.solution(problem) or f"\\boxed{{{problem.answer}}}" for problem in drawn]
    assert task.rewards(solutions, drawn).tolist() == [1.0] * 9
    assert task.rewards([*solutions[1:], solutions[0]], drawn).tolist() == [0.0] * 9


def test_the_prompt_is_a_message_or_a_text(tmp_path: Path) -> None:
    path = stored(".jsonl", tmp_path, ROWS[Name.AMC])
    (chat,) = Benchmark(name=Name.AMC, path=path).held_out(1)
    assert chat.prompt.messages is not None
    assert chat.prompt.messages[0]["role"] == "user"
    assert chat.prompt.messages[0]["content"].startswith("Twice 10?\nReason step by step")
    (text,) = Benchmark(name=Name.AMC, path=path, chat=False, prompt_template="Q: {problem} {A}:").held_out(1)
    assert text.prompt.text == "Q: Twice 10? {A}:"


def test_a_split_of_its_own_is_held_out_and_what_it_holds_is_not_trained_on(tmp_path: Path) -> None:
    task = Benchmark(name=Name.GSM8K, path=stored("splits", tmp_path, ROWS[Name.GSM8K]), held_out_split="test")
    assert [problem.answer for problem in task.held_out(2)] == ["1001", "2001"]
    drawn = {problem.answer for problem in task.problems(np.random.default_rng(0), 200)}
    assert drawn == {f"{at}001" for at in range(3, 11)}
    assert task.held_out(3) == task.held_out(2)
    assert task.different == 8


def test_another_file_is_held_out_and_the_limit_is_of_training(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [stored(".jsonl", tmp_path, ROWS[Name.AMC][:8]), stored(".parquet", tmp_path / "b", ROWS[Name.AMC][8:])]
    task = Benchmark(name=Name.AMC, path=paths[0], held_out_path=paths[1], limit=3)
    assert [problem.answer for problem in task.held_out(2)] == ["18", "20"]
    assert {problem.answer for problem in task.problems(np.random.default_rng(0), 50)} == {"2", "4", "6"}


def test_the_published_place_is_asked_where_there_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(*arguments: Any) -> Any:
        asked.append(arguments)
        table = datasets.Dataset.from_list(ROWS[Name.GSM8K])
        return datasets.DatasetDict({"test": table.select([0]), "train": table})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [problem.answer for problem in Benchmark(name=Name.GSM8K).held_out(1)] == ["10001"]
    assert Benchmark(name=Name.GSM8K, path="someone/copy").held_out(1)
    assert asked == [("openai/gsm8k", "main"), ("someone/copy", None)]
    assert set(PUBLISHED) == set(Name)


@pytest.mark.parametrize(
    ("name", "row", "error"),
    [
        (
            Name.GSM8K,
            {"problem": "a", "answer": "#### 1"},
            r"row 2: no column 'question' \(there is 'problem', 'answer'\)",
        ),
        (Name.GSM8K, {"question": "a", "answer": "1"}, "row 2: 'answer' does not end in #### and a number"),
        (Name.GSM8K, {"question": "a", "answer": "b ####"}, "row 2: 'answer' has no answer"),
        (Name.AMC, {"problem": "a"}, r"row 2: no column 'answer' \(there is 'problem'\)"),
        (Name.AMC, {"problem": "a", "answer": None}, "row 2: 'answer' is empty"),
        (Name.AIME, {"problem": " ", "answer": 1}, "row 2: 'problem' is empty"),
        (Name.AIME, {}, r"row 2: no column 'problem' \(there is nothing\)"),
    ],
)
def test_a_row_that_lacks_something_is_named(name: Name, row: dict[str, Any], error: str, tmp_path: Path) -> None:
    path = stored(".jsonl", tmp_path, [ROWS[name][0], row])
    with pytest.raises(ValueError, match=f"{path}: {error}"):
        Benchmark(name=name, path=path).held_out(1)


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, empty, listed = (tmp_path / f"{each}.jsonl" for each in ("broken", "empty", "listed"))
    broken.write_text("{")
    empty.write_text("\n")
    listed.write_text("[1]")
    splits = stored("splits", tmp_path, ROWS[Name.AMC])
    for task, error in (
        (Benchmark(name=Name.AMC, path=tmp_path / "none"), "none: cannot read .*: there is no such folder, nor a"),
        (Benchmark(name=Name.AMC, path=str(tmp_path / "none")), "there is no such folder, nor a .jsonl or .parquet"),
        (Benchmark(name=Name.AMC, path=tmp_path / "none.jsonl"), "none.jsonl: cannot read the data set"),
        (Benchmark(name=Name.AMC, path=broken), "broken.jsonl: cannot read the data set"),
        (Benchmark(name=Name.AMC, path=empty), "empty.jsonl: there is no row"),
        (Benchmark(name=Name.AMC, path=listed), "a line holds no JSON object"),
        (
            Benchmark(name=Name.AMC, path=broken.with_name("empty.jsonl"), split="x"),
            "it has no splits, and split is 'x'",
        ),
        (Benchmark(name=Name.AMC, path=splits, split="x"), "there is no split 'x', only 'train', 'test': name one"),
        (Benchmark(name=Name.AMC, path=splits, held_out_split="x"), "there is no split 'x'"),
        (Benchmark(name=Name.AMC, path=splits, held_out_split="train"), "no problem is left to train on"),
    ):
        with pytest.raises(ValueError, match=error):
            task.held_out(1)
    without(monkeypatch, "datasets")
    with pytest.raises(RequirementError, match="needs datasets, which is missing: pip install"):
        read_rows(splits, split=None, usual_split="train", subset=None, limit=None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "imo"}, "'imo' is not a valid Name"),
        ({"limit": 0}, "limit must be an integer of at least 1"),
        ({"held_out_share": 1.0}, r"held_out_share must lie in \[0, 1\)"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ({"prompt_template": "Solve."}, "prompt_template must hold {problem} once, got 'Solve.'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Benchmark(**{"name": "amc", **options})
    with pytest.raises(ValueError, match="give one problem for every completion"):
        Benchmark(name=Name.AMC).rewards(["1"], [])
