"""The explorer: it renders, stays offline and quiet, answers a slider at once, and obeys keyboard and address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis.explorer.cli import main as explore
from tests.browser.pages import Opened, look, opened, require_first_paint

_ANSWER = 50.0
_MOVES = 50

_MOVE = """
async ([id, move]) => {
  const slider = document.getElementById(id), root = document.querySelector('.obrs-explorer');
  const before = root.dataset.drawn, start = performance.now();
  slider.value = 20 + (move * 137) % 360;
  slider.dispatchEvent(new Event('input', { bubbles: true }));
  // What a frame draws is on the screen when the next task begins.
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  if (root.dataset.drawn === before) throw new Error(`${id} is not answered within a frame`);
  return performance.now() - start;
}
"""


def page_of(out: Path) -> Path:
    path = out / "explorer.html"
    assert explore(["--out", str(path)]) == 0
    return path


def figure(window: Any, name: str) -> str:
    return str(window.page.text_content(f'[data-figure="{name}"]'))


def drawn(window: Opened) -> None:
    """Waits for the curves of all corrections."""
    window.page.wait_for_selector('[data-plot="mse"] .curve', state="attached")
    assert window.page.locator('[data-plot="mse"] .curve').count() == 8


def check_renders_offline_and_quietly(started: Any, out: Path) -> None:
    look(started, page_of(out), "explorer", out, drawn)


def check_is_seen_within_a_second(started: Any, out: Path) -> None:
    require_first_paint(started, page_of(out))


def check_answers_a_slider_at_once(started: Any, out: Path) -> None:
    """From the event to the frame that shows the answer, at a vocabulary of 1,000: the median of 50 moves."""
    late = []
    for slider in ("lam", "rate", "clip", "knob", "nSamples"):
        with opened(started, page_of(out)) as window:
            window.page.evaluate("location.hash = '#explorer?vocab=1000'")
            window.page.wait_for_selector('#obrs-vocab[aria-valuetext="1000"]')
            took = [window.page.evaluate(_MOVE, [f"obrs-{slider}", move]) for move in range(_MOVES)]
            window.require_quiet()
        usual, most = np.median(took), np.percentile(took, 95)
        print(f"  {slider}, {_MOVES} moves: median {usual:.0f} ms, 95th percentile {most:.0f} ms")
        late += [slider] if usual >= _ANSWER else []
    assert not late, f"later than {_ANSWER:g} ms: {late}"


def check_obeys_the_keyboard(started: Any, out: Path) -> None:
    with opened(started, page_of(out)) as window:
        window.tab_to("#obrs-lam")
        before = figure(window, "overlap")
        for _ in range(20):
            window.page.keyboard.press("ArrowRight")
        window.page.wait_for_timeout(100)
        assert figure(window, "overlap") != before, "λ does not move by keyboard"
        window.tab_to("#obrs-family")
        window.page.keyboard.press("ArrowDown")
        window.page.wait_for_timeout(100)
        assert "share" in window.page.text_content('label[for="obrs-knob"]')
        window.tab_to('[data-action="draw"]')
        window.page.keyboard.press("Enter")
        window.page.wait_for_timeout(100)
        assert window.page.text_content('[data-output="seed"]') == "2"
        window.tab_to('[data-plot="laws"]')
        window.page.keyboard.press("ArrowRight")
        assert window.page.text_content('.readout[data-output="laws"]').startswith("token 1: p ")
        window.require_quiet()


def check_keeps_its_settings_in_the_address(started: Any, out: Path) -> None:
    path = page_of(out)
    with opened(started, path) as window:
        window.page.select_option("#obrs-family", "top-k")
        window.page.wait_for_timeout(500)
        address, shown = window.page.url, window.page.text_content(".figures")
        assert "family=top-k" in address
        window.page.goto("about:blank")
        window.page.goto(address)
        assert window.page.text_content(".figures") == shown
        window.page.goto("about:blank")
        window.page.goto(f"{path.resolve().as_uri()}#explorer?lam=-1&family=none&vocab=12")
        assert "lam=-1, family=none" in window.page.text_content('[data-output="problem"]')
        assert window.page.get_attribute("#obrs-vocab", "aria-valuetext") == "12"
        window.require_quiet()
