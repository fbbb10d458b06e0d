"""The OBRS explorer: a page on which λ, the clip and the noise are moved, and every correction answers at once.

The page computes everything itself, in plain JavaScript: `formulas.js` and `laws.js` follow jackpot_sim, which
`tests/analysis/test_explorer_formulas.py` checks.
"""

from __future__ import annotations

from pathlib import Path

_SCRIPTS = ("formulas.js", "laws.js", "plots.js", "controls.js")
"""In the order in which they are read: each uses those before it."""

_HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>OBRS explorer</title>
<style>body { margin: 0; }</style>
</head>
<body>
<main>
"""


def script(name: str) -> str:
    """The text of one of the explorer's files."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def fragment() -> str:
    """The explorer to be put into another page: HTML without head and body, once in a page.

    Its styles are those below `.obrs-explorer` alone, and its scripts leave no global name.
    """
    scripts = "\n".join(map(script, _SCRIPTS))
    styled = f"<style>\n{script('style.css')}</style>\n{script('explorer.html')}"
    return f"{styled}<script>\n(() => {{\n{scripts}}})();\n</script>\n"


def page() -> str:
    """The explorer as a page of its own, which loads nothing else."""
    return f"{_HEAD}{fragment()}</main>\n</body>\n</html>\n"
