"""The error of mean terms from the top-k, against vectors in logits made token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators.corrections.centring import on_stored
from jackpot_sim.estimators.states.topk_centring import topk_errors
from tests.conftest import ToLibrary

VOCAB, KS = 9, (1, 3, 20)
GENERATOR = np.random.default_rng(1)
LOG_P, LOG_Q = (
    logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in GENERATOR.normal(0, 2, size=(2, 5, VOCAB))
)


@pytest.mark.parametrize("name", ["none", "tis", "mis", "jackpot"])
def test_the_error_is_that_of_the_vectors(name: str, xp: ToLibrary) -> None:
    correction = estimators.get(name)
    norms, errors = topk_errors(xp(LOG_P), xp(LOG_Q), correction, KS)
    z = np.asarray(obrs.overlap(LOG_P, LOG_Q))
    for state, (log_p, log_q) in enumerate(zip(LOG_P, LOG_Q, strict=True)):
        scores, h = np.eye(VOCAB) - np.exp(log_p), np.zeros(VOCAB)
        for token in range(VOCAB):
            given: dict[str, Any] = {"overlap": z[[state]]} if name == "jackpot" else {}
            pair = correction.weights(log_p[[token]] - log_q[[token]], **given)
            h += np.exp(log_q[token]) * to_numpy(pair.accept * pair.weight)[0] * scores[token]
        assert norms[state] == pytest.approx(h @ h, rel=1e-9)
        for column, k in enumerate(KS):
            ids = np.argsort(-log_q)[:k]
            overlap = {"overlap": z[state]} if name == "jackpot" else {}
            found = np.asarray(on_stored(correction, log_p[ids], log_q[ids], **overlap)) @ scores[ids]
            assert errors[state, column] == pytest.approx((found - h) @ (found - h), rel=1e-9, abs=1e-20)
    assert errors[:, -1].max() < 1e-20 < errors[:, 0].max()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="gspo looks at more"):
        topk_errors(LOG_P, LOG_Q, estimators.get("gspo"), [1])
    with pytest.raises(ValueError, match="ks must hold at least one k"):
        topk_errors(LOG_P, LOG_Q, estimators.get("tis"), [0])
