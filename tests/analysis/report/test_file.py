"""The report is one small file that asks for nothing outside, and in which names from records are text alone."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typing_extensions import override

from analysis.looks import Look
from analysis.report.plots import trace
from analysis.report.render import as_script_data
from jackpot_sim.report.cli import main
from tests.analysis.report import diagnosed
from tests.cases import each
from tests.paper_figures.training import trained
from tests.paper_figures.training.trained import Fate

Captured = pytest.CaptureFixture[str]
EVIL = "<img src=x onerror=alert(1)>"
CLOSING = "</script><!--<script>"
MEASURED = Path(__file__).parents[3] / "paper_figures" / "measured" / "training"


class Elements(HTMLParser):
    """The elements of a page, with what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    @override
    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of two runs whose names are attacks."""
    folder = tmp_path_factory.mktemp("page")
    methods = ("on-policy", "none", "tis", "jackpot", "rao-blackwell")
    root = trained.write(folder / "run", "figure1", dict.fromkeys(methods, Fate()), seeds=2, steps=40)
    named = {"tis": EVIL, "none": CLOSING}
    for name in ("steps", "outcomes"):
        rows = pd.read_parquet(root / f"{name}.parquet")
        rows["method"] = rows["method"].replace(named)
        rows.to_parquet(root / f"{name}.parquet")
    told = json.loads((root / "manifest.json").read_text())
    grid = told["config"]["grid"]
    told["config"]["grid"] = {at: {named.get(each, each): run for each, run in grid[at].items()} for at in grid}
    (root / "manifest.json").write_text(json.dumps(told))
    given = [str(root), str(diagnosed.write(folder / "diagnosed", EVIL + CLOSING))]
    assert main([*given, "--out", str(folder / "out" / "report.html")]) == 0
    assert [path.name for path in (folder / "out").iterdir()] == ["report.html"]
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), f"<{tag} {name}={attributes[name]}>"  # type: ignore[union-attr]
    policy = next(given["content"] for _, given in elements.found if given.get("http-equiv"))
    assert "default-src 'none'" in str(policy)
    assert "http" not in str(policy)
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert len(page.encode()) < 2_000_000


def test_names_are_text_and_nothing_else(page: str) -> None:
    elements = Elements(page)
    tags = [tag for tag, _ in elements.found]
    assert "img" not in tags
    assert tags.count("script") == 4, "the plots, plotly.js, the page's own and the explorer's"
    assert not [given for _, given in elements.found if any(name.startswith("on") for name in given)]
    assert any(EVIL in text for text in elements.texts), "it is shown as it is"
    plots = json.loads(next(each for each in elements.scripts if each.lstrip().startswith("[")))
    traces = [each for plot in plots for view in plot["views"] for each in view["traces"]]
    assert {EVIL, CLOSING} <= {each["meta"] for each in traces}
    for each_ in traces:
        assert "<" not in each_["name"], "plotly.js reads tags in names"
        assert not [text for text in each_.get("text", []) if "<" in text]


def test_what_json_lacks_is_a_gap() -> None:
    drawn = trace("x", Look("#000000", "o"), [1, 2, 3], [float("nan"), float("inf"), 0.0], log_y=True)
    assert json.loads(as_script_data(drawn))["y"] == [None, None, None]
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script_data([float("nan")])


def test_every_plot_has_its_explanation_and_its_numbers(page: str) -> None:
    figures = re.findall(r'<figure class="plot".*?</figure>', page, flags=re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        reading = figure.partition("How to read this.</strong>")[2].partition("</figcaption>")[0]
        assert reading.count(". ") + reading.count("; ") + reading.count(".") >= 2
        assert "<caption>" in figure
        assert 'role="img" aria-label="' in figure
    assert page.count("<main") == page.count("</main>") == 1
    assert not re.search(r"<table>\s*(?!<caption>)<", page), "every table has its caption"


def test_an_explorer_that_is_there_is_the_last_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    root, out = str(diagnosed.write(tmp_path / "run")), tmp_path / "report.html"
    for module, there in ((None, False), (SimpleNamespace(fragment=lambda: "<b id=turn>turn me</b>"), True)):
        monkeypatch.setitem(sys.modules, "analysis.explorer", module)
        assert main([root, "--out", str(out)]) == 0
        text = out.read_text(encoding="utf-8")
        assert ("<b id=turn>" in text) is there
        assert ('id="explorer"' in text) is there
    assert text.index("<b id=turn>") > text.index('id="run-1-provenance"')
    assert capsys.readouterr().out.startswith(f"{out}: 1.")


def test_large_records_stay_below_three_megabytes(tmp_path: Path) -> None:
    largest = max(MEASURED.iterdir(), key=lambda root: len(pd.read_parquet(root / "outcomes.parquet")))
    assert main([str(largest), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


@each(
    "line, part",
    [
        ("nowhere --out r.html", "nowhere holds no run"),
        ("run nowhere --out r.html", "nowhere holds no run"),
        ("unfinished --out r.html", "unfinished holds no finished study"),
        ("run --out run", "run"),
        ("run --out run/report.json/r.html", "report.json"),
        ("run --out", "--out"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    line: str, part: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    diagnosed.write(Path("run"))
    Path("unfinished").mkdir()
    Path("unfinished/manifest.json").write_text('{"config_hash": "0", "config": {"grid": {}}}')
    assert main(line.split()) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("report: ")
    assert part in error
    assert not Path("r.html").exists()
