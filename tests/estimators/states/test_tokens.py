"""Tokens of states: what they take. Their weights are tested with the moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.states import moments, path, sampled
from jackpot_sim.estimators.states.sorted_state import SortedState
from jackpot_sim.estimators.states.tokens import drawn_tokens, tokens_of_states
from tests.estimators.cells import random_cell

CELL = random_cell(states=3, vocab=3, seed=2)
TIS = estimators.get("tis")
CALLS = {
    "tokens": lambda p, q, a: tokens_of_states(p, q, TIS, a),
    "moments": lambda p, q, a: moments.exact(p, q, a, TIS),
    "path": lambda p, q, a: path.exact(p, q, a, TIS),
    "sampled": lambda p, q, a: sampled.estimate(p, q, a, TIS, np.random.default_rng(0), n_samples=2),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_cells_are_arrays_of_one_kind_and_shape(call: Any) -> None:
    call(*CELL)
    names = dict(zip(("policy_log_probs", "actor_log_probs", "advantage"), CELL, strict=True))
    for at, (name, good) in enumerate(names.items()):
        for wrong in (good[:1], good[0], good[..., :1], good[None], good[..., None]):
            with pytest.raises(ValueError, match=f"{name} has shape"):
                call(*(wrong if index == at else x for index, x in enumerate(CELL)))
        with pytest.raises(TypeError, match=f"{name} must hold real floating numbers"):
            call(*(good.astype(int) if index == at else x for index, x in enumerate(CELL)))
        with pytest.raises(TypeError, match="list"):
            call(*(good.tolist() if index == at else x for index, x in enumerate(CELL)))


def test_drawn_tokens_are_ids_of_one_state() -> None:
    one = tokens_of_states(CELL.policy[:1], CELL.actor[:1], TIS)
    assert drawn_tokens(one, np.array([[0, 2]]), TIS).log_ratio.shape == (1, 2)
    for off in (-1, 3):
        with pytest.raises(ValueError, match="drawn must lie from 0 to 2, got"):
            drawn_tokens(one, np.array([[0, off]]), TIS)
    for kind in (float, bool):
        with pytest.raises(TypeError, match="drawn must hold integers"):
            drawn_tokens(one, np.zeros((1, 2), dtype=kind), TIS)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="namespaces"):
        drawn_tokens(one, torch.zeros((1, 2), dtype=torch.int64), TIS)
    with pytest.raises(ValueError, match=r"drawn has shape \(2,\): it must be \(m, n\)"):
        drawn_tokens(one, np.zeros(2, dtype=int), TIS)
    with pytest.raises(ValueError, match=r"tokens has shape \(3, 3\), not \(1, 3\)"):
        drawn_tokens(tokens_of_states(CELL.policy, CELL.actor, TIS), np.zeros((1, 2), dtype=int), TIS)


def test_a_sorted_state_is_one_state() -> None:
    given = {"log_p": CELL.policy[0], "log_q": CELL.actor[0], "advantage": CELL.advantage[0]}
    for name, good in given.items():
        for wrong in (good[:2], good[:1], good[:, None], good[None]):
            with pytest.raises(ValueError, match=r"has shape .*one number per token of the state"):
                SortedState(**given | {name: wrong})


def test_drawn_tokens_come_from_one_state() -> None:
    for shape in ((3,), (2, 3)):
        with pytest.raises(ValueError, match="the tokens of one state"):
            drawn_tokens(Tokens(np.zeros(shape)), np.array([[0, 2]]), TIS)
