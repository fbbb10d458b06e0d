"""`python -m paper_figures [--out DIR]`: every figure, one after the other; the worst exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from paper_figures import (
    bias_variance_length,
    command,
    figure2,
    mismatch_sources,
    noise_family,
    overhead,
    prefix_shift,
    topk_accuracy,
    unification,
)

FIGURES: dict[str, Callable[[Sequence[str]], int]] = {
    figure2.NAME: figure2.main,
    unification.NAME: unification.main,
    noise_family.NAME: noise_family.main,
    bias_variance_length.NAME: bias_variance_length.main,
    prefix_shift.NAME: prefix_shift.main,
    mismatch_sources.NAME: mismatch_sources.main,
    topk_accuracy.NAME: topk_accuracy.main,
    overhead.NAME: overhead.main,
}

_ABOUT = f"""Draw every figure: {", ".join(FIGURES)}.

Each runs its own small study first, into runs/figures/NAME, and finds it there the next time; those of
sequences and topk_accuracy need torch and transformers, and take some minutes each. overhead alone reads what
was measured before, and measures nothing. One figure alone, or from other records:
`python -m paper_figures.NAME [--records DIR]`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws all figures, into the same folder."""
    return command.run_all(_ABOUT, list(FIGURES.values()), argv)


if __name__ == "__main__":
    sys.exit(main())
