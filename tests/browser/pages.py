"""A headless browser, and pages that remember what they asked for and what went wrong in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIRST_PAINT = 1000.0
"""The milliseconds in which something is to be seen."""

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DESK, PHONE = (1280, 900), (390, 844)
"""Widths and heights of windows in CSS pixels."""
_LOCAL = ("file:", "data:", "blob:", "about:")


@dataclass
class Opened:
    """A page, what it asked for beyond itself, and its errors."""

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def require_quiet(self) -> None:
        """Fails if the page reported an error or asked for anything outside."""
        assert not self.outside, f"asked for {self.outside}"
        assert not self.errors, f"console: {self.errors}"

    def first_paint(self) -> float:
        """Milliseconds until something was first seen."""
        found = "performance.getEntriesByName('first-contentful-paint').map(each => each.startTime)"
        self.page.wait_for_function(f"{found}.length > 0")
        return float(self.page.evaluate(found)[0])

    def tab_to(self, selector: str, most: int = 80) -> None:
        """Presses Tab until the element has the focus."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached by Tab")

    def width_beyond(self) -> int:
        """The pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def look(started: Any, path: Path, name: str, out: Path, ready: Callable[[Opened], None]) -> None:
    """Opens a page in light, dark and phone width, checks it where it is `ready`, and leaves screenshots."""
    for kind, size, scheme in (("light", DESK, "light"), ("dark", DESK, "dark"), ("phone", PHONE, "light")):
        with opened(started, path, size=size, scheme=scheme) as window:
            ready(window)
            assert window.width_beyond() <= 0, f"{kind}: {window.width_beyond()} px wider than the window"
            window.page.screenshot(path=out / f"{name}-{kind}.png", full_page=True)
            window.require_quiet()


def require_first_paint(started: Any, path: Path) -> None:
    """Fails if nothing is seen within `FIRST_PAINT`."""
    with opened(started, path) as window:
        took = window.first_paint()
    print(f"  first paint after {took:.0f} ms")
    assert took < FIRST_PAINT, f"first paint after {took:.0f} ms"


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium, started with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=_FLAGS)
        yield started
        started.close()


@contextlib.contextmanager
def opened(started: Any, path: Path, size: tuple[int, int] = DESK, scheme: str = "light") -> Iterator[Opened]:
    """A file in a window of its own, in light or dark as the reader's system prefers."""
    context = started.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    out = Opened(page)
    page.on("console", lambda said: out.errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: out.errors.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(_LOCAL) else out.outside.append(asked.url))
    page.goto(path.resolve().as_uri())
    yield out
    context.close()
