"""What the pages show is what there is: their commands are parsed or run, their Python is resolved or run."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from jackpot_sim.estimators.corrections import registry
from jackpot_sim.studies import plugins
from tests import documents
from tests.cases import each
from tests.documents import REASONS, Block, blocks, commands, faults, in_line, misspelt, parse, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("sh", "bash", "console")]
PYTHON_NAMES = ("python", "py")
PYTHON = [block for block in BLOCKS if block.language in PYTHON_NAMES]
Captured = pytest.CaptureFixture[str]


@each("block", SHELL)
def test_every_command_is_one(block: Block, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for words in commands(block):
        assert parse(words) == 0, f"{block}: {' '.join(words)}: {capsys.readouterr().err}"
        assert misspelt(words) == [], f"{block}: {' '.join(words)}"


@each("block", PYTHON)
def test_every_piece_of_python_resolves(block: Block) -> None:
    assert list(faults(block)) == [], str(block)


@each("block", SHELL + PYTHON)
def test_a_block_runs_or_says_why_it_does_not(block: Block) -> None:
    if block.runs or block.file or block.yours:
        assert block.file or block.yours or block.language in PYTHON_NAMES or commands(block), f"{block} runs nothing"
    else:
        assert block.reason in REASONS, f"{block}: {block.mark!r} is no reason; there are {', '.join(REASONS)}"
        assert re.search(REASONS[block.reason], block.text, re.IGNORECASE), f"{block}: not for want of {block.reason}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    follow(page, tmp_path, monkeypatch, capsys)


@pytest.mark.nightly
@pytest.mark.parametrize("page", [page for page in PAGES if any(each.nightly for each in blocks(page))])
def test_a_page_does_all_that_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    follow(page, tmp_path, monkeypatch, capsys, nightly=True)


def follow(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, *, nightly: bool = False
) -> None:
    """Does what a page says, block by block, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "100")
    printed, latest = "", False
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.runs:
            latest = nightly or not block.nightly
            if latest:
                printed = _printed_by(block, capsys)
        elif block.mark == "prints" and latest:
            lines = iter([line.rstrip() for line in printed.splitlines()])
            missing = [line for line in block.text.splitlines() if line.rstrip() not in lines]
            assert missing == [], f"{block}: printed was\n{printed}"


def _printed_by(block: Block, capsys: Captured) -> str:
    """Runs a block; what it prints. What it registers, and the modules of the folder, are forgotten after it."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        for home, name in ((registry, "_REGISTRY"), (plugins, "_LOADED"), (plugins, "_DIGESTS")):
            patch.setattr(home, name, dict(getattr(home, name)))
        before = set(sys.modules)
        if block.language in PYTHON_NAMES:
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
        for words in commands(block) if block in SHELL else ():
            alone = {"--presets", "--columns", "--help", "--executor"} & set(words)
            study = words[2:3] in (["jackpot_sim.sweep"], ["jackpot_sim.training"]) and not alone
            # Cells and runs are the same in this process, where no worker has to start.
            code = run([*words, *(["--executor", "serial"] if study else [])])
            assert code in (0, 1), f"{block}: {' '.join(words)}: {capsys.readouterr().err}"
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(Path.cwd())):
                del sys.modules[name]
    return capsys.readouterr().out


@each("block", [block for block in BLOCKS if block.language in documents.READ])
def test_every_configuration_can_be_read(block: Block) -> None:
    assert documents.READ[block.language](block.text) is not None, str(block)


@each("page", PAGES)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@each("block", SHELL)
def test_an_extra_that_is_to_be_installed_is_one(block: Block) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"(?:'\.|jackpot-sim)\[([\w,-]+)\]", block.text):
        assert set(named.split(",")) <= set(extras), f"{block}: {named}"


def test_a_page_is_read_as_it_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n<!-- yours: rows -->\n```py\nprint(rows)\n```\n\n"
        "  ```console\n  $ jackpot-sim sweep \\\n      --seeds 1 | tee x; echo python -m nothing\n  output\n  ```\n\n"
        "```bash\nX=1 srun -N 2 python3.12 -m jackpot_sim.sweep --seeds 3 > log 2>&1 # -m jackpot_sim.training\n```\n"
    )
    python, console, shell = blocks(page)
    assert (python.line, python.yours, python.text) == (4, {"rows"}, "print(rows)\n")
    assert commands(console) == [["jackpot-sim", "sweep", "--seeds", "1"]]
    assert commands(shell) == [["python3.12", "-m", "jackpot_sim.sweep", "--seeds", "3"]]


@each(
    "text, fault",
    [
        ("print(rows)", "rows is nowhere defined"),
        ("from jackpot_sim.record import Recoder", "jackpot_sim.record has no Recoder"),
        ("import jackpot_sim.recorder", "jackpot_sim.recorder cannot be imported: "),
        ("from json import dump, lood", "json has no lood"),
        ("from jackpot_sim.record import Recorder\nRecorder('x', rnk=1)", "Recorder: "),
    ],
)
def test_a_fault_in_python_is_seen(text: str, fault: str) -> None:
    (found,) = faults(Block(Path("page.md"), 1, "py", text, ""))
    assert found.startswith(fault)


def test_sound_python_has_no_fault() -> None:
    text = "import nowhere\nfrom nowhere import x\nfrom jackpot_sim import record\n[i for i in x]\nrecord.Recorder('a')"
    assert list(faults(Block(Path("page.md"), 1, "py", text, ""))) == []


@each("line", ["jackpot-sim sweep --sedes 3", "jackpot-sim swep", "python -m jackpot_sim.diagnose --keep x"])
def test_a_fault_in_a_command_is_seen(line: str, capsys: Captured) -> None:
    (words,) = in_line(line)
    assert parse(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


@each("line", ["jackpot-sim train --actor.knd stale", "python -m jackpot_sim.sweep --env.base.vocabulary 3"])
def test_a_field_that_is_none_is_seen(line: str) -> None:
    (words,) = in_line(line)
    assert len(misspelt(words)) == 1
