"""`python -m paper_figures [--out DIR]`: every figure, one after the other; the worst exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from paper_figures import figure2, noise_family, unification

FIGURES: tuple[Callable[[Sequence[str]], int], ...] = (figure2.main, unification.main, noise_family.main)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws all figures with the same options."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    return max([main_of(tokens) for main_of in FIGURES])


if __name__ == "__main__":
    sys.exit(main())
