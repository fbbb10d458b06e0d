"""Dotted options become nested mappings, and what says nothing or too much is refused."""

from __future__ import annotations

from typing import Any

import pytest

from jackpot_sim.studies.dotted import split_dotted
from jackpot_sim.studies.errors import StudyError

ROOTS = {"actor", "update", "correction", "batch_size"}


@pytest.mark.parametrize(
    ("line", "found", "rest"),
    [
        (
            "--actor.kind frozen --update.clip null --correction tis",
            {"actor": {"kind": "frozen"}, "update": {"clip": None}, "correction": "tis"},
            "",
        ),
        ("--correction tis obrs --quiet", {"correction": ["tis", "obrs"]}, "--quiet"),
        ("--correction=tis --out x", {"correction": "tis"}, "--out x"),
        ("--correction=a=b.c", {"correction": "a=b.c"}, ""),
        ("--actor.base.k-max -1 None", {"actor": {"base": {"k_max": ["-1", None]}}}, ""),
        ("--batch-size 3", {"batch_size": "3"}, ""),
        ("--actors x --actors.kind y --other.kind z", {}, "--actors x --actors.kind y --other.kind z"),
        ("a.b --out=./x.y -c ./z.w", {}, "a.b --out=./x.y -c ./z.w"),
    ],
)
def test_options_below_the_roots_are_split_off(line: str, found: dict[str, Any], rest: str) -> None:
    assert split_dotted(line.split(), ROOTS) == (found, rest.split())


def test_without_roots_every_option_with_a_dot_is_split_off() -> None:
    assert split_dotted(["--out=./x.y", "--a.b", "1", "--c", "2"], None) == (
        {"a": {"b": "1"}},
        ["--out=./x.y", "--c", "2"],
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--actor", "--actor needs a value"),
        ("--actor.kind --quiet", "--actor.kind needs a value"),
        ("--actor. x", "--actor.: a name is missing beside a dot"),
        ("--actor..kind x", "--actor..kind: a name is missing beside a dot"),
        ("--correction tis --correction is", "--correction is given twice"),
        ("--actor.kind x --actor.kind y", "--actor.kind is given twice"),
        ("--correction.kind tis --correction tis", "--correction is given twice"),
        (
            "--correction tis --correction.clip 2",
            "--correction.clip: correction is given both a value and fields: give the value as its kind or path too",
        ),
    ],
)
def test_options_that_say_nothing_or_too_much(line: str, sentence: str) -> None:
    with pytest.raises(StudyError) as caught:
        split_dotted(line.split(), ROOTS)
    assert str(caught.value) == sentence
