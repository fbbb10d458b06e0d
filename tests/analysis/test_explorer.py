"""The explorer as a page and as a command."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path

import pytest

from analysis.explorer import fragment, page
from analysis.explorer.cli import main

Captured = pytest.CaptureFixture[str]


def test_the_page_holds_the_fragment_and_asks_for_nothing() -> None:
    whole = page()
    assert whole.startswith("<!doctype html>")
    assert fragment() in whole
    assert len(whole.encode()) < 100_000
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|@import|fetch\(|url\(""", whole)


def test_styles_reach_the_explorer_alone_and_scripts_leave_no_name() -> None:
    style = re.search(r"<style>(.*?)</style>", fragment(), re.DOTALL)
    assert style
    outer = re.sub(
        r"\{[^{}]*(\{[^{}]*\}[^{}]*)*\}", "", re.sub(r"@media[^{]*\{(.*?)\n\}", r"\1", style[1], flags=re.DOTALL)
    )
    assert set(outer.split()) == {".obrs-explorer"}
    scripts = re.findall(r"<script>\n(.*?)</script>", fragment(), re.DOTALL)
    assert len(scripts) == 1
    assert scripts[0].startswith("(() => {")
    assert scripts[0].endswith("})();\n")


def test_the_command_writes_the_page_and_says_where(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "page.html"
    assert main(["--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == page()


def test_the_browser_opens_only_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)  # type: ignore[func-returns-value]
    out = tmp_path / "page.html"
    assert main(["--out", str(out)]) == 0
    assert opened == []
    assert main(["--out", str(out), "--open"]) == 0
    assert opened == [out.as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert main(["--out", str(out), "--open"]) == 2
    assert "no browser" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    for out in (tmp_path, tmp_path / "no" / "page.html"):
        assert main(["--out", str(out)]) == 2
        assert capsys.readouterr().err.startswith(f"explore: cannot write {out}")
