"""A new correction is its own file, one line of registration and its rule by brute force; all worlds take it.

The example looks at p, q and the sign of A. A second one looks at r and the sign of A, and so it has a path too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from typing_extensions import override

from jackpot_sim import estimators
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators import Denominator, Tokens, moments, path
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import given
from jackpot_sim.estimators.corrections.pieces import ONE, RATIO, Monomial, Piece
from jackpot_sim.estimators.rollouts import weights
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.states import sampled
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from tests.cases import each, every
from tests.estimators import brute, sequence_brute
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import columns, random_cell
from tests.estimators.gap_mask import ProbabilityGapMask
from tests.estimators.sequence_cells import cases, enumeration

GAP = 0.05


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register("gap-mask")(ProbabilityGapMask)


def gap_rule(p: float, q: float, advantage: float) -> tuple[float, float]:
    widened = advantage * (p - q) > 0 and abs(p - q) > GAP
    return float(not widened), 1.0


def gap_mask() -> Any:
    return estimators.get("gap-mask", gap=GAP)


def assert_agrees(found: Any, expected: dict[str, float]) -> None:
    values = columns(found) | {"kl_prefix": found.kl_prefix}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-11, abs=1e-13, nan_ok=True), name


@each("cell, denominator", every([*CELLS.values(), random_cell(3, 9)], Denominator))
def test_exact_moments_at_states(cell: Cell, denominator: Denominator) -> None:
    found = moments.exact(*cell, gap_mask(), denominator=denominator, n_samples=5)
    expected = brute.moments(cell, lambda t: gap_rule(t.p, t.q, t.advantage), None, denominator, 5)
    assert_agrees(found, expected)


def test_the_example_drops_some_tokens_of_either_sign() -> None:
    cell = random_cell(3, 9)
    p, q = np.exp(cell.policy), np.exp(cell.actor)
    dropped = np.vectorize(lambda *token: gap_rule(*token)[0] == 0)(p, q, cell.advantage)
    assert dropped[cell.advantage > 0].any()
    assert dropped[cell.advantage < 0].any()
    assert not dropped.all()


def test_sampled_moments_at_states() -> None:
    cell = random_cell(2, 5)
    exact = moments.exact(*cell, gap_mask(), n_samples=50)
    found = sampled.estimate(*cell, gap_mask(), np.random.default_rng(0), n_samples=50, replicates=400)
    for name in ("acceptance_rate", "bias_sq", "gain", "variance", "kl_accepted"):
        expected = exact.bias**2 if name == "bias_sq" else getattr(exact, name)
        assert abs(found.value[name] - expected) < 4.5 * found.standard_error[name] + 1e-12, name


@each("case, denominator", every(cases(False), Denominator))
def test_every_enumerated_sequence(case: str, denominator: Denominator) -> None:
    shape, prompts = cases(False)[case]

    def rule(y: list[sequence_brute.Step]) -> list[tuple[float, float]]:
        return [gap_rule(step.target[step.token], step.actor[step.token], step.advantage) for step in y]

    states = sequence_brute.states_of(shape, prompts, rule, "token", "p_ref")
    found = enumerated.exact(
        [enumeration(shape, prompt) for prompt in prompts], gap_mask(), denominator=denominator, n_samples=7
    )
    assert_agrees(found, sequence_brute.moments(states, denominator, 7))


def test_scored_rollouts() -> None:
    generator = np.random.default_rng(1)
    p, q = (np.log(generator.uniform(0.05, 0.9, size=(6, 4))) for _ in range(2))
    mask, advantage = np.arange(4) < np.array([4, 3, 1, 2, 4, 4])[:, None], generator.normal(size=6)
    rollouts = ScoredRollouts(p, q, mask, advantage, np.zeros(6, dtype=np.int64))
    accept, weight = weights.weigh(rollouts, gap_mask())
    for row, step in np.ndindex(mask.shape):
        expected = gap_rule(math.exp(p[row, step]), math.exp(q[row, step]), advantage[row])
        assert (accept[row, step], weight[row, step]) == (expected if mask[row, step] else (0.0, 0.0))


def test_wrapped_and_combined() -> None:
    log_ratio, log_q = np.array([[0.4, -0.3, 0.1]]), np.log([[0.4, 0.5, 0.2]])
    tokens = Tokens(log_ratio, actor_log_probs=log_q, advantages=np.array([[1.0]]))
    expected = [gap_rule(math.exp(q + l), math.exp(q), 1.0)[0] for q, l in zip(log_q[0], log_ratio[0], strict=True)]
    both = estimators.combined(estimators.get("is"), estimators.rao_blackwell(gap_mask()))
    np.testing.assert_allclose(both.weights(tokens).weight[0], np.array(expected) * np.exp(log_ratio[0]), rtol=1e-15)
    assert not both.fits_a_table
    assert both.is_per_token


def test_what_it_is_not_given_is_named() -> None:
    with pytest.raises(ValueError, match=r"gap-mask needs (policy|actor)_log_probs: pass log"):
        gap_mask().weights(Tokens(np.zeros(2), advantages=np.ones(2)))
    with pytest.raises(ValueError, match="gap-mask needs advantages"):
        gap_mask().weights(Tokens(np.zeros(2), actor_log_probs=np.zeros(2)))


def test_a_study_names_it_and_its_parameter() -> None:
    spec = EstimatorSpec.model_validate({"kind": "gap-mask", "gap": GAP})
    assert spec.correction() == gap_mask()
    assert spec.label == "gap-mask(gap=0.05)"
    assert not spec.needs_sequences


# ------------------------------------------------------------------ a function of r and the sign of A


@dataclass(frozen=True)
class SignedClip(TokenCorrection):
    """PPO's clip as a mask: r, but 0 where A > 0 and r > high, or A < 0 and r < low."""

    _looks_at: ClassVar[frozenset[str]] = frozenset({"advantages"})
    low: Any = 0.8
    high: Any = 1.3
    name = "signed-clip"

    @override
    def accept(self, tokens: Tokens) -> Any:
        sign, ratio = given(tokens.advantages), np.exp(tokens.log_ratio)
        return 1.0 - (((sign > 0) & (ratio > self.high)) | ((sign < 0) & (ratio < self.low)))

    @override
    def weight(self, tokens: Tokens) -> Any:
        return np.exp(tokens.log_ratio)

    @override
    def pieces(self, overlap: Any = None, sign: int = 0) -> tuple[Piece, ...]:
        dropped = Monomial(0.0, 0)
        if sign > 0:
            return Piece(np.log(self.high), True, ONE, RATIO), Piece(math.inf, True, dropped, RATIO)
        if sign < 0:
            return Piece(np.log(self.low), False, dropped, RATIO), Piece(math.inf, True, ONE, RATIO)
        return (Piece(math.inf, True, ONE, RATIO),)


@each("cell, denominator", every([*CELLS.values(), random_cell(4, 40)], Denominator))
def test_a_path_by_the_sign_of_the_advantage(cell: Cell, denominator: Denominator) -> None:
    highs = np.array([0.2, 0.9, 1.1, 1.7, 4.0, math.inf])
    found = path.exact(*cell, SignedClip(high=highs), denominator=denominator, n_samples=9)
    for index, high in enumerate(highs):
        expected = columns(moments.exact(*cell, SignedClip(high=high), denominator=denominator, n_samples=9))
        for name, values in columns(found).items():
            np.testing.assert_allclose(values[index], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
