"""The explorer's formulas against the project's own, to 1e-9."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from py_mini_racer import JSEvalException

from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.numerics import log_ratio, log_softmax
from jackpot_sim.core.weighted_laws import kl_to_weighted
from jackpot_sim.environments.states.compressed import QuantizedLogits
from jackpot_sim.environments.states.perturbed import Temperature
from jackpot_sim.environments.states.stale import Ascent
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation
from jackpot_sim.estimators.corrections import composed, jackpot, token
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states import moments
from jackpot_sim.estimators.statistics import Denominator
from tests.analysis.explorer_engine import Engine
from tests.cases import each

RELATIVE = 1e-9
ROUNDING = 1e-15
"""What rounding leaves of a figure that is 0; its square of one that is a squared difference."""
OF_SECOND_ORDER = {"kl", "klReverse", "chiSquare", "klAccepted", "klAcceptedReverse", "klEffective", "biasSq"}
DIVIDED = {"variance", "noise", "mse", "mseRescaled"}
State = tuple[Floats, Floats, Floats]
"""log p, log q and A, each (vocab,)."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("formulas.js", "laws.js") as loaded:
        yield loaded


def law(logits: Floats) -> Floats:
    return np.asarray(log_softmax(logits))


def random_state(seed: int) -> State:
    """A state whose vocabulary, spread and mismatch vary over orders of magnitude; a third have zeros in p or q."""
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([2, 3, 10, 50, 200]))
    logits = rng.normal(0, rng.choice([0.1, 1, 4]), vocab)
    other = logits + 10 ** rng.uniform(-6, 0.5) * rng.normal(size=vocab)
    if seed % 3 == 0:
        logits[rng.random(vocab) < 0.2], other[rng.random(vocab) < 0.2] = -np.inf, -np.inf
        logits[0], other[0] = 1.0, 1.5
    return law(logits), law(other), rng.normal(size=vocab)


def logs(*probabilities: float) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities))


def of_a_thousand() -> State:
    rng = np.random.default_rng(7)
    p = law(rng.normal(0, 2, 1000))
    return p, law(p + 0.3 * rng.normal(size=1000)), rng.normal(size=1000)


WORTH = np.array([1.0, -0.5, 0.25])
EDGES: dict[str, State] = {
    "the actor lacks a token": (logs(0.5, 0.3, 0.2), logs(0.6, 0.4, 0.0), WORTH),
    "the policy lacks a token": (logs(0.5, 0.5, 0.0), logs(0.2, 0.2, 0.6), WORTH),
    "both lack one": (logs(0.5, 0.5, 0.0), logs(0.5, 0.0, 0.5), WORTH),
    "the policy is one-hot": (logs(1.0, 0.0, 0.0), logs(0.5, 0.3, 0.2), WORTH),
    "the actor is one-hot": (logs(0.5, 0.3, 0.2), logs(1.0, 0.0, 0.0), WORTH),
    "no token is shared": (logs(1.0, 0.0, 0.0), logs(0.0, 0.5, 0.5), WORTH),
    "equal laws": (logs(0.5, 0.3, 0.2), logs(0.5, 0.3, 0.2), WORTH),
    "a constant advantage": (logs(0.5, 0.3, 0.2), logs(0.2, 0.3, 0.5), np.full(3, 0.1)),
    "two tokens": (logs(0.9, 0.1), logs(0.4, 0.6), WORTH[:2]),
    "a thousand tokens": of_a_thousand(),
}


def correction(name: str, lam: float, clip: float, low: float, high: float) -> Correction:
    drawn = jackpot.Jackpot(lam=lam, c1=clip)
    return {
        "none": token.NoCorrection(),
        "is": token.ImportanceSampling(),
        "tis": token.TruncatedImportanceSampling(clip=clip),
        "mis": token.MaskedImportanceSampling(low=low, high=high),
        "mask": token.RatioMask(low=low, high=high),
        "obrs": token.RejectionSampling(lam=lam),
        "jackpot": drawn,
        "rao-blackwell": composed.rao_blackwell(drawn),
    }[name]


def correction_names() -> list[str]:
    return ["none", "is", "tis", "mis", "mask", "obrs", "jackpot", "rao-blackwell"]


def same(found: Any, wanted: Any, figure: str, of: str = "", lam: float = 1.0) -> None:
    zero = ROUNDING
    if figure in DIVIDED:  # by an acceptance rate of about 1/λ
        zero *= max(1.0, lam)
    if figure in OF_SECOND_ORDER:
        zero = (ROUNDING * max(1.0, lam)) ** 2
    np.testing.assert_allclose(found, wanted, rtol=RELATIVE, atol=zero, err_msg=f"{figure} {of}")


def check(engine: Engine, state: State, lam: float, clip: float, denominator: Denominator, n: int) -> None:
    """Every figure of the page, at one setting."""
    log_p, log_q, advantage = state
    low, high = 0.5, 5.0
    knobs = {"lam": lam, "clip": clip, "low": low, "high": high, "denominator": str(denominator), "nSamples": n}
    found = engine("formulas.measure", log_p, log_q, advantage, knobs)
    share_a_token = bool(np.any((log_p > -np.inf) & (log_q > -np.inf)))
    ratio = np.asarray(log_ratio(log_p, log_q))
    accepted = obrs.accepted_log_probs(log_p, log_q, lam) if share_a_token else np.full(log_p.shape, math.nan)
    wanted: dict[str, object] = {
        "lam": lam,
        "overlap": obrs.overlap(log_p, log_q, lam),
        "overlapAtOne": obrs.overlap(log_p, log_q, 1.0),
        "totalVariation": divergences.total_variation(log_p, log_q),
        "kl": divergences.kl(log_p, log_q),
        "klReverse": divergences.kl(log_q, log_p),
        "chiSquare": divergences.chi_square(log_p, log_q),
        "klAccepted": kl_to_weighted(log_p, log_q, obrs.acceptance_probability(ratio, lam)),
        "klAcceptedReverse": divergences.kl(accepted, log_p) if share_a_token else math.nan,
        "accepted": accepted,
        "logRatio": ratio,
    }
    corrections = found.pop("corrections")
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        same(found[name], value, name, lam=lam)
    assert set(corrections) == set(correction_names())
    for name, shown in corrections.items():
        made = correction(name, lam, clip, low, high)
        exact = moments.exact(log_p, log_q, advantage, made, denominator=denominator, n_samples=n)
        check_moments(shown, exact, n, name, lam)


def check_moments(shown: dict[str, float], exact: moments.Moments, n: int, name: str, lam: float) -> None:
    (estimate_sq,) = exact.per_state.estimate_sq
    wanted = {
        "acceptanceRate": exact.acceptance_rate,
        "klAccepted": exact.kl_accepted,
        "klEffective": exact.kl_effective,
        "bias": exact.bias,
        "directionBias": exact.direction_bias,
        "gain": exact.gain,
        "variance": exact.variance,
        "noiseToSignal": exact.noise_to_signal,
        "essFraction": exact.ess_fraction,
        "sizeSq": estimate_sq / exact.grad_norm_sq if exact.grad_norm_sq else math.nan,
        "biasSq": exact.bias**2,
        "noise": exact.variance * exact.noise_to_signal / n,
        "mse": exact.mse,
        "mseRescaled": exact.mse_rescaled,
    }
    assert set(shown) == set(wanted)
    for figure, value in wanted.items():
        same(shown[figure], value, figure, name, lam)


@each("seed", range(40))
def test_every_figure_at_random_states(engine: Engine, seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    lam, clip = 10 ** rng.uniform(-1, 1, 2)
    check(engine, random_state(seed), lam, clip, list(Denominator)[seed % 3], int(10 ** rng.uniform(0, 5)))


@each("name", EDGES)
def test_every_figure_at_the_edges(engine: Engine, name: str) -> None:
    for lam in (1e-6, 1.0, 1e6):
        for denominator in Denominator:
            check(engine, EDGES[name], lam, 2.0, denominator, 64)


@each("seed", range(12))
def test_the_curve_of_all_lam(engine: Engine, seed: int) -> None:
    log_p, log_q, _ = random_state(seed)
    lams = (10 ** np.linspace(-2, 2, 9)).tolist()
    ratio = log_ratio(log_p, log_q)
    for point, lam in zip(engine("formulas.tradeOff", log_p, log_q, lams), lams, strict=True):
        assert point["lam"] == lam
        same(point["rate"], obrs.overlap(log_p, log_q, lam), "overlap")
        same(point["kl"], kl_to_weighted(log_p, log_q, obrs.acceptance_probability(ratio, lam)), "klAccepted", lam=lam)


@each("seed", range(24))
def test_lam_of_a_budget(engine: Engine, seed: int) -> None:
    log_p, log_q, _ = random_state(seed)
    most = float(np.sum(np.exp(log_q[log_p > -np.inf])))
    found = engine("formulas.largestRate", log_p, log_q)
    same(found["mass"], most, "overlap")
    for rate in (1e-3, 0.3 * most, 0.9 * most, most):
        same(engine("formulas.solveLam", log_p, log_q, rate), obrs.solve_lam(log_p, log_q, rate), "lam")


def test_a_budget_of_one_and_beyond(engine: Engine) -> None:
    log_p, log_q, _ = EDGES["two tokens"]
    assert engine("formulas.solveLam", log_p, log_q, 1.0) == pytest.approx(0.1 / 0.6, rel=RELATIVE)
    for name, rate in (("the policy lacks a token", 1.0), ("no token is shared", 0.5), ("two tokens", 0.0)):
        with pytest.raises(ValueError, match=r"attainable|share no token|must be positive"):
            obrs.solve_lam(*EDGES[name][:2], rate)
        with pytest.raises(JSEvalException, match=r"attainable|share no token|must be positive"):
            engine("formulas.solveLam", *EDGES[name][:2], rate)


@each("seed", range(4))
def test_the_actors_are_those_of_the_environments(engine: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, normal, worth = law(rng.normal(0, 2, 60)), rng.normal(size=60), rng.normal(size=60)
    mixed = law(rng.normal(size=60))
    drawn = {"normal": normal, "mixed": mixed, "advantage": worth}

    def found(family: str, knob: float) -> dict[str, Any]:
        return dict(engine(f"laws.FAMILIES[{family!r}]", base, knob, drawn))

    actors = {
        ("logit-noise", 0.7): law(base + 0.7 * normal),
        ("dirichlet-mixture", 0.2): np.log(0.8 * np.exp(base) + 0.2 * np.exp(mixed)),
        ("dirichlet-mixture", 0.0): base,
        ("dirichlet-mixture", 1.0): mixed,
    }
    kinds = [
        *(Temperature(temperature=t) for t in (0.5, 1.7)),
        *(QuantizedLogits(bits=bits) for bits in (1, 4, 16)),
        *(TopKTruncation(k=k) for k in (1, 7, 60)),
        *(TopPTruncation(p=share) for share in (0.1, 0.9, 1.0)),
    ]
    rows = base[None]
    for kind in kinds:
        assert kind.knob is not None
        actors[kind.kind, kind.knob] = kind.laws(rows, worth[None], 0)(kind.knob)[1][0]
    for (family, knob), actor in actors.items():
        same(found(family, knob)["actor"], actor, family)
        assert found(family, knob)["policy"] == base.tolist()
    halves = np.array([-3.0, -2.5, -1.5, 0.0])  # which go to the even level
    rounded = QuantizedLogits(bits=2).laws(halves[None], worth[None], 0)(2)[1][0]
    same(engine("laws.FAMILIES['quantized-logits']", halves, 2, drawn)["actor"], rounded, "quantized-logits")
    stale = found("stale", 40)
    same(stale["policy"], Ascent(rows, worth[None], 1.0).log_probs_after(40)[0], "stale")
    assert stale["actor"] == base.tolist()


@each("base, shape", [("zipf", 1.2), ("dirichlet", 0.05), ("dirichlet", 2.0), ("near-certain", 5.0)])
def test_what_is_drawn_is_laws_and_the_same_again(engine: Engine, base: str, shape: float) -> None:
    asked = {"seed": 3, "vocab": 500, "base": base, "shape": shape, "advantage": "binary"}
    drawn = engine("laws.drawn", asked)
    assert drawn == engine("laws.drawn", asked)
    for name in ("law", "mixed"):
        assert np.exp(drawn[name]).sum() == pytest.approx(1, abs=1e-12)
    assert np.mean(drawn["normal"]) == pytest.approx(0, abs=4 / np.sqrt(500))
    assert np.std(drawn["normal"]) == pytest.approx(1, abs=0.15)
    assert np.exp(drawn["law"]) @ np.asarray(drawn["advantage"]) == pytest.approx(0, abs=1e-12)
    assert engine("laws.drawn", {**asked, "seed": 4})["normal"] != drawn["normal"]
