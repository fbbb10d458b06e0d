"""What every correction must do. A new one joins `CASES` by being registered, and fails here until it does.

One list: every registered estimator at its defaults, variants with extreme parameters, and the
Rao-Blackwell form of each. The contracts are those of `jackpot_sim.testing`, which an author of another correction runs
too; the definitions of ours that they are compared with are in `tests/estimators/brute.py`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Denominator
from jackpot_sim.estimators.corrections.batch import BatchNormalized
from jackpot_sim.estimators.corrections.composed import Centred, Combined, RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.corrections.correction import Correction, Level, TokenCorrection
from jackpot_sim.estimators.corrections.probability import BinaryKL
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection
from jackpot_sim.testing import CONTRACTS, Contract, breach, figures
from jackpot_sim.testing.tokens import INF, OVERLAP, draws, fields_beside, weigh, weighs_tokens
from tests.cases import each, every, rotating
from tests.estimators import brute

WRAPPERS = (RaoBlackwell, BatchNormalized, Centred, Combined)
K_MASKS = ("sequence-mask-k2", "sequence-mask-k3", "sequence-mask-error")
DEFAULTS = [estimators.get(name) for name in estimators.names()]
MODERATE = [
    estimators.get("tis", clip=0.7),
    estimators.get("mis", low=0.0, high=1.5),
    estimators.get("obrs", lam=1.7),
    estimators.get("jackpot", lam=1.5, c1=0.6),
    estimators.get("jackpot", lam=0.5, c1=INF, c2=INF),
    estimators.get("jackpot", lam=1.5, c1=1.4, clip_on="ratio"),
    estimators.get("jackpot", lam=0.5, c1=3.0, clip_on="ratio"),
    estimators.get("overlap-tis", lam=2.0, c1=0.5),
    estimators.get("tis", clip=1.5, floor=0.3),
    estimators.get("tv-mask", epsilon=0.12),
    *(estimators.get("binary-kl-mask", bound=0.03, direction=each) for each in BinaryKL),
    estimators.get("dppo-tv", delta=0.07),
    estimators.get("dppo-kl", delta=0.01),
    estimators.get("cispo", low=1.0, high=4.0),
    estimators.get("cispo", low=0.6, high=0.1),
    estimators.get("sapo", tau_positive=0.3, tau_negative=4.0),
    estimators.get("ppo-clip", low=0.3, high=0.1, dual=1.5),
    estimators.get("mask-k1", low=0.6, high=1.4, inverted=True),
    estimators.get("sequence-is", aggregate="mean"),
    estimators.get("sequence-tis", clip=0.5),
    estimators.get("sequence-mis", low=0.5, high=2.0, aggregate="mean"),
    estimators.get("sequence-mask-k1", low=0.5, high=1.2, inverted=True),
    estimators.get("sequence-mask-k1", low=0.1, high=3.0, aggregate="sum"),
    *(estimators.get(name, bound=0.7, aggregate=how) for name in K_MASKS for how in ("sum", "mean", "max")),
    estimators.get("sequence-mask-error", bound=1.3),
    estimators.get("sequence-tis", clip=1.5, floor=0.5),
    estimators.get("geometric-band-is", low=0.8, high=1.1),
    estimators.get("vaco", bound=0.9),
    estimators.get("gspo", low=0.2, high=0.3),
    estimators.get("luspo", low=0.2, high=0.3),
    estimators.get("gmpo", low=0.1, high=0.6),
    estimators.get("vespo", k_positive=0.5, lambda_positive=0.7, k_negative=1.2, lambda_negative=0.1),
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
    estimators.get("jackpot", lam=2.0, c1=0.5, clip_on="ratio"),
    estimators.get("jackpot", lam=1e6, c1=INF, clip_on="ratio"),
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
    estimators.get("ppo-clip", low=1.0, high=INF, dual=INF),
    estimators.get("sapo", tau_positive=1e-6, tau_negative=1e6),
    estimators.get("mask-k1", low=0.0, high=0.5, inverted=True),
    estimators.get("sequence-tis", clip=INF),
    estimators.get("geometric-mis", low=0.0, high=INF),
    estimators.get("sequence-mask-k1", low=0.0, high=0.5, inverted=True),
    estimators.get("sequence-mask-k2", bound=INF),
    estimators.get("sequence-tis", clip=0.7, floor=0.7),
    estimators.get("sequence-mask-error", bound=INF, aggregate="max"),
    estimators.get("geometric-band-is", low=0.0, high=INF),
    estimators.get("vaco", bound=1e-9),
    estimators.get("vaco", bound=INF),
    estimators.get("gmpo", low=0.0, high=0.0),
    estimators.get("gmpo", low=INF, high=INF),
    estimators.get("vespo", k_positive=1e-6, lambda_positive=1e-6, k_negative=9.0, lambda_negative=9.0),
    estimators.get("gspo", low=1.0, high=INF),
    estimators.get("gspo", low=0.0, high=0.0),
    estimators.get("m2po", threshold=1e-8),
    estimators.get("m2po", threshold=1e8),
]


def _with_forms(corrections: list[Correction]) -> list[Any]:
    return [form for c in corrections for form in (c, rao_blackwell(c))]


CASES = _with_forms(DEFAULTS + MODERATE + EXTREME)
TOKEN_CASES = [case for case in CASES if weighs_tokens(case)]
SEQUENCE_CASES = [case for case in CASES if not weighs_tokens(case)]
SAMPLED_CASES = [case for case in _with_forms(DEFAULTS + MODERATE) if weighs_tokens(case)]
DENOMINATORS = list(Denominator)
every_case = each("correction", CASES)
every_token_case = each("correction", TOKEN_CASES)
every_sequence_case = each("correction", SEQUENCE_CASES)
every_name = each("name", estimators.names())


def by_the_table(correction: Correction, log_ratio: Any, overlap: float = OVERLAP) -> list[tuple[float, float]]:
    """(a, w) of a row of tokens, as the tables have them."""
    fields = fields_beside(log_ratio)
    columns = zip(np.exp(log_ratio), *(np.exp(fields[f"{who}_log_probs"]) for who in ("policy", "actor")), strict=True)
    seen = [brute.Seen(r, overlap, p, q, a) for (r, p, q), a in zip(columns, fields["advantages"], strict=True)]
    return [rule_of(correction)(token) for token in seen]


# ------------------------------------------------------------------- the contracts that every correction has

OF_FIGURES = (figures.has_the_moments_of_brute_force, figures.agrees_with_monte_carlo)


@each("correction, contract", every(CASES, [each for each in CONTRACTS if each not in OF_FIGURES]))
def test_contracts(correction: Correction, contract: Contract) -> None:
    assert breach(contract, correction) is None


@every_token_case
def test_moments_are_those_of_brute_force(correction: Correction) -> None:
    contract = partial(figures.has_the_moments_of_brute_force, rule=rule_of(correction))
    assert breach(contract, correction) is None


@each("correction, cell, denominator", rotating(SAMPLED_CASES, figures.SAMPLED_CELLS, DENOMINATORS))
def test_monte_carlo_agrees_within_its_standard_error(
    correction: Correction, cell: str, denominator: Denominator
) -> None:
    contract = partial(figures.agrees_with_monte_carlo_at, cell=cell, denominator=denominator)
    assert breach(contract, correction) is None


# ------------------------------------------------------------------- the pair


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


@every_sequence_case
def test_limits_of_the_ratio_of_a_whole_sequence(correction: Correction) -> None:
    rows = np.array([[-INF, 0.1], [INF, 0.1], [-INF, INF], [-750.0, 750.0], [750.0, 750.0], [-1e4, 0.0]])
    weight = weigh(correction, rows).weight
    if correction.name in ("sequence-is", "geometric-is", "sequence-tis", "geometric-tis"):
        # What the policy cannot write has p(y) = 0.
        least, largest = (correction.parameters().get(name, end) for name, end in (("floor", 0.0), ("clip", INF)))
        np.testing.assert_allclose(weight[[0, 2]], least, rtol=1e-15)
        np.testing.assert_allclose(weight[1], largest, rtol=1e-15)


@every_sequence_case
def test_a_senseless_mask_is_refused(correction: Correction) -> None:
    context: dict[str, Any] = {"advantages": np.ones((2, 1))}
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1\)"):
        correction.weights(np.zeros((2, 3)), mask=np.ones((2, 1), dtype=bool), **context)
    with pytest.raises(TypeError, match="mask must be boolean, True on what counts, got dtype float64: pass mask != 0"):
        correction.weights(np.zeros((2, 3)), mask=np.ones((2, 3)), **context)
    with pytest.raises(ValueError, match=r"log_ratio of shape \(\.\.\., length\)"):
        correction.weights(np.zeros(()), advantages=np.ones(()))


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
            # The absolute tolerance is for VESPO, whose weight e^−x at large x has x times the rounding of x.
            np.testing.assert_allclose(weight, [w for _, w in expected], rtol=1e-13, atol=1e-15)


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

PATHLESS = {"tv-mask", "binary-kl-mask", "dppo-tv", "dppo-kl", "sapo"}
"""Corrections that are not piecewise monomial in r, given Z and the sign of A."""


@every_token_case
def test_the_path_is_missing_where_there_are_no_pieces(correction: Correction) -> None:
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    z = None if correction.overlap_lam is None else np.float64(OVERLAP)
    if inner.name in PATHLESS:
        with pytest.raises(TypeError, match=f"{inner.name} is not piecewise monomial"):
            correction.pieces(z, 1)
    else:
        assert correction.pieces(z, 1)


def test_what_is_not_piecewise_says_so() -> None:
    class Odd(TokenCorrection):
        name = "odd"

    with pytest.raises(TypeError, match="odd is not piecewise monomial"):
        Odd().pieces()


# ---------------------------------------------------------------- Rao-Blackwell


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


# ------------------------------------------------------------------ the registry


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
        ("jackpot", {"clip_on": "both"}),
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
        ("ppo-clip", {"low": 1.5}),
        ("ppo-clip", {"dual": 1.0}),
        ("cispo", {"high": np.array([[0.2], [-0.1]])}),
        ("sapo", {"tau_positive": INF}),
        ("sapo", {"tau_negative": 0.0}),
        *((name, {"c2": 0.0}) for name in ("tv-mask", "binary-kl-mask", "dppo-tv", "cispo", "sapo", "topr")),
        ("tis", {"floor": 0.5, "clip": np.array([1.0, 0.2])}),
        ("sequence-tis", {"clip": 0.0}),
        ("geometric-tis", {"floor": 2.5}),
        ("sequence-mask-error", {"bound": 0.0}),
        ("geometric-band-is", {"low": 1.01}),
        ("vaco", {"bound": 0.0}),
        ("gmpo", {"low": -0.1}),
        ("luspo", {"low": 1.5}),
        ("vespo", {"k_positive": 0.0}),
        ("vespo", {"lambda_negative": INF}),
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
    assert estimators.get("sequence-tis").parameters() == {"clip": 2.0, "floor": 0.0, "aggregate": "sum"}
    assert estimators.get("sequence-mis").parameters() == {"low": 0.0, "high": 3.0, "aggregate": "sum"}
    assert estimators.get("geometric-tis").parameters() == {"clip": 2.0, "floor": 0.0, "aggregate": "mean"}
    expected = {"low": 0.999, "high": 1.001, "aggregate": "mean", "inverted": False}
    assert estimators.get("sequence-mask-k1").parameters() == expected
    assert estimators.get("sequence-mask-k2").parameters() == {"bound": 2.5, "aggregate": "max"}
    assert estimators.get("sequence-mask-k3").parameters() == {"bound": 0.01, "aggregate": "mean"}
    assert estimators.get("gspo").parameters() == {"low": 3e-4, "high": 4e-4}
    # NeMo-RL and Tunix; TRL's VESPO; TRL's GMPO, in nats.
    assert estimators.get("sequence-mask-error").parameters() == {"bound": 2.0, "aggregate": "mean"}
    assert estimators.get("geometric-band-is").parameters() == {"low": 0.999, "high": 1.002}
    assert list(estimators.get("vespo").parameters().values()) == [2.0, 3.0, 3.0, 2.0]
    assert estimators.get("gmpo").parameters() == {"low": 0.4, "high": 0.4}
    assert estimators.get("veto").parameters() == {"threshold": 1e-4}
    assert estimators.get("opsm").parameters() == {"delta": 1e-4}
    assert estimators.get("m2po").parameters() == {"threshold": 0.04}
