"""Help in pages: a screen of options, a page for each chapter and kind, and one sentence for a name that is none."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import pytest

from jackpot_sim import help_pages
from jackpot_sim.help_pages import Chapter, HelpError, filled, of_docstring, page
from tests.cases import each

Captured = pytest.CaptureFixture[str]
CHAPTERS = [
    Chapter("laws", "which there are", "One\ntwo.\n\n* a\n* b", {"zipf": "zipf, a law", "both": "both, a law"}),
    Chapter("tasks", "what is asked", "Sums.", {"both": "both, a task"}),
]


@each("name", ["sweep", "training", "diagnose"])
def test_the_short_help_is_a_screen_and_names_its_pages(
    name: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module = importlib.import_module(f"jackpot_sim.{name}.cli")
    assert module.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    told = {line.split()[0] for line in lines if line.startswith("  ") and line.strip()}
    for option in module.app.assemble_argument_collection():
        assert not option.show or option.name in told
    pages = lines[lines.index("More, with --help NAME:") + 1 :]
    for chapter in (line.split()[0] for line in pages if line[2:3].strip() and line.split()[0] != "KIND"):
        assert module.main(["--help", chapter]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@each(
    "command, kind, part",
    [
        ("sweep", "logit-noise", "σ·N(0, 1)"),
        ("sweep", "jackpot", "c1 [2.0]"),
        ("sweep", "verl:decoupled_token_is", "becomes tis(clip=2)"),
        ("sweep", "hf", "top_p [1.0]: the mass of the nucleus"),
        ("training", "addition", "digits [3]: digits of each operand"),
        ("training", "update", "clip [0.2]: "),
        ("training", "tis", "clip [2.0]"),
    ],
)
def test_a_kind_has_a_page_from_its_docstring(command: str, kind: str, part: str, capsys: Captured) -> None:
    module = importlib.import_module(f"jackpot_sim.{command}.cli")
    assert module.main(["--seeds", "1", "--help", kind]) == 0
    assert part in " ".join(capsys.readouterr().out.split())


def test_a_name_that_is_no_page_is_one_sentence(capsys: Captured) -> None:
    module = importlib.import_module("jackpot_sim.sweep.cli")
    assert module.main(["--help", "jackpt"]) == 2
    assert capsys.readouterr() == ("", "sweep: there is no help on 'jackpt': did you mean jackpot?\n")
    with pytest.raises(HelpError, match="--help lists the chapters"):
        page("xyz", CHAPTERS, 80)


def test_kinds_of_one_name_are_told_together() -> None:
    assert page("both", CHAPTERS, 80) == "both, a law\n\nboth, a task"
    assert page("laws", CHAPTERS, 80) == "One two.\n\n* a\n* b"


def test_paragraphs_are_filled_and_items_stay_lines() -> None:
    assert filled("a b c d", 3) == "a b\nc d"
    assert filled("  item of words", 11) == "  item of\n    words"


@dataclass
class Base:
    """A base."""

    shared: int = 1
    """What all
    have."""


@dataclass
class Made(Base):
    """A thing.

    More of it.

    Attributes:
        size: how large
            it is.

    Raises:
        ValueError: it is too large.
    """

    size: int = 2


def test_a_docstring_gives_prose_and_fields() -> None:
    told = of_docstring(Made, {"shared": "1", "size": "2", "bare": ""})
    assert told == (
        "A thing.\n\nMore of it.\n\n"
        "Fields [default]:\n  shared [1]: What all have.\n  size [2]: how large it is.\n  bare"
    )


def test_the_first_sentence_ends_at_a_stop_and_not_at_an_abbreviation() -> None:
    assert help_pages.first_sentence("One of them, e.g. MSE. Two.") == "One of them, e.g. MSE."
    assert help_pages.first_sentence("No stop") == "No stop"
