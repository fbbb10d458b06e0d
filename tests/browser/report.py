"""The HTML report: it renders, stays offline and quiet, and answers the keyboard, in light, dark and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jackpot_sim.diagnose.cli import main as diagnose
from jackpot_sim.report.cli import main as report
from jackpot_sim.sweep.cli import main as sweep
from tests.browser.pages import Opened, look, opened, require_first_paint

TRAINED = Path(__file__).parents[2] / "paper_figures" / "measured" / "training" / "figure1"
STUDY = (
    "--env.kind top-k --env.k 1 2 3 --env.base.kind zipf --env.base.vocab 5 --estimators none tis obrs jackpot "
    "--seeds 3 --executor serial --quiet"
)


def page_of(out: Path) -> Path:
    """A report of a sweep, a study of training and a diagnosis, made once."""
    path = out / "report.html"
    if not path.exists():
        assert sweep([*STUDY.split(), "--out", str(out / "sweep")]) == 0
        assert diagnose(["--example", "--workers", "1", "--quiet", "--out", str(out / "diagnosis")]) in (0, 1)
        folders = [str(out / "sweep"), str(TRAINED), str(out / "diagnosis")]
        assert report([*folders, "--out", str(path)]) == 0
    return path


def drawn(window: Opened) -> None:
    """Scrolls to every plot until it is drawn."""
    for figure in window.page.query_selector_all("figure.plot"):
        figure.scroll_into_view_if_needed()
        figure.wait_for_selector(".canvas .main-svg", state="attached")
    window.page.evaluate("window.scrollTo(0, 0)")


def all_drawn(window: Opened) -> None:
    """As `drawn`, and no kind of run is missing."""
    drawn(window)
    assert window.page.locator("figure.plot").count() >= 8


def check_renders_offline_and_quietly(started: Any, out: Path) -> None:
    look(started, page_of(out), "report", out, all_drawn)


def check_is_seen_within_a_second(started: Any, out: Path) -> None:
    require_first_paint(started, page_of(out))


def check_the_theme_is_changed_by_keyboard(started: Any, out: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    tick = "getComputedStyle(document.querySelector('.canvas .xtitle')).fill"
    with opened(started, page_of(out)) as window:
        drawn(window)
        before = window.page.evaluate(f"[{ground}, {tick}]")
        window.tab_to("#theme")
        window.page.keyboard.press("Enter")
        after = window.page.evaluate(f"[{ground}, {tick}]")
        assert before[0] != after[0], "the ground stays as it was"
        assert before[1] != after[1], "plots do not follow"
        assert window.page.get_attribute("#theme", "aria-pressed") == "true"
        window.require_quiet()


def check_lines_and_views_are_chosen_by_keyboard(started: Any, out: Path) -> None:
    lines = "document.querySelectorAll('figure.plot .canvas')[0].data.filter(each => each.visible).length"
    with opened(started, page_of(out)) as window:
        drawn(window)
        before = window.page.evaluate(lines)
        window.tab_to("figure.plot .legend button")
        window.page.keyboard.press("Space")
        assert window.page.evaluate(lines) < before, "a line is not hidden"
        window.page.keyboard.press("Space")
        assert window.page.evaluate(lines) == before, "the focus is lost, or the line does not come back"
        figure = window.page.locator("figure.plot", has=window.page.locator("select")).first
        chosen = figure.locator("select")
        shown = figure.locator(".canvas .main-svg").first.inner_html()
        chosen.focus()
        window.page.keyboard.press("ArrowDown")
        assert figure.locator(".canvas .main-svg").first.inner_html() != shown, "the choice changes nothing"
        window.require_quiet()
