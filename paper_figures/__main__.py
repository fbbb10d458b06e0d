"""`python -m paper_figures [--out DIR]`: every figure, one after the other; the worst exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from paper_figures import command, figure2, noise_family, unification

FIGURES: dict[str, Callable[[Sequence[str]], int]] = {
    figure2.NAME: figure2.main,
    unification.NAME: unification.main,
    noise_family.NAME: noise_family.main,
}

_ABOUT = f"""Draw every figure: {", ".join(FIGURES)}.

Each runs its own small study first, into runs/figures/NAME, and finds it there the next time. One
figure alone, or from other records: `python -m paper_figures.NAME [--records DIR]`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws all figures, into the same folder."""
    return command.run_all(_ABOUT, list(FIGURES.values()), argv)


if __name__ == "__main__":
    sys.exit(main())
