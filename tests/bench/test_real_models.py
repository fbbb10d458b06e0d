"""The benchmark of real models at tiny sizes: every part is timed, and the cell is one of a study."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.bench import real_models


def test_every_part_and_their_ratio_are_found() -> None:
    *floor, cell, ratio = real_models.real_models(sizes=real_models.TINY)
    assert [each.what for each in floor] == [
        "floor: writing",
        "floor: two scorings",
        "floor: gradient in the final norm",
    ]
    assert all(each.value > 0 for each in floor)
    assert ratio.value == pytest.approx(cell.value / sum(each.value for each in floor))
    assert ratio.at_most == real_models.AT_MOST
