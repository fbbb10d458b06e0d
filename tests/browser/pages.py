"""A headless browser, and pages that remember what they asked for and what went wrong in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
