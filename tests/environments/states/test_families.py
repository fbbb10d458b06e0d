"""Every mismatch family gets every contract test, from the one list `CASES`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core import divergences
from jackpot_sim.environments.policy_pair import Realised
from jackpot_sim.environments.states.actor_file import ActorFile
from jackpot_sim.environments.states.advantage import BinaryReward, NormalAdvantage
from jackpot_sim.environments.states.base_laws import BaseLaw, Dirichlet, LmLike, LogitsFile
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.families import FAMILIES, Mismatch
from jackpot_sim.environments.states.ngram import Ngram
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import StaleLogits
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation
from jackpot_sim.environments.targets import RELATIVE_TOLERANCE

SMALL = Dirichlet(vocab=40, states=8)

ACTOR = Path("actor.npy")


@pytest.fixture(autouse=True, scope="module")
def actor_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In the folder where the tests run: logits that fit `SMALL`, under a name that cases can hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("actor"))
        np.save(ACTOR, 2 * np.random.default_rng(0).standard_normal((8, 40)))
        yield


@dataclass(frozen=True)
class Case:
    family: type[Mismatch]
    outwards: tuple[Any, ...]  # knobs from little mismatch to much
    target: float
    beyond: float  # a target that nothing attains; a colder actor attains all
    bad: tuple[Any, ...]
    identity: Any = None  # the knob at which the policies agree; no grid of logits holds them all
    continuous: bool = False
    base: BaseLaw = SMALL
    options: tuple[tuple[str, Any], ...] = ()  # beside a target only
    always: tuple[tuple[str, Any], ...] = ()

    def __call__(self, **given: Any) -> Mismatch:
        return self.family(**{"base": self.base, **dict(self.always), **dict(self.options), **given})

    def at(self, knob: Any, seed: int = 0) -> Realised:
        return self(**{self.family.knob_name: knob}).build(seed)


CASES = (
    Case(DirichletMixture, (0.01, 0.1, 0.5, 1.0), 0.01, 50.0, (-0.1, 1.1, math.nan), identity=0.0, continuous=True),
    Case(LogitNoise, (1e-3, 0.1, 1.0, 20.0), 0.01, 1e9, (-1.0, math.inf, math.nan), identity=0.0, continuous=True),
    Case(Temperature, (1.01, 1.5, 4.0, 1e3), 0.01, 5.0, (0.0, -1.0, math.nan), identity=1.0, continuous=True),
    Case(
        Temperature, (0.99, 0.7, 0.1, 0.01), 0.01, math.inf, (0.0,), identity=1.0, continuous=True,
        options=(("colder", True),),
    ),
    Case(TopKTruncation, (39, 30, 10, 1), 0.05, 50.0, (0, 41, 2.5, -1), identity=40),
    Case(TopPTruncation, (0.999, 0.9, 0.5, 1e-9), 0.05, 50.0, (0.0, -0.5, 1.5, math.nan), identity=1.0),
    Case(QuantizedLogits, (16, 8, 4, 2, 1), 0.01, 50.0, (0, 17, 1.5)),
    Case(LowRank, (7, 5, 3, 1), 0.1, 50.0, (0, 9, 1.5), identity=8),
    Case(StaleLogits, (1, 10, 100, 1000), 0.1, 50.0, (-1, 0.5), identity=0),
    Case(LowerOrder, (3, 2, 1), 0.9, 50.0, (0, 5, 1.5), identity=4, base=Ngram(order=4, states=8, max_bytes=200_000)),
    Case(
        ActorFile, (0.01, 0.1, 0.5, 1.0), 0.01, 50.0, (-0.1, 1.1, math.nan), identity=0.0, continuous=True,
        always=(("path", ACTOR),),
    ),
)  # fmt: skip


def case_id(case: Case) -> str:
    return "-".join([case.family.__name__, *(name for name, _ in case.options)])


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def given_knob(case: Case) -> Case:
    """A side of a target says nothing beside a knob, and is refused."""
    return replace(case, options=())


def test_every_family_has_a_case() -> None:
    assert {case.family for case in CASES} == set(FAMILIES)


@every_case
def test_laws_are_valid_and_what_was_used_is_recorded(case: Case) -> None:
    case = given_knob(case)
    realised = case.at(case.outwards[1])
    pair = realised.pair  # PolicyPair has checked laws, shapes and finiteness
    assert pair.policy_log_probs.shape == pair.advantage.shape
    assert (realised.knob, realised.target_kl) == (case.outwards[1], None)
    forwards = case.family.target_divergence == "kl_policy_actor"
    p, q = (pair.policy_log_probs, pair.actor_log_probs)[:: 1 if forwards else -1]
    assert realised.achieved == np.mean(divergences.kl(p, q))
    assert 0 < realised.achieved < math.inf


@pytest.mark.parametrize("case", [case for case in CASES if case.identity is not None], ids=case_id)
def test_no_mismatch_at_the_knobs_own_end(case: Case) -> None:
    case = given_knob(case)
    realised = case.at(case.identity)
    np.testing.assert_allclose(realised.pair.actor_log_probs, realised.pair.policy_log_probs, rtol=0, atol=1e-14)
    assert realised.achieved < 1e-28


@every_case
@pytest.mark.parametrize("base", [None, LmLike(vocab=40, states=8)], ids=["own", "lm-like"])
def test_kl_grows_outwards(case: Case, base: BaseLaw | None) -> None:
    case = given_knob(case)
    if base is not None and case.family is not LowerOrder:
        case = replace(case, base=base)
    kls = [case.at(knob).achieved for knob in case.outwards]
    assert kls == sorted(kls)
    assert kls[0] < kls[-1]


@every_case
def test_the_same_seed_gives_the_same_pair_whatever_else_was_built(case: Case) -> None:
    case = given_knob(case)
    first = case.at(case.outwards[1], seed=5)
    for knob in case.outwards:
        case.at(knob, seed=5)
        case.at(knob, seed=6)
    again, other = case.at(case.outwards[1], seed=5), case.at(case.outwards[1], seed=6)
    for name in ("policy_log_probs", "actor_log_probs", "advantage"):
        np.testing.assert_array_equal(getattr(first.pair, name), getattr(again.pair, name))
        assert np.any(getattr(first.pair, name) != getattr(other.pair, name))


@every_case
def test_the_knob_moves_one_policy_and_nothing_else(case: Case) -> None:
    case = given_knob(case)
    near, far = case.at(case.outwards[0]), case.at(case.outwards[-1])
    fixed, moved = "policy_log_probs", "actor_log_probs"
    if case.family is StaleLogits:
        fixed, moved = moved, fixed
    np.testing.assert_array_equal(getattr(near.pair, fixed), getattr(far.pair, fixed))
    np.testing.assert_array_equal(near.pair.advantage, far.pair.advantage)
    assert np.any(getattr(near.pair, moved) != getattr(far.pair, moved))


@every_case
def test_target_is_reached(case: Case) -> None:
    realised = case(target_kl=case.target).build(0)
    assert realised.target_kl == case.target
    again = given_knob(case).at(
        realised.knob if case.continuous or case.family is TopPTruncation else int(realised.knob)
    )
    assert again.achieved == realised.achieved
    if case.continuous:
        assert realised.achieved == pytest.approx(case.target, rel=RELATIVE_TOLERANCE)


DISCRETE = {
    TopKTruncation: range(1, 41),
    TopPTruncation: 1 - np.arange(1, 20_000) / 20_000,
    QuantizedLogits: range(1, 17),
    LowRank: range(1, 9),
    StaleLogits: range(300),
    LowerOrder: range(1, 5),
}


@pytest.mark.parametrize("case", [case for case in CASES if not case.continuous], ids=case_id)
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_discrete_target_is_the_nearest_there_is(case: Case, factor: float) -> None:
    target = case.target * factor
    attainable = np.array(
        [case.at(knob).achieved for knob in DISCRETE[case.family][:: 20 if case.family is TopPTruncation else 1]]
    )
    assert attainable[attainable > 0].min() <= target <= attainable.max()
    with np.errstate(divide="ignore"):
        best = np.min(np.abs(np.log(attainable / target)))
    found = abs(math.log(case(target_kl=target).build(0).achieved / target))
    # The scan of top-p is a sample of the steps; of the others it is all there is.
    assert found <= best + 1e-12 if case.family is TopPTruncation else found == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.beyond < math.inf], ids=case_id)
def test_unattainable_target_gives_the_attainable_range(case: Case) -> None:
    with pytest.raises(ValueError, match="is unattainable") as error:
        case(target_kl=case.beyond).build(0)
    *_, low, _, high = str(error.value).split()
    assert 0 <= float(low) < float(high) < case.beyond
    assert case.family.target_divergence in str(error.value)
    # The range means what it says: a target just inside its upper end is met.
    inside = float(high) * (1 - 1e-5)
    assert case(target_kl=inside).build(0).achieved == pytest.approx(inside, rel=1e-4)


@every_case
def test_a_target_below_what_a_discrete_knob_attains_is_refused(case: Case) -> None:
    if case.continuous:
        assert case(target_kl=1e-9).build(0).achieved == pytest.approx(1e-9, rel=1e-9)
    else:
        with pytest.raises(ValueError, match="unattainable"):
            case(target_kl=1e-30).build(0)


@pytest.mark.parametrize("case", [case for case in CASES if case.family is not LowerOrder], ids=case_id)
def test_no_vocabulary_to_differ_over(case: Case, tmp_path: Path) -> None:
    if case.family is ActorFile:
        np.save(tmp_path / "one.npy", np.zeros((2, 1)))
        case = replace(case, always=(("path", tmp_path / "one.npy"),))
    with pytest.raises(ValueError, match=r"unattainable.* from 0 to 0"):
        replace(case, base=Dirichlet(vocab=1, states=2))(target_kl=0.01).build(0)


@every_case
def test_bad_knob_is_refused_by_name(case: Case) -> None:
    case = given_knob(case)
    for bad in case.bad:
        with pytest.raises(ValueError, match=f"^{case.family.knob_name} must .*got {bad}"):
            case.at(bad)


@every_case
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_target_is_refused(case: Case, bad: float) -> None:
    with pytest.raises(ValueError, match=r"^target_kl must be positive and finite"):
        case(target_kl=bad)


@every_case
def test_exactly_one_of_knob_and_target(case: Case) -> None:
    name = case.family.knob_name
    with pytest.raises(ValueError, match=f"exactly one of {name} and target_kl, got neither"):
        case()
    with pytest.raises(ValueError, match=f"exactly one of {name} and target_kl, got both"):
        case(target_kl=0.1, **{name: case.outwards[0]})


@every_case
def test_advantage_does_not_depend_on_the_family(case: Case) -> None:
    case = replace(given_knob(case), base=SMALL) if case.family is not LowerOrder else case
    reference = LogitNoise(base=case.base, sigma=0.1).build(0)
    np.testing.assert_array_equal(given_knob(case).at(case.outwards[0]).pair.advantage, reference.pair.advantage)


def test_zeros_of_a_file_stay_zeros_in_every_family(tmp_path: Any) -> None:
    logits = np.random.default_rng(0).normal(size=(4, 6))
    logits[:, 2] = -np.inf
    np.save(tmp_path / "logits.npy", logits)
    base = LogitsFile(path=tmp_path / "logits.npy")
    for family in (
        LogitNoise(base=base, sigma=0.3), Temperature(base=base, temperature=2.0), TopKTruncation(base=base, k=3),
        TopPTruncation(base=base, p=0.7), QuantizedLogits(base=base, bits=3), StaleLogits(base=base, steps=20),
        ActorFile(base=base, path=base.path, share=0.5),
    ):  # fmt: skip
        pair = family.build(0).pair
        assert np.all(np.isneginf(pair.actor_log_probs[:, 2]))
        assert np.all(np.isneginf(pair.policy_log_probs[:, 2]))


@pytest.mark.parametrize(
    "family",
    [
        QuantizedLogits(bits=2),
        LowRank(rank=1),
        Temperature(temperature=2.0),
        TopKTruncation(k=1),
        TopPTruncation(p=0.5),
        DirichletMixture(epsilon=0.1),
        LogitNoise(sigma=0.1),
        StaleLogits(steps=1),
    ],
    ids=lambda each: each.kind,
)
def test_a_base_law_of_another_shape_is_refused(family: Any) -> None:
    base = np.log(np.full((2, 2), 0.5))
    assert family.knob is not None
    for wrong in (base[0], base[None], base > 0):
        with pytest.raises((TypeError, ValueError), match="base "):
            family.laws(wrong, np.zeros(wrong.shape), 0)(family.knob)
    for advantage in (NormalAdvantage(), BinaryReward()):
        with pytest.raises(ValueError, match="log_probs has shape"):
            advantage.draw(base[0], np.random.default_rng(0))
