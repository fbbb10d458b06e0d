"""Command lines: the decorated function is the one that runs, and each failure is one sentence with its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App

from jackpot_sim.commands import FLAG, UNPARSED, answer, app_of
from jackpot_sim.requirements import RequirementError


def app_that(raises: BaseException | None = None) -> App:
    app = app_of("some.module", "Tests a command.")

    @app.default
    def run(
        *paths: Path,
        config: Path | None = None,
        loud: Annotated[bool, FLAG] = False,
        fields: Annotated[Mapping[str, object] | None, UNPARSED] = None,
    ) -> int:
        """Run.

        Args:
            paths: Files.
            config: A study.
            loud: Print.
            fields: Set by the line's split.
        """
        if raises is not None:
            raise raises
        if loud:
            print(paths, config, fields)
        return len(paths)

    return app


def split(tokens: list[str]) -> tuple[dict[str, object], list[str]]:
    return {"fields": {"x": tokens[-1]}}, tokens[:-1]


def test_options_and_what_is_split_off_reach_the_function_itself(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["a", "b", "--config", "c.yaml", "--loud", "rest"]
    assert answer(app_that(), "test", line, split=split) == 2
    assert capsys.readouterr().out == f"{(Path('a'), Path('b'))} c.yaml {{'x': 'rest'}}\n"


def test_help_is_that_of_the_function_and_hides_what_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(app_that(ValueError()), "test", ["--loud", "-h"]) == 0
    printed = capsys.readouterr().out
    assert "python -m some.module" in printed
    assert "A study." in printed
    assert "fields" not in printed


@pytest.mark.parametrize(
    ("raised", "options", "code", "sentence"),
    [
        (KeyError("two\nlines"), [], 2, "test: 'two\\nlines'"),
        (RequirementError("a  package is missing"), [], 2, "test: a package is missing"),
        (OSError(28, "No space left on device"), [], 2, "test: the system refuses: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), [], 130, "test: interrupted; it goes on"),
        (None, ["--quiet"], 2, "(see --help)"),
        (None, ["--quiet", "s.yaml"], 2, "(give a study's file as --config s.yaml)"),
    ],
)
def test_a_failure_is_one_sentence(
    raised: BaseException | None, options: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(app_that(raised), "test", options, failures=(KeyError,), again="it goes on") == code
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert sentence in error


def test_an_error_that_is_a_bug_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        answer(app_that(ZeroDivisionError()), "test", [])
