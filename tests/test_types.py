"""Types hold: mypy, which checks this file too, would complain of an `ignore` that is not needed."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import divergences, obrs
from jackpot_sim.estimators import Tokens

ROOT = Path(__file__).parent.parent
LAW = np.log([[0.5, 0.5]])

MOST_ANY = 60


def test_a_number_in_the_place_of_an_array_is_seen_by_mypy() -> None:
    for swapped in (
        lambda: obrs.acceptance_probability(1.0, LAW),  # type: ignore[arg-type]
        lambda: obrs.overlap(1.0, LAW),  # type: ignore[arg-type]
        lambda: divergences.renyi(LAW, LAW, LAW),  # type: ignore[arg-type]
        lambda: divergences.kl(LAW, 0.5),  # type: ignore[arg-type]
        lambda: Tokens(0.5),  # type: ignore[arg-type]
        lambda: estimators.moments.exact(LAW, LAW, 1.0, estimators.get("is")),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            swapped()


def test_few_annotations_say_nothing() -> None:
    """`Any` by itself, as the type of an argument, a result or a variable."""
    said = []
    for path in (path for top in ("jackpot_sim", "analysis", "paper_figures") for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            annotations = [getattr(node, name, None) for name in ("annotation", "returns")]
            said += [path for each in annotations if isinstance(each, ast.Name) and each.id == "Any"]
    assert len(said) <= MOST_ANY
