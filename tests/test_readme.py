"""The README is one screen, and what it shows is what happens; its commands are tried with those of the other pages."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from jackpot_sim import estimators
from jackpot_sim.sweep import spec
from jackpot_sim.training.study import of_mapping
from tests.cases import each
from tests.documents import Block, blocks, in_line, run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def marked(mark: str, path: Path = ROOT / "README.md") -> Block:
    (block,) = [each for each in blocks(path) if each.mark == mark]
    return block


def test_the_readme_is_one_screen() -> None:
    assert len(README.split()) <= 700
    assert len(README.splitlines()) <= 100
    assert README.count("![") == 1


def test_the_two_commands_install_and_run() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints-cpu.txt "
    assert marked("the main command").text == f"{install}. && .venv/bin/python -m jackpot_sim.sweep\n"
    assert marked("the test command").text == f"{install}-e '.[test]' && .venv/bin/python -m pytest -n 2\n"


def test_the_first_block_diagnoses_and_its_output_follows() -> None:
    install, first, second, *_ = blocks(ROOT / "README.md")
    assert install.mark == "not run: installs packages"
    assert (first.text, first.mark) == ("python -m jackpot_sim.diagnose --example\n", "runs")
    assert second.mark == "prints"
    assert len(second.text.splitlines()) > 5


def test_every_page_is_reached_from_the_index_and_from_the_site() -> None:
    index, config = page("index"), yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = {path.name for path in DOCS.glob("*.md")}
    assert set(re.findall(r"\]\((\w[\w-]*\.md)", index)) == pages - {"index.md"}
    assert {name for part in config["nav"] for names in part.values() for name in names} == pages
    assert config["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript"} & set(config)


def test_an_effect_that_is_told_is_one_of_the_claims() -> None:
    """The page of claims is what the records give; the others repeat it."""
    claims = page("claims")
    told = re.compile(r"[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]")
    for text in (README, page("choosing"), page("faq")):
        found = told.findall(" ".join(text.split()))
        assert found
        for effect in found:
            assert effect in claims, effect


# --- the pages --------------------------------------------------------------------------------------------


@each("framework", ["trl", "verl"])
def test_the_recorder_is_shown_as_its_module_has_it(framework: str) -> None:
    module = importlib.import_module(f"jackpot_sim.record.{framework}")
    assert module.__doc__ is not None
    shown = [block.text for name in ("diagnosing", "trainers") for block in blocks(DOCS / f"{name}.md")]
    (text,) = [text for text in shown if f"jackpot_sim.record.{framework} " in text]
    lines = [line.partition("  #")[0] for line in text.splitlines() if line]
    assert lines == [line[4:] for line in module.__doc__.splitlines() if line.startswith("    ")]


def test_every_format_every_cause_and_every_field_of_the_diagnosis_is_named() -> None:
    from jackpot_sim.diagnose.results import CauseName, Diagnosis
    from jackpot_sim.readers.formats import FORMATS

    text = page("diagnosing")
    section = text[text.index("## Formats") : text.index("A loop of your own")]
    listed = [name.lower() for name in re.findall(r"\*\*([\w-]+)\*\*", section)]
    assert sorted(listed) == sorted(each.name for each in FORMATS)
    in_the_readme = README[README.index("It reads dumps of") : README.index("([all formats]")].lower()
    assert all(name in in_the_readme for name in listed)
    assert sorted(re.findall(r"^\| ([a-z-]+) \| ", text, re.MULTILINE)[1:]) == sorted(CauseName)
    told = re.findall(r"`(\w+)`", text[text.index("prints: ") : text.index("`--out` adds")])
    assert told
    assert set(told) <= set(Diagnosis.model_fields)


def test_every_preset_stands_on_its_page_with_what_it_becomes() -> None:
    text = page("frameworks")
    presets = estimators.presets().values()
    for preset in presets:
        becomes = f"`{preset.becomes}`" if preset.parts else "–"
        assert f"| `{preset.name}` | {becomes} |" in text, preset.name
    assert len(re.findall(r"^\| `[\w-]+:", text, re.MULTILINE)) == len(presets)


def test_the_configurations_are_studies() -> None:
    """Those that can be run are run; that of real models names checkpoints of a hub."""
    real = spec.parse(yaml.safe_load(marked("file: real.yaml", DOCS / "real-models.md").text))
    assert [env.actor.kind for env in real.env] == [  # type: ignore[union-attr]
        *("quantized-weights", "quantized-weights", "precision", "checkpoint", "llama-cpp", "weight-noise")
    ]
    mine = yaml.safe_load(marked("file: mine.yaml", DOCS / "training.md").text)
    study = of_mapping(mine, {})
    assert (len(study.seeds), list(study.grid)) == (3, ["clipped", "free"])
    assert all(list(methods) == ["none", "tis", "jackpot", "budget"] for methods in study.grid.values())
    assert len(of_mapping(mine, {}, quick=True).runs) == 8


def test_the_python_example_of_training_names_what_there_is() -> None:
    (block,) = [block for block in blocks(DOCS / "training.md") if block.language == "py"]
    study_of, _, training = block.text.partition("for pair in")
    namespace: dict[str, object] = {}
    exec(study_of, namespace)
    assert [run.id for run in namespace["study"].runs] == ["run.run.0"]  # type: ignore[attr-defined]
    assert namespace["reward"](["123", "1"], None) == [1.0, 0.8]  # type: ignore[operator]
    assert "train(run" in training


def test_every_command_of_training_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own prompts and checkpoints stand in for those of the reader."""
    lines = re.findall(r"^python -m jackpot_sim\.training\b.*$", page("training").replace("\\\n", " "), re.MULTILINE)
    tried = [line for line in lines if not re.search("--help|--config mine|smollm2", line)]
    assert len(tried) >= 4
    monkeypatch.chdir(tmp_path)
    rows = "".join(f'{{"prompt": "{each}", "answer": "b"}}\n' for each in range(20))
    (tmp_path / "MINE.jsonl").write_text(rows, encoding="utf-8")
    for name in ("POLICY", "ACTOR"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    for line in tried:
        (words,) = in_line(line.replace("paper_figures/", f"{ROOT}/paper_figures/"))
        assert run([*words, "--dry-run"]) == 0, line


def test_modules_and_figures_that_the_pages_name_are_there() -> None:
    for path in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for module in set(re.findall(r"python -m ([a-z_]+(?:\.\w+)*)", path.read_text(encoding="utf-8"))):
            if module.split(".")[0] in ("jackpot_sim", "analysis", "paper_figures", "tests"):
                found = ROOT / module.replace(".", "/")
                assert found.with_suffix(".py").exists() or (found / "__main__.py").exists(), f"{path.name}: {module}"
    listed = re.findall(r"^- .*(?:\n  .*)*$", page("figures"), re.MULTILINE)
    names = {name for line in listed for name in re.findall(r"`(\w+)`", line)}
    assert len(names) > 15
    for name in names:
        assert any(ROOT.glob(f"paper_figures/**/{name}.py")), name
