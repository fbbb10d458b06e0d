"""What every correction must do. A new one joins `CASES` by being registered, and fails here until it does.

One list: every registered estimator at its defaults, variants with extreme parameters, and the
Rao-Blackwell form of each. What is compared with them is in `tests/estimators/brute.py`.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
import zlib
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import Tokens, TokenWeights, statistics
from jackpot_sim.estimators.corrections.batch import BatchNormalized
from jackpot_sim.estimators.corrections.composed import Centred, Combined, RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.corrections.correction import Correction, Level, TokenCorrection
from jackpot_sim.estimators.corrections.pieces import Piece
from jackpot_sim.estimators.corrections.probability import BinaryKL
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection
from jackpot_sim.estimators.states import moments, sampled
from tests.cases import each, every, rotating
from tests.conftest import ToLibrary
from tests.estimators import brute
from tests.estimators.brute import CELLS, Cell

INF = math.inf
N = 7
OVERLAP = 0.8

WRAPPERS = (RaoBlackwell, BatchNormalized, Centred, Combined)
K_MASKS = ("sequence-mask-k2", "sequence-mask-k3")
DEFAULTS = [estimators.get(name) for name in estimators.names()]
MODERATE = [
    estimators.get("tis", clip=0.7),
    estimators.get("mis", low=0.0, high=1.5),
    estimators.get("obrs", lam=1.7),
    estimators.get("jackpot", lam=1.5, c1=0.6),
    estimators.get("jackpot", lam=0.5, c1=INF, c2=INF),
    estimators.get("overlap-tis", lam=2.0, c1=0.5),
    estimators.get("tis", clip=1.5, floor=0.3),
    estimators.get("tv-mask", epsilon=0.12),
    *(estimators.get("binary-kl-mask", bound=0.03, direction=each) for each in BinaryKL),
    estimators.get("dppo-tv", delta=0.07),
    estimators.get("dppo-kl", delta=0.01),
    estimators.get("cispo", low=1.0, high=4.0),
    estimators.get("cispo", low=0.6, high=0.1),
    estimators.get("sapo", tau_positive=0.3, tau_negative=4.0),
    estimators.get("mask-k1", low=0.6, high=1.4, inverted=True),
    estimators.get("sequence-is", aggregate="mean"),
    estimators.get("sequence-tis", clip=0.5),
    estimators.get("sequence-mis", low=0.5, high=2.0, aggregate="mean"),
    estimators.get("sequence-mask-k1", low=0.5, high=1.2, inverted=True),
    estimators.get("sequence-mask-k1", low=0.1, high=3.0, aggregate="sum"),
    *(estimators.get(name, bound=0.7, aggregate=how) for name in K_MASKS for how in ("sum", "mean", "max")),
    estimators.get("gspo", low=0.2, high=0.3),
    estimators.get("veto", threshold=0.1),
    estimators.get("opsm", delta=0.1),
    estimators.get("m2po", threshold=0.5),
]
EXTREME = [
    estimators.get("tis", clip=1e-8),
    estimators.get("tis", clip=1e8),
    estimators.get("tis", clip=INF),
    estimators.get("mis", low=0.0, high=INF),
    estimators.get("mis", low=1.0, high=1.0),
    estimators.get("mask-k1", low=0.0, high=0.5),
    estimators.get("mask-k2", bound=1e-6),
    estimators.get("mask-k2", bound=INF),
    estimators.get("mask-k3", bound=1e-6),
    estimators.get("mask-k3", bound=60.0),
    estimators.get("mask-k3", bound=900.0),
    estimators.get("obrs", lam=1e-6),
    estimators.get("obrs", lam=1e6),
    estimators.get("jackpot", lam=1e-6, c1=3.0),
    estimators.get("jackpot", lam=1e6, c1=1e-6),
    estimators.get("jackpot", lam=3.0, c1=1e-3),
    estimators.get("overlap-tis", lam=1e-6, c1=INF),
    estimators.get("overlap-tis", lam=1e6, c1=1e-6),
    estimators.get("tis", clip=0.5, floor=0.5),
    estimators.get("tv-mask", epsilon=1e-9),
    estimators.get("tv-mask", epsilon=1.0),
    estimators.get("binary-kl-mask", bound=1e-12),
    estimators.get("binary-kl-mask", bound=INF),
    estimators.get("dppo-tv", delta=1e-9),
    estimators.get("dppo-kl", delta=INF),
    estimators.get("cispo", low=0.0, high=0.0),
    estimators.get("cispo", low=1.0, high=INF),
    estimators.get("sapo", tau_positive=1e-6, tau_negative=1e6),
    estimators.get("mask-k1", low=0.0, high=0.5, inverted=True),
    estimators.get("sequence-tis", clip=INF),
    estimators.get("geometric-mis", low=0.0, high=INF),
    estimators.get("sequence-mask-k1", low=0.0, high=0.5, inverted=True),
    estimators.get("sequence-mask-k2", bound=INF),
    estimators.get("gspo", low=1.0, high=INF),
    estimators.get("gspo", low=0.0, high=0.0),
    estimators.get("m2po", threshold=1e-8),
    estimators.get("m2po", threshold=1e8),
]


def _with_forms(corrections: list[Correction]) -> list[Any]:
    return [form for c in corrections for form in (c, rao_blackwell(c))]


def is_token_level(correction: Correction) -> bool:
    """Whether it weighs each token by itself, as `moments` and `sampled` require."""
    return correction.level is Level.TOKEN


CASES = _with_forms(DEFAULTS + MODERATE + EXTREME)
TOKEN_CASES = [case for case in CASES if is_token_level(case)]
SEQUENCE_CASES = [case for case in CASES if not is_token_level(case)]
SAMPLED_CASES = [case for case in _with_forms(DEFAULTS + MODERATE) if is_token_level(case)]
DENOMINATORS = list(moments.Denominator)
every_case = each("correction", CASES)
every_token_case = each("correction", TOKEN_CASES)
every_sequence_case = each("correction", SEQUENCE_CASES)
every_name = each("name", estimators.names())


def weigh(correction: Correction, log_ratio: Any, overlap: Any = OVERLAP) -> TokenWeights:
    """(a, w), given all that any correction may ask for."""
    overlap = None if correction.overlap_lam is None else overlap
    return correction.weights(log_ratio, overlap, **context_of(correction, log_ratio))


def fields_beside(log_ratio: Any) -> dict[str, Any]:
    """What a correction may look at besides ℓ and Z: advantages have all signs, and p/q = e^ℓ with p and q ≤ 1."""
    last = log_ratio.shape[-1] if log_ratio.ndim else 1
    signs, larger = (np.resize(values, last) for values in ([1.0, -1.0, 0.0, 2.0, -0.5], [0.9, 0.3, 1.0, 1e-3]))
    fields = {
        "advantages": np.broadcast_to(signs, (*log_ratio.shape[:-1], last)),
        "policy_log_probs": np.log(larger) + np.minimum(log_ratio, 0.0),
        "actor_log_probs": np.log(larger) - np.maximum(log_ratio, 0.0),
    }
    return {name: np.array(values).reshape(log_ratio.shape) for name, values in fields.items()}


def context_of(correction: Correction, log_ratio: Any, to_library: Any = np.asarray) -> dict[str, Any]:
    """Those fields that the correction needs, and for sequences a mask in which everything counts."""
    fields = fields_beside(log_ratio).items()
    given = {name: to_library(values) for name, values in fields if name in correction.needs}
    if is_token_level(correction):
        return given
    return given | {"mask": to_library(np.ones(log_ratio.shape, dtype=bool))}


def by_the_table(correction: Correction, log_ratio: Any, overlap: float = OVERLAP) -> list[tuple[float, float]]:
    """(a, w) of a row of tokens, as the tables have them."""
    fields = fields_beside(log_ratio)
    columns = zip(np.exp(log_ratio), *(np.exp(fields[f"{who}_log_probs"]) for who in ("policy", "actor")), strict=True)
    seen = [brute.Seen(r, overlap, p, q, a) for (r, p, q), a in zip(columns, fields["advantages"], strict=True)]
    return [rule_of(correction)(token) for token in seen]


def draws(shape: tuple[int, ...] = (5, 40), seed: int = 3, scale: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(scale=scale, size=shape)


# ------------------------------------------------------------------- the pair


@each("correction, scale", every(CASES, [1e-3, 1.0, 30.0, 150.0]))
def test_accept_is_a_probability_and_weights_are_finite(correction: Correction, scale: float) -> None:
    log_ratio = np.clip(draws(scale=scale), -700, 700)
    if not is_token_level(correction):
        log_ratio = log_ratio / log_ratio.shape[-1]  # so that their sum is one that e^S can be taken of
    accept, weight = weigh(correction, log_ratio)
    assert accept.shape == weight.shape == log_ratio.shape
    assert accept.dtype == weight.dtype == log_ratio.dtype
    assert np.all((accept >= 0) & (accept <= 1))
    assert np.all((weight >= 0) & np.isfinite(weight))


@each("correction, shape", every(TOKEN_CASES, [(), (4,), (2, 3), (2, 3, 4), (0, 3)]))
def test_shape_is_that_of_the_log_ratio(correction: Correction, shape: tuple[int, ...]) -> None:
    accept, weight = weigh(correction, np.full(shape, 0.1))
    assert accept.shape == weight.shape == shape


@every_token_case
def test_overlap_and_thresholds_broadcast_over_states(correction: Correction) -> None:
    log_ratio, overlap = draws((3, 6)), np.array([[0.3], [0.6], [0.9]])
    together = weigh(correction, log_ratio, overlap)
    for row in range(3):
        alone = weigh(correction, log_ratio[row], overlap[row])
        np.testing.assert_array_equal(together.accept[row], alone.accept)
        np.testing.assert_array_equal(together.weight[row], alone.weight)


@every_token_case
def test_a_parameter_per_state_is_that_parameter_in_each_state(correction: Correction) -> None:
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    arrays = [name for name in ("clip", "lam", "c1") if name in inner.parameters()]
    log_ratio = draws((3, 6))
    for name in arrays:
        values = np.array([[0.5], [1.0], [2.5]])
        together = weigh(_replaced(correction, **{name: values}), log_ratio)
        for row in range(3):
            alone = weigh(_replaced(correction, **{name: float(values[row, 0])}), log_ratio[row])
            cut = weigh(_replaced(correction, **{name: values}).at(slice(row, row + 1)), log_ratio[row : row + 1])
            for field in ("accept", "weight"):
                np.testing.assert_array_equal(getattr(together, field)[row], getattr(alone, field))
                np.testing.assert_array_equal(getattr(cut, field)[0], getattr(alone, field))
        # With flat tokens a (states, 1) parameter would make a (states, states) table of weights.
        with pytest.raises(
            ValueError, match=rf"{re.escape(correction.name)}: .*{name} has shape \(3, 1\), log_ratio has"
        ):
            weigh(_replaced(correction, **{name: values}), log_ratio[:, 0])


def _replaced(correction: Correction, **changes: Any) -> Any:
    if isinstance(correction, RaoBlackwell):
        return rao_blackwell(dataclasses.replace(correction.of, **changes))  # type: ignore[type-var]
    return dataclasses.replace(correction, **changes)  # type: ignore[type-var]


@every_case
def test_the_same_twice_and_the_input_is_left_alone(correction: Correction) -> None:
    log_ratio = draws()
    before = log_ratio.copy()
    first, second = weigh(correction, log_ratio), weigh(correction, log_ratio)
    np.testing.assert_array_equal(log_ratio, before)
    np.testing.assert_array_equal(first.accept, second.accept)
    np.testing.assert_array_equal(first.weight, second.weight)


@every_case
def test_every_library_gives_the_same(correction: Correction, xp: ToLibrary) -> None:
    log_ratio = draws(scale=2.0)
    expected = weigh(correction, log_ratio)
    context = context_of(correction, log_ratio, xp)
    overlap = None if correction.overlap_lam is None else xp(np.full((5, 1), OVERLAP))
    found = correction.weights(xp(log_ratio), overlap, **context)
    assert type(found.accept) is type(found.weight) is type(xp(log_ratio))
    np.testing.assert_array_equal(to_numpy(found.accept) > 0, expected.accept > 0)
    tolerance = 1e-14 if is_token_level(correction) else 1e-12  # libraries add up in different orders
    np.testing.assert_allclose(to_numpy(found.accept), expected.accept, rtol=1e-14)
    # The absolute tolerance is for SAPO, whose weight e^−x at large x has x times the rounding of x.
    np.testing.assert_allclose(to_numpy(found.weight), expected.weight, rtol=tolerance, atol=1e-30)


@each("correction, dtype", every(CASES, ["float32", "bfloat16"]))
def test_half_and_single_precision(correction: Correction, dtype: str) -> None:
    log_ratio = torch.as_tensor(draws(scale=2.0)).to(getattr(torch, dtype))
    rounded = log_ratio.double().numpy()
    expected = weigh(correction, rounded)
    overlap = None if correction.overlap_lam is None else torch.tensor(OVERLAP)
    context = context_of(correction, rounded, torch.as_tensor)
    found = correction.weights(log_ratio, overlap, **context)
    assert found.accept.dtype == found.weight.dtype == torch.float32
    np.testing.assert_allclose(found.accept.numpy(), expected.accept, rtol=2e-5)
    np.testing.assert_allclose(found.weight.numpy(), expected.weight, rtol=2e-5, atol=1e-30)


@each("correction, overlap", every(CASES, [0.0, 1e-300, OVERLAP, 1.3]))
def test_limits_of_the_ratio(correction: Correction, overlap: float) -> None:
    extremes = np.array([-INF, -1e4, -750.0, 750.0, 1e4, INF])
    accept, weight = weigh(correction, extremes, overlap)
    assert np.all((accept >= 0) & (accept <= 1))
    assert np.all(weight >= 0)  # inf is allowed, nan is not
    if isinstance(correction, RaoBlackwell):
        assert np.all(accept == 1)


@every_sequence_case
def test_limits_of_the_ratio_of_a_whole_sequence(correction: Correction) -> None:
    rows = np.array([[-INF, 0.1], [INF, 0.1], [-INF, INF], [-750.0, 750.0], [750.0, 750.0], [-1e4, 0.0]])
    accept, weight = weigh(correction, rows)
    assert np.all((accept >= 0) & (accept <= 1))
    assert np.all(weight >= 0)
    if correction.name in ("sequence-is", "geometric-is", "sequence-tis", "geometric-tis"):
        np.testing.assert_array_equal(weight[[0, 2]], 0.0)  # what the policy cannot write has p(y) = 0
        largest = correction.parameters().get("clip", INF)
        np.testing.assert_allclose(weight[1], largest, rtol=1e-15)


@every_case
def test_what_masked_tokens_hold_does_not_matter(correction: Correction, xp: ToLibrary) -> None:
    short = draws((4, 3), scale=0.5)
    signs = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    beside = {name: fields_beside(short)[name] for name in correction.needs & {"policy_log_probs", "actor_log_probs"}}
    overlap = None if correction.overlap_lam is None else xp(np.full((4, 1), OVERLAP))
    of_short = {name: xp(values) for name, values in beside.items()}
    expected = correction.weights(xp(short), overlap, advantages=xp(signs), **of_short)
    for junk in (math.nan, INF, -INF, 0.0, 1.0):

        def padded(values: Any, padding: float) -> Any:
            return np.insert(values, [0, 2, 3, 3], padding, axis=1)

        mask = padded(np.ones(short.shape, dtype=bool), False)
        per_token = np.where(mask, signs, math.nan)
        of_padded = {name: xp(padded(values, junk)) for name, values in beside.items()}
        for advantages in (signs, per_token):
            found = correction.weights(
                xp(padded(short, junk)), overlap, mask=xp(mask), advantages=xp(advantages), **of_padded
            )
            for field in ("accept", "weight"):
                values = to_numpy(getattr(found, field))
                np.testing.assert_array_equal(values[~mask], 0.0)
                np.testing.assert_allclose(
                    values[mask], to_numpy(getattr(expected, field)).ravel(), rtol=1e-14, atol=1e-300
                )


@every_sequence_case
def test_a_sequence_without_tokens_is_dropped(correction: Correction) -> None:
    mask = np.array([[True, True], [False, False]])
    found = correction.weights(np.array([[0.1, -0.1], [math.nan, INF]]), mask=mask, advantages=np.ones((2, 1)))
    np.testing.assert_array_equal(found.accept[1], 0.0)
    np.testing.assert_array_equal(found.weight[1], 0.0)
    for shape in ((0, 3), (3, 0)):
        assert weigh(correction, np.zeros(shape)).accept.shape == shape


@every_sequence_case
def test_a_senseless_mask_is_refused(correction: Correction) -> None:
    context: dict[str, Any] = {"advantages": np.ones((2, 1))}
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1\)"):
        correction.weights(np.zeros((2, 3)), mask=np.ones((2, 1), dtype=bool), **context)
    with pytest.raises(TypeError, match="mask must be boolean, True on what counts, got dtype float64: pass mask != 0"):
        correction.weights(np.zeros((2, 3)), mask=np.ones((2, 3)), **context)
    with pytest.raises(ValueError, match=r"log_ratio of shape \(\.\.\., length\)"):
        correction.weights(np.zeros(()), advantages=np.ones(()))


@every_case
def test_the_limit_of_what_does_not_look_at_the_batch_is_itself(correction: Correction) -> None:
    limit = correction.in_the_limit(
        Tokens(draws((3, 4)), overlap=np.array(OVERLAP), advantages=np.ones((3, 1))), np.full(3, 1 / 3)
    )
    assert not limit.looks_at_batch
    assert (limit == correction) is not correction.looks_at_batch
    assert limit.name == correction.name
    assert pickle.loads(pickle.dumps(limit)) == limit


@every_case
def test_nan_is_refused(correction: Correction) -> None:
    with pytest.raises(ValueError, match="log_ratio holds NaN"):
        weigh(correction, np.array([0.0, math.nan]))


@every_case
def test_a_missing_or_senseless_overlap_is_refused(correction: Correction) -> None:
    if correction.overlap_lam is None:
        assert weigh(correction, np.zeros(3)).accept.shape == (3,)
        return
    with pytest.raises(ValueError, match="overlap"):
        correction.weights(np.zeros(3))
    for overlap in (math.nan, -0.1):
        with pytest.raises(ValueError, match="overlap"):
            correction.weights(np.zeros((2, 1)), np.array([[0.5], [overlap]]))


@every_token_case
def test_integers_are_refused(correction: Correction) -> None:
    with pytest.raises(TypeError, match="real floating"):
        weigh(correction, np.zeros(3, dtype=np.int64))


# ------------------------------------------------------------------ the table


def test_the_tables_know_every_estimator() -> None:
    for table, level in (
        (brute.TABLE | brute.TOKEN_TABLE, Level.TOKEN),
        (brute.SEQUENCE_TABLE, Level.SEQUENCE),
    ):
        registered = {c.name for c in DEFAULTS if c.level is level}
        assert registered == set(table), "write the new estimator into brute.py's table, from its definition"


@every_sequence_case
def test_pair_is_the_sequence_tables(correction: Correction) -> None:
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    for seed, scale in enumerate([1e-4, 1e-2, 0.3, 1.0, 3.0]):
        for advantage in (1.5, -0.5):
            log_ratio = draws((7,), seed, scale)
            expected = brute.SEQUENCE_TABLE[inner.name](list(log_ratio), advantage, **inner.parameters())
            if inner is not correction:
                expected = [(1.0, a * w) for a, w in expected]
            accept, weight = correction.weights(log_ratio, advantages=np.array([advantage]))
            np.testing.assert_allclose(accept, [a for a, _ in expected], rtol=1e-13)
            np.testing.assert_allclose(weight, [w for _, w in expected], rtol=1e-13)


def rule_of(correction: Correction) -> Any:
    """The correction's rule of one token, as the tables have it."""
    if isinstance(correction, RaoBlackwell):
        inner = rule_of(correction.of)

        def smooth(token: brute.Seen) -> tuple[float, float]:
            accept, weight = inner(token)
            return 1.0, accept * weight

        return smooth
    return brute.rule_of(correction)


@every_token_case
def test_pair_is_the_tables(correction: Correction) -> None:
    ratio = np.array([1e-9, 0.1, 0.37, 0.49, 0.51, 0.79, 0.81, 0.999, 1.0, 1.19, 1.21, 1.9, 2.1, 4.9, 5.1, 60.0, 1e7])
    accept, weight = weigh(correction, np.log(ratio))
    expected = by_the_table(correction, np.log(ratio))
    np.testing.assert_allclose(accept, [a for a, _ in expected], rtol=1e-13)
    np.testing.assert_allclose(weight, [w for _, w in expected], rtol=1e-13)


@every_token_case
def test_a_token_at_the_band_edge_is_kept(correction: Correction) -> None:
    if not hasattr(correction, "_bounds"):
        return
    for edge, beyond in zip(correction._bounds(), (-INF, INF), strict=True):
        if math.isfinite(edge):
            accept = weigh(correction, np.array([edge, np.nextafter(edge, beyond)])).accept
            np.testing.assert_array_equal(accept, [1.0, 0.0])


@each("bound", [1e-6, 0.02, 1.0, 60.0, 699.0, 701.0, 1e4])
def test_the_k3_band_ends_where_k3_is_the_bound(bound: float) -> None:
    low, high = (np.longdouble(edge) for edge in estimators.get("mask-k3", bound=bound)._bounds())  # type: ignore[attr-defined]
    assert low < 0 < high
    for edge in (low, high):
        np.testing.assert_allclose(float(np.expm1(edge) - edge), bound, rtol=1e-9)


# ------------------------------------------------------------------ the pieces


def evaluate(pieces: tuple[Piece, ...], log_ratio: Any) -> tuple[Any, Any]:
    """(a, w) as the pieces have them."""
    found = []
    for value in log_ratio:
        piece = next(p for p in pieces if value < p.upper or (p.closed and value == p.upper))
        found.append([m.coefficient * math.exp(m.power * value) for m in (piece.accept, piece.weight)])
    return tuple(np.array(found).T)


PATHLESS = {"tv-mask", "binary-kl-mask", "dppo-tv", "dppo-kl", "sapo"}
"""Corrections that are not piecewise monomial in r, given Z and the sign of A."""


@each("correction, overlap, sign", every(TOKEN_CASES, [0.05, OVERLAP], [-1, 0, 1]))
def test_pieces_are_the_weights(correction: Correction, overlap: float, sign: int) -> None:
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    z = None if correction.overlap_lam is None else np.float64(overlap)
    if inner.name in PATHLESS:
        with pytest.raises(TypeError, match=f"{inner.name} is not piecewise monomial"):
            correction.pieces(z, sign)
        return
    pieces = correction.pieces(z, sign)
    ends = np.array([float(piece.upper) for piece in pieces])
    assert ends[-1] == INF
    assert pieces[-1].closed
    assert np.all(ends[1:] >= ends[:-1])
    edges = ends[np.isfinite(ends)]
    at = np.concatenate([draws((60,), scale=2.0), edges, np.nextafter(edges, -INF), np.nextafter(edges, INF)])
    accept, weight = correction.weights(at, z, advantages=np.full_like(at, sign))
    from_accept, from_weight = evaluate(pieces, at)
    np.testing.assert_allclose(from_accept, accept, rtol=1e-13)
    np.testing.assert_allclose(from_weight, weight, rtol=1e-13)


def test_what_is_not_piecewise_says_so() -> None:
    class Odd(TokenCorrection):
        name = "odd"

    with pytest.raises(TypeError, match="odd is not piecewise monomial"):
        Odd().pieces()


# ---------------------------------------------------------------- Rao-Blackwell


@each("correction", [case for case in CASES if not isinstance(case, RaoBlackwell)])
def test_rao_blackwell_has_the_same_mean(correction: Correction) -> None:
    log_ratio = draws(scale=3.0)
    accept, weight = weigh(correction, log_ratio)
    smooth = weigh(rao_blackwell(correction), log_ratio)
    np.testing.assert_array_equal(smooth.accept, 1.0)
    np.testing.assert_allclose(smooth.weight, accept * weight, rtol=1e-15)


@each("smooth", [False, True])
def test_the_target_p_new_multiplies_the_weight_by_f2(smooth: bool) -> None:
    # By hand: F2 = min(p_ref/p_new, c2) with ratios 1/4, 2, 8 and c2 = 3; Z = 0.8, λ = 1, r = 1, c1 = 2.
    plain = estimators.get("jackpot", c2=3.0)
    jackpot = rao_blackwell(plain) if smooth else plain
    accept, weight = jackpot.weights(np.zeros(3), np.array(0.8), log_reference_ratio=np.log([0.25, 2.0, 8.0]))
    np.testing.assert_allclose(weight, [0.2, 1.6, 2.4], rtol=1e-15)
    np.testing.assert_array_equal(accept, 1.0)
    # Where the target is p_ref F2 is 1, not min(1, c2).
    np.testing.assert_allclose(
        estimators.get("jackpot", c2=0.1).weights(np.zeros(1), np.array(0.8)).weight, 0.8, rtol=1e-15
    )
    with pytest.raises(ValueError, match="log_reference_ratio holds NaN"):
        jackpot.weights(np.zeros(1), np.array(0.8), log_reference_ratio=np.array([math.nan]))


# --------------------------------------------------------------------- moments


def exact(correction: Correction, cell: Cell, denominator: str) -> dict[str, Any]:
    found = moments.exact(*cell, correction, denominator=denominator, n_samples=N)
    return dataclasses.asdict(found) | {"bias_sq": found.bias**2}


@each("correction, cell, denominator", every(TOKEN_CASES, CELLS, DENOMINATORS))
def test_moments_are_those_of_brute_force(correction: Correction, cell: str, denominator: str) -> None:
    found = exact(correction, CELLS[cell], denominator)
    lam = correction.overlap_lam
    for name, expected in brute.moments(CELLS[cell], rule_of(correction), lam, denominator, N).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-11, err_msg=name)


@each(
    "correction, cell, denominator",
    rotating(SAMPLED_CASES, ["three states", "an actor that cannot reach the policy"], DENOMINATORS),
)
def test_monte_carlo_agrees_within_its_standard_error(correction: Correction, cell: str, denominator: str) -> None:
    found = exact(correction, CELLS[cell], denominator)
    generator = np.random.default_rng(zlib.crc32(f"{correction}{cell}{denominator}".encode()))
    n_samples = 1500
    estimate = sampled.estimate(*CELLS[cell], correction, generator, n_samples=n_samples, denominator=denominator)
    found["mse"] = found["bias_sq"] + found["variance"] * found["noise_to_signal"] / n_samples
    found["mse_rescaled"] = float(
        statistics.mean_squared_error_rescaled(found["gain"], found["mse"] + 2 * found["gain"] - 1)
    )
    assert set(estimate.value) == set(estimate.standard_error)
    for name, value in estimate.value.items():
        expected, error = found[name], estimate.standard_error[name]
        if name == "bias" and not (math.isfinite(value) and expected > 0.02):
            continue  # a root near 0 has no symmetric error; bias_sq has
        if math.isfinite(expected):
            assert abs(value - expected) <= 4 * error + 1e-9, f"{name}: {value} ± {error}, exact {expected}"
        else:
            np.testing.assert_equal(value, expected, err_msg=name)


# ------------------------------------------------------------------ the registry


@every_case
def test_pickles_and_is_frozen(correction: Correction) -> None:
    assert pickle.loads(pickle.dumps(correction)) == correction
    assert hash(correction) == hash(pickle.loads(pickle.dumps(correction)))
    field = next(iter(dataclasses.fields(correction)), None)  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(correction, field.name if field else "anything", 1.0)


@every_case
def test_records_can_rebuild_it(correction: Correction) -> None:
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    assert estimators.get(inner.name, **correction.parameters()) == inner


@every_name
def test_a_wrong_parameter_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' has no parameter 'bogus'"):
        estimators.get(name, bogus=1.0)
    for parameter, default in estimators.get(name).parameters().items():
        if isinstance(default, float):
            for value in (-1.0, math.nan):
                with pytest.raises(ValueError, match=rf"{name}.*{parameter}"):
                    estimators.get(name, **{parameter: value})


@each(
    "name, parameters",
    [
        ("tis", {"clip": 0.0}),
        ("obrs", {"lam": 0.0}),
        ("obrs", {"lam": INF}),
        ("jackpot", {"lam": INF}),
        ("jackpot", {"c1": 0.0}),
        ("jackpot", {"lam": np.array([[1.0], [0.0]])}),
        ("overlap-tis", {"lam": INF}),
        ("mis", {"low": 2.0, "high": 1.0}),
        ("mask-k1", {"low": 0.0, "high": 0.0}),
        ("mask-k2", {"bound": 0.0}),
        ("mask-k3", {"bound": INF}),
        ("tis", {"floor": 2.5}),
        ("tv-mask", {"epsilon": 0.0}),
        ("binary-kl-mask", {"bound": 0.0}),
        ("binary-kl-mask", {"direction": "both"}),
        ("dppo-tv", {"delta": 0.0}),
        ("dppo-kl", {"delta": -0.1}),
        ("cispo", {"low": 1.5}),
        ("cispo", {"high": np.array([[0.2], [-0.1]])}),
        ("sapo", {"tau_positive": INF}),
        ("sapo", {"tau_negative": 0.0}),
        *((name, {"c2": 0.0}) for name in ("tv-mask", "binary-kl-mask", "dppo-tv", "cispo", "sapo", "topr")),
        ("tis", {"floor": 0.5, "clip": np.array([1.0, 0.2])}),
        ("sequence-tis", {"clip": 0.0}),
        ("sequence-mis", {"low": 4.0}),
        ("geometric-mis", {"high": 0.0}),
        ("sequence-mask-k1", {"high": 0.5}),
        ("gspo", {"low": 1.5}),
        ("veto", {"threshold": 0.0}),
        ("m2po", {"threshold": INF}),
        *((name, {"aggregate": "max"}) for name in ("sequence-is", "geometric-tis", "sequence-mis")),
        *((name, {"aggregate": "median"}) for name in ("sequence-is", *K_MASKS)),
        ("sequence-mask-k1", {"aggregate": "max"}),
    ],
)
def test_a_parameter_outside_its_range_is_named(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{name}: .*{next(iter(parameters))}"):
        estimators.get(name, **parameters)


@every_name
def test_a_misspelt_name_gets_a_suggestion(name: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{name}'"):
        estimators.get(name + "s" if not name.endswith("s") else name + "z")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown estimator 'qqqq' \(known: binary-kl-mask, cispo"):
        estimators.get("qqqq")


def test_the_registry_is_complete() -> None:
    def below(cls: type[Any]) -> set[type[Any]]:
        return {cls, *(found for child in cls.__subclasses__() for found in below(child))}

    concrete = {
        cls
        for cls in below(Correction)
        if cls.__module__.startswith("jackpot_sim.") and not cls.__name__.startswith("_")
        if cls not in (Correction, TokenCorrection, SequenceCorrection, *WRAPPERS)
        and not getattr(cls, "__abstractmethods__", None)
    }
    assert {type(estimators.get(name)) for name in estimators.names()} == concrete
    assert sorted(estimators.names()) == list(estimators.names())
    for name in estimators.names():
        assert estimators.get(name).name == name
    assert estimators.get("icepop") == estimators.get("mis")


def test_defaults_are_those_that_frameworks_ship() -> None:
    # verl, slime and SkyRL clip at 2; verl and OpenRLHF's IcePop is 0.5-5; ROLL keeps 0.8-1.2.
    assert estimators.get("tis").parameters() == {"clip": 2.0, "floor": 0.0, "c2": None}
    assert estimators.get("icepop").parameters() == {"low": 0.5, "high": 5.0, "c2": None}
    assert estimators.get("mask-k1").parameters() == {"low": 0.8, "high": 1.2, "inverted": False, "c2": None}
    assert estimators.get("jackpot").parameters()["lam"] == 1.0  # [J], figures
    # prime-rl's IPO; verl's DPPO, CISPO and SAPO, whose temperatures TRL has too.
    assert estimators.get("tv-mask").parameters() == {"epsilon": 0.3, "c2": None}
    assert estimators.get("dppo-tv").parameters() == {"delta": 0.2, "c2": None}
    assert estimators.get("dppo-kl").parameters() == {"delta": 0.05, "c2": None}
    assert estimators.get("cispo").parameters() == {"low": 0.2, "high": 0.2, "c2": None}
    assert estimators.get("sapo").parameters() == {"tau_positive": 1.0, "tau_negative": 1.05, "c2": None}
    # TRL's default keeps e^S ≤ 3; ms-swift's "sequence" is e^G ≤ 2; verl's geometric mask and presets; slime; AReaL.
    assert estimators.get("sequence-tis").parameters() == {"clip": 2.0, "aggregate": "sum"}
    assert estimators.get("sequence-mis").parameters() == {"low": 0.0, "high": 3.0, "aggregate": "sum"}
    assert estimators.get("geometric-tis").parameters() == {"clip": 2.0, "aggregate": "mean"}
    expected = {"low": 0.999, "high": 1.001, "aggregate": "mean", "inverted": False}
    assert estimators.get("sequence-mask-k1").parameters() == expected
    assert estimators.get("sequence-mask-k2").parameters() == {"bound": 2.5, "aggregate": "max"}
    assert estimators.get("sequence-mask-k3").parameters() == {"bound": 0.01, "aggregate": "mean"}
    assert estimators.get("gspo").parameters() == {"low": 3e-4, "high": 4e-4}
    assert estimators.get("veto").parameters() == {"threshold": 1e-4}
    assert estimators.get("opsm").parameters() == {"delta": 1e-4}
    assert estimators.get("m2po").parameters() == {"threshold": 0.04}
