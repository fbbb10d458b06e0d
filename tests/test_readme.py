"""What the README shows is what happens."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.estimators.corrections import registry
from jackpot_sim.studies import plugins
from jackpot_sim.sweep import records
from tests.documents import in_line, run

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, after: str = "") -> str:
    found = re.search(rf"```{language}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found, f"the README has no {language} block after {after!r}"
    return found.group(1)


def test_the_python_example_runs() -> None:
    namespace: dict[str, Any] = {}
    exec(block("python"), namespace)
    assert namespace["lam"].shape == (1,)


def test_the_correction_of_the_readme_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home, name in ((registry, "_REGISTRY"), (plugins, "_LOADED"), (plugins, "_DIGESTS")):
        monkeypatch.setattr(home, name, dict(getattr(home, name)))
    section = "### Your own correction"
    (tmp_path / "my_corrections.py").write_text(block("python", section), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    sweep, training, check = block("sh", section).strip().splitlines()
    assert run_line(sweep, *TINY.split(), "--quiet") == 0
    rows = records.load(tmp_path / "run")
    assert rows.groupby("estimator")["acceptance_rate"].mean()["gap-mask"] < 1
    assert run_line(training, "--dry-run") == 0
    monkeypatch.delitem(registry._REGISTRY, "gap-mask")  # the file is a module of its own there
    monkeypatch.syspath_prepend(tmp_path)
    exec(shlex.split(check)[2], {})
    sys.modules.pop("my_corrections")


TINY = "--env.kind top-k --env.k 1 --env.base.kind zipf --env.base.vocab 5 --seeds 1 --executor serial --out run"


def run_line(line: str, *options: str) -> int:
    """The exit code of a command of the README, with more options."""
    (words,) = in_line(line)
    return run([*words, *options])


def test_the_first_screen_shows_the_diagnosis_of_the_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jackpot_sim.diagnose.cli import main

    monkeypatch.setenv("COLUMNS", "100")
    assert main(shlex.split(block("sh"))[3:]) == 0
    shown = block("text").splitlines()
    assert len(shown) > 5
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[: len(shown)]] == shown
    assert len(README[: README.index("```text")].splitlines()) < 25


@pytest.mark.parametrize("framework", ["trl", "verl"])
def test_the_recorder_is_shown_as_its_module_has_it(framework: str) -> None:
    module = importlib.import_module(f"jackpot_sim.record.{framework}")
    assert module.__doc__ is not None
    shown = next(each for each in re.findall(r"```py\n(.*?)```", README, re.DOTALL) if f"record.{framework} " in each)
    lines = [line.partition("  #")[0] for line in shown.splitlines() if line]
    assert lines == [line[4:] for line in module.__doc__.splitlines() if line.startswith("    ")]


def test_every_format_and_every_field_of_the_diagnosis_is_named() -> None:
    from jackpot_sim.diagnose.results import Diagnosis
    from jackpot_sim.readers.formats import FORMATS

    section = README[README.index("## Diagnose your rollouts") : README.index("## Whole sequences")]
    listed = [name.lower() for line in section.splitlines() for name in re.findall(r"\*\*([\w-]+)\*\*", line)]
    assert listed == [name for name in listed if name in {each.name for each in FORMATS}]
    assert sorted(listed) == sorted(each.name for each in FORMATS)
    told = re.findall(r"`(\w+)`", section[section.index("prints: ") : section.index("`--out` adds")])
    assert set(told) <= set(Diagnosis.model_fields)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 4400


def test_the_study_example_is_a_study() -> None:
    import yaml

    from jackpot_sim.sweep import spec

    mapping = yaml.safe_load(block("yaml"))
    study = spec.parse(mapping)
    assert len(study.env) == 2
    assert len(study.estimators) == 5


def test_the_example_of_sequences_is_a_study() -> None:
    import yaml

    from jackpot_sim.sweep import spec

    study = spec.parse(yaml.safe_load(block("yaml", "## Whole sequences")))
    assert len(study.env) == 2
    assert len(study.estimators) == 7


def test_the_example_of_real_models_is_a_study() -> None:
    import yaml

    from jackpot_sim.sweep import spec

    study = spec.parse(yaml.safe_load(block("yaml", "## Real models")))
    assert [env.actor.kind for env in study.env] == [  # type: ignore[union-attr]
        *("quantized-weights", "quantized-weights", "precision", "checkpoint", "llama-cpp", "weight-noise")
    ]


def test_the_example_of_training_is_a_study() -> None:
    import yaml

    from jackpot_sim.training.study import of_mapping

    study = of_mapping(yaml.safe_load(block("yaml", "## Training")), {})
    assert (len(study.seeds), list(study.grid)) == (3, ["clipped", "free"])
    assert all(list(methods) == ["none", "tis", "jackpot", "budget"] for methods in study.grid.values())
    quick = of_mapping(yaml.safe_load(block("yaml", "## Training")), {}, quick=True)
    assert len(quick.runs) == 8


def test_the_python_example_of_training_names_what_there_is() -> None:
    code = block("py", "## Training")
    study_of, _, training = code.partition("for pair in")
    namespace: dict[str, Any] = {}
    exec(study_of, namespace)
    assert [run.id for run in namespace["study"].runs] == ["run.run.0"]
    assert namespace["reward"](["123", "1"], None) == [1.0, 0.8]
    assert "train(run" in training


def test_every_command_of_training_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own prompts and checkpoints stand in for those of the reader."""
    lines = re.findall(r"^python -m jackpot_sim\.training\b.*$", README.replace("\\\n", " "), re.MULTILINE)
    tried = [line.partition(" #")[0] for line in lines if "--plugin" not in line and "--help" not in line]
    assert len(tried) >= 5
    root = Path(__file__).parents[1]
    monkeypatch.chdir(tmp_path)
    rows = "".join(f'{{"prompt": "{each}", "answer": "b"}}\n' for each in range(20))
    (tmp_path / "MINE.jsonl").write_text(rows, encoding="utf-8")
    for name in ("POLICY", "ACTOR"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    for line in tried:
        told = line.replace("paper_figures/", f"{root}/paper_figures/")
        assert run_line(told, "--dry-run") == 0, line


def test_files_that_it_names_exist() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (root / target).exists(), target
    for module in set(re.findall(r"python -m ([\w.]+)", README)) - {"venv", "pytest"}:
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    figures = README[README.index("## Figures and tables") : README.index("## Test it")]
    names = {name for line in re.findall(r"^- .*$", figures, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)}
    assert len(names) > 15
    for name in names:
        assert any(root.glob(f"paper_figures/**/{name}.py")), name


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    command = block("sh", "<!-- the test command -->").strip()
    assert command.endswith("pytest -n 2")
    assert "constraints-cpu.txt" in command
