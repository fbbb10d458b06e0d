"""The packages that lie beside this one in a checkout, and inside of it once installed, where no name can clash.

`analysis` and `paper_figures` are such: an installed package has them as `jackpot_sim.analysis` and
`jackpot_sim.paper_figures`. They import their own modules relatively, and each other by one file.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def beside(name: str) -> str:
    """The name by which `analysis`, `paper_figures`, or a module in one of them, is imported here."""
    inside = _PACKAGE / name.partition(".")[0] / "__init__.py"
    return f"{_PACKAGE.name}.{name}" if inside.is_file() else name
