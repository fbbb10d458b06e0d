"""`python -m tests.browser [--out DIR]`: opens our pages in headless Chromium and says what is wrong with them.

Needs playwright (any version, without its own browsers) and Chromium; CHROMIUM names it if it is not /usr/bin/chromium.
Every function `check_…` of every module of this package is a check. Screenshots for a look go to DIR.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import tests.browser
from tests.browser.pages import browser


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the folder for screenshots and pages; by default a temporary one")
    out = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="browser-"))
    out.mkdir(parents=True, exist_ok=True)
    names = [
        each.name for each in pkgutil.iter_modules(tests.browser.__path__) if each.name not in ("__main__", "pages")
    ]
    failed = 0
    with browser() as started:
        for name in names:
            module = importlib.import_module(f"tests.browser.{name}")
            for title, check in vars(module).items():
                if not title.startswith("check_"):
                    continue
                try:
                    check(started, out)
                    said = "ok"
                except Exception as error:  # the other checks are worth running
                    failed += 1
                    said = f"FAILED: {type(error).__name__}: {error}"
                print(f"{name}.{title.removeprefix('check_')}: {said}", flush=True)
    print(f"Screenshots in {out}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
