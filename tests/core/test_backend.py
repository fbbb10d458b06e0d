"""The library's own arrays: what is written into given memory, and in which blocks rows are read."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim.core import backend
from jackpot_sim.core.backend import to_numpy
from tests.conftest import ToLibrary


def test_into_writes_into_the_memory_given(xp: ToLibrary) -> None:
    out = xp(np.zeros(3))
    written = backend.into(out, "exp", xp(np.array([0.0, 1.0, 2.0])))
    assert written is out
    np.testing.assert_allclose(to_numpy(out), np.exp([0.0, 1.0, 2.0]), rtol=1e-15)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_into_makes_no_array_of_its_own(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy of the result would be as right and slower: only the library's `out` avoids it.
    if library == "torch":
        torch = pytest.importorskip("torch")
        out, values = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    else:
        out, values = np.zeros(3), np.ones(3)
    given = []
    whole = backend.namespace(out)

    class Watched:
        @staticmethod
        def exp(x: object, **options: object) -> object:
            given.append(options)
            return whole.exp(x, **options)

    monkeypatch.setattr(backend, "namespace", lambda *arrays: Watched)
    backend.into(out, "exp", values)
    assert [options.get("out") is out for options in given] == [True]


@pytest.mark.parametrize(("rows", "columns", "step"), [(10, 4, 3), (10, 100, 1), (5, 0, 12), (0, 4, 3)])
def test_row_blocks_cover_every_row_once(rows: int, columns: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "BLOCK_ELEMENTS", 12)
    blocks = list(backend.row_blocks(rows, columns))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
    assert all(block.stop - block.start == step for block in blocks[:-1])


def test_the_cumulative_minimum_is_that_of_each_prefix(xp: ToLibrary) -> None:
    values = np.random.default_rng(0).normal(size=(3, 2, 5))
    values[0, 0, 1], values[1, 1, 0] = -np.inf, np.inf
    found = to_numpy(backend.cumulative_minimum(xp(values)))
    for end in range(5):
        np.testing.assert_array_equal(found[..., end], values[..., : end + 1].min(axis=-1))
    assert backend.cumulative_minimum(xp(np.zeros((2, 0)))).shape == (2, 0)


def test_booleans_are_placed_in_the_order_of_a_mask(xp: ToLibrary) -> None:
    mask = np.array([False, True, True, False, True])
    placed = backend.placed(xp(np.array([True, False, True])), xp(mask))
    assert to_numpy(placed).tolist() == [False, True, False, False, True]


def test_tensors_on_a_cpu_are_seen_in_place_but_half_precision_is_left() -> None:
    torch = pytest.importorskip("torch")
    law = torch.zeros(3, requires_grad=True)
    seen = backend.on_host(law)
    assert isinstance(seen, np.ndarray)
    assert seen.ctypes.data == law.data_ptr()
    half = law.detach().bfloat16()
    assert backend.on_host(half) is half
    assert backend.on_host(seen) is seen
