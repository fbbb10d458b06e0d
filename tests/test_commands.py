"""Command lines: the decorated function is the one that runs, and each failure is one sentence with its exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from cyclopts import App, Parameter
from rich import box
from rich.table import Table
from rich.text import Text

from jackpot_sim.commands import FLAG, UNPARSED, WIDE, answer, app_of, console
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


# --- numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("3", 3), ("2.0", 2), ("1e3", 1000), ("2.5E2", 250), ("-1e1", -10)),
        *((text, None) for text in ("1.5", "1e-3", "x", "", ".0")),
    ],
)
def test_a_count_is_a_whole_number_however_it_is_written(
    text: str, number: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_of("some.module", "Tests numbers.", default_parameter=Parameter(consume_multiple=True))
    got: list[object] = []

    @app.default
    def run(*, n: int | None = None, several: list[int] | None = None, size: float = 0.5) -> int:
        """Run."""
        got.extend([n, several, size])
        return 0

    wanted = 0 if number is not None else 2
    assert answer(app, "test", ["--n", text, "--size", "1.5"]) == wanted
    assert answer(app, "test", ["--several", "7", text]) == wanted
    if number is None:
        sentences = capsys.readouterr().err.splitlines()
        assert len(sentences) == 2
        assert all(f"{text!r} is no whole number" in sentence for sentence in sentences)
    assert got == ([number, None, 1.5, None, [7, number], 0.5] if number is not None else [])


# --- encodings and widths ---------------------------------------------------------------------------------


def shown_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *shown: object, raises: Exception | None = None) -> str:
    """What a command prints to a stream of an encoding, on which a sign that it lacks is an error."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    app = app_of("some.module", "Tests λ.")

    @app.default
    def run() -> int:
        """Run."""
        if raises is not None:
            raise raises
        output = console()
        for each in shown:
            output.print(each)
        print(*(each for each in shown if isinstance(each, str)))
        return 0

    assert answer(app, "test", [], failures=(ValueError,)) == (0 if raises is None else 2)
    for stream in streams:
        stream.flush()
    return "".join(stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]


SIGNS = "KL(p‖q) ≤ 0.1 ± 0.2 ∝ λ²·ĝ, ½ Φ … 日"


def table() -> Table:
    table = Table(title=Text("λ of KL(p‖q)"), box=box.SIMPLE_HEAD)
    for heading in ("χ²", "±"):
        table.add_column(heading)
    for cells in (("0.1±0.02", "x"), ("0.1", Text("a → b")), ("λ", "…")):
        table.add_row(*cells)
    return table


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_signs_that_an_output_lacks_are_written_out(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, plain = shown_in(encoding, monkeypatch, SIGNS).splitlines()
    spelt = "KL(p||q) <= 0.1 +- 0.2 ~ lambda^2.g, 1/2 phi ... ?"
    assert printed == (SIGNS if encoding == "utf-8" else spelt)
    wanted = {"ascii": spelt, "utf-8": SIGNS}.get(encoding, SIGNS.encode(encoding, "signs").decode(encoding))
    assert plain == wanted, "a sign that the encoding has is kept"
    assert shown_in(encoding, monkeypatch, raises=ValueError(SIGNS)) == f"test: {wanted}\n"


def test_columns_stay_aligned_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_in("ascii", monkeypatch, table()).splitlines()
    assert "lambda of KL(p||q)" in lines[0]
    assert len({len(line) for line in lines[1:-1]}) == 1
    assert any("0.1+-0.02 | x" in line for line in lines)
    assert any("a -> b" in line for line in lines)


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("", WIDE), ("wide", WIDE)])
def test_output_that_is_no_terminal_is_as_wide_as_asked(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width
