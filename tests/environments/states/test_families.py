"""Every mismatch family gets every contract test, from the one list `CASES`."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core import divergences, obrs
from jackpot_sim.environments.policy_pair import Realised
from jackpot_sim.environments.states.actor_file import ActorFile
from jackpot_sim.environments.states.advantage import BinaryReward, FileAdvantage, NormalAdvantage
from jackpot_sim.environments.states.base_laws import BaseLaw, Dirichlet, LmLike, LogitsFile, Zipf
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.families import FAMILIES, Mismatch
from jackpot_sim.environments.states.ngram import Ngram
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import Ascent, StaleLogits
from jackpot_sim.environments.states.truncated import Ranked, TopKTruncation, TopPTruncation
from jackpot_sim.environments.targets import RELATIVE_TOLERANCE
from tests.cases import each

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


# What single families promise beyond the contract.


@pytest.mark.parametrize(
    ("kl", "acceptance"), [(0.00145, 0.9840), (0.00412, 0.9716), (0.0100, 0.9530), (0.0231, 0.9237)]
)
def test_acceptance_of_figure_2(kl: float, acceptance: float) -> None:
    """[J] Fig. 2: p ~ Dirichlet(2), V = 1000, λ = 1, read off the plot to ±0.002."""
    pair = DirichletMixture(base=Dirichlet(vocab=1000, states=64, concentration=2.0), target_kl=kl).build(0).pair
    assert np.mean(obrs.overlap(pair.policy_log_probs, pair.actor_log_probs)) == pytest.approx(acceptance, abs=0.002)


@pytest.mark.parametrize(("kl", "after"), [(0.0100, 0.00084), (0.0231, 0.00235)])
def test_kl_after_rejection_of_figure_2(kl: float, after: float) -> None:
    pair = DirichletMixture(target_kl=kl).build(0).pair
    accepted = obrs.accepted_log_probs(pair.policy_log_probs, pair.actor_log_probs, 1.0)
    assert np.mean(divergences.kl(pair.policy_log_probs, accepted)) == pytest.approx(after, abs=2e-4)


def test_gaussian_limit_of_logit_noise() -> None:
    """At a large vocabulary KL = σ²/2."""
    realised = LogitNoise(base=Zipf(vocab=20_000, states=16, exponent=0.3), sigma=0.2).build(0)
    assert realised.achieved == pytest.approx(0.02, rel=0.02)


def test_one_noise_direction_is_scaled_by_sigma() -> None:
    def direction(sigma: float) -> np.ndarray:
        pair = LogitNoise(base=SMALL, sigma=sigma).build(0).pair
        log_ratio = pair.actor_log_probs - pair.policy_log_probs
        return (log_ratio - log_ratio.mean(axis=1, keepdims=True)) / sigma

    np.testing.assert_allclose(direction(0.1), direction(2.0), atol=1e-12)


def test_families_do_not_share_their_noise() -> None:
    mixture, noise = DirichletMixture(base=SMALL, epsilon=0.5), LogitNoise(base=SMALL, sigma=0.5)
    assert mixture.noise(0).random() != noise.noise(0).random()


def test_both_sides_of_a_temperature() -> None:
    hotter, colder = (Temperature(base=SMALL, target_kl=0.02, colder=side).build(0) for side in (False, True))
    assert colder.knob < 1 < hotter.knob
    with pytest.raises(ValueError, match=r"colder .* cannot be given with temperature"):
        Temperature(temperature=0.5, colder=True)


@pytest.mark.parametrize(
    "family", [TopKTruncation(base=SMALL, k=7), TopPTruncation(base=SMALL, p=0.6)], ids=["top-k", "top-p"]
)
def test_truncation_violates_the_support(family: Mismatch) -> None:
    pair = family.build(0).pair
    assert np.all(np.isinf(divergences.kl(pair.policy_log_probs, pair.actor_log_probs)))
    kept = np.isfinite(pair.actor_log_probs)
    mass = np.sum(np.exp(pair.policy_log_probs), axis=-1, where=kept)
    np.testing.assert_allclose(divergences.kl(pair.actor_log_probs, pair.policy_log_probs), -np.log(mass), rtol=1e-12)


@each("p", [0.05, 0.3, 0.6, 0.61, 0.99])
def test_nucleus_is_the_smallest_set_with_the_mass(p: float) -> None:
    pair = TopPTruncation(base=SMALL, p=p).build(0).pair
    for law, actor in zip(np.exp(pair.policy_log_probs), pair.actor_log_probs, strict=True):
        kept = law[np.isfinite(actor)]
        assert kept.sum() >= p > kept.sum() - kept.min()
        assert kept.min() > law[np.isinf(actor)].max()


def test_the_smallest_nucleus_is_one_token() -> None:
    actor = TopPTruncation(base=SMALL, p=1e-300).build(0).pair.actor_log_probs
    np.testing.assert_allclose(np.sort(actor, axis=1)[:, -2:], np.tile([-np.inf, 0.0], (8, 1)), atol=1e-13)


def test_ties_go_to_the_lower_id() -> None:
    law = np.log(np.array([[0.1, 0.2, 0.2, 0.2, 0.3]]))
    assert np.isfinite(Ranked(law).keep(np.array([3]))).tolist() == [[False, True, True, False, True]]


def test_top_p_of_one_keeps_masses_that_no_sum_can_see() -> None:
    steep = Zipf(vocab=40, states=2, exponent=300.0)  # 40^−300 is far below the least float64
    pair = TopPTruncation(base=steep, p=1.0).build(0).pair
    np.testing.assert_array_equal(pair.actor_log_probs, pair.policy_log_probs)


def test_quantized_logits_lie_on_the_grid() -> None:
    pair = QuantizedLogits(base=SMALL, bits=2).build(0).pair
    assert all(len(np.unique(np.round(state, 9))) <= 4 for state in pair.actor_log_probs)
    uniform = QuantizedLogits(base=Zipf(vocab=5, states=2, exponent=0.0), bits=3).build(0)
    assert uniform.achieved == pytest.approx(0.0, abs=1e-30)


def test_low_rank_is_the_projection_on_the_leading_directions() -> None:
    """Eckart–Young, by the eigenvectors of CᵀC instead of the SVD of C."""
    pair = LowRank(base=SMALL, rank=3).build(0).pair
    centred = pair.policy_log_probs - pair.policy_log_probs.mean(axis=1, keepdims=True)
    leading = np.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:]
    projected = np.exp(centred @ leading @ leading.T)
    np.testing.assert_allclose(
        np.exp(pair.actor_log_probs), projected / projected.sum(axis=1, keepdims=True), rtol=1e-9
    )


def test_low_rank_refuses_a_law_with_zeros(tmp_path: Any) -> None:
    np.save(tmp_path / "logits.npy", np.array([[0.0, -np.inf], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="vanishes nowhere"):
        LowRank(base=LogitsFile(path=tmp_path / "logits.npy"), rank=1).build(0)


def test_stale_policy_is_one_exact_gradient_step_ahead() -> None:
    pair = StaleLogits(base=SMALL, steps=1, learning_rate=0.5).build(0).pair
    p, advantage = np.exp(pair.actor_log_probs), pair.advantage
    logits = pair.actor_log_probs + 0.5 * p * (advantage - np.sum(p * advantage, axis=1, keepdims=True))
    ahead = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(pair.policy_log_probs), ahead, rtol=1e-12)


def test_training_improves_the_expected_advantage() -> None:
    pair = StaleLogits(base=SMALL, steps=50).build(0).pair
    before, after = (np.sum(np.exp(x) * pair.advantage) for x in (pair.actor_log_probs, pair.policy_log_probs))
    assert after > before


def test_lower_order_needs_an_ngram() -> None:
    with pytest.raises(ValueError, match="base of lower-order must be an Ngram, got Zipf"):
        LowerOrder(base=Zipf(), order=1)  # type: ignore[arg-type]


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


def test_binary_reward_is_centred_under_the_policy() -> None:
    pair = LogitNoise(base=SMALL, sigma=0.1, advantage=BinaryReward(correct=0.3)).build(0).pair
    np.testing.assert_allclose(np.sum(np.exp(pair.policy_log_probs) * pair.advantage, axis=1), 0.0, atol=1e-15)
    levels = [np.unique(np.round(state, 12)) for state in pair.advantage]
    assert all(len(level) == 2 and level[1] - level[0] == pytest.approx(1.0) for level in levels)


@pytest.mark.parametrize(("law", "name"), [(BinaryReward, "correct"), (NormalAdvantage, "scale")])
def test_advantage_refuses_nonsense(law: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        law(**{name: -0.5})


def test_scale_of_the_advantage() -> None:
    single = LogitNoise(base=SMALL, sigma=0.1)
    double = dataclasses.replace(single, advantage=NormalAdvantage(scale=2.0))
    np.testing.assert_array_equal(2 * single.build(0).pair.advantage, double.build(0).pair.advantage)


INF = math.inf


def recorded(folder: Path, policy: Any, actor: Any, **given: Any) -> ActorFile:
    """The family between two models whose laws these are."""
    with np.errstate(divide="ignore"):
        np.save(folder / "p.npy", np.log(policy))
        np.save(folder / "a.npy", np.log(actor))
    return ActorFile(base=LogitsFile(path=folder / "p.npy"), path=folder / "a.npy", **given)


@each("share", [0.3, 0.999])
def test_actor_file_is_the_geometric_path(tmp_path: Path, share: float) -> None:
    p, a = np.random.default_rng(1).dirichlet(np.ones(6), size=(2, 5))
    pair = recorded(tmp_path, p, a.reshape(5, 1, 6), share=share).build(0).pair
    product = p ** (1 - share) * a**share
    np.testing.assert_allclose(np.exp(pair.actor_log_probs), product / product.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(np.exp(pair.policy_log_probs), p, rtol=1e-12)


def test_the_ends_of_actor_file_are_the_two_models_as_they_are(tmp_path: Path) -> None:
    p, a = [[0.5, 0.5, 0.0, 0.0]], [[0.3, 0.0, 0.7, 0.0]]
    one, half, zero = (recorded(tmp_path, p, a, share=share).build(0) for share in (1, 0.5, 0))
    file = LogitsFile(path=tmp_path / "a.npy").log_probs(np.random.default_rng(0))
    np.testing.assert_array_equal(one.pair.actor_log_probs, file)
    np.testing.assert_array_equal(half.pair.actor_log_probs, [[0.0, -INF, -INF, -INF]])
    np.testing.assert_array_equal(zero.pair.actor_log_probs, zero.pair.policy_log_probs)
    assert (one.achieved, half.achieved, zero.achieved) == (INF, INF, 0.0)


def test_kl_along_actor_file_is_its_cumulant_form_and_convex(tmp_path: Path) -> None:
    """KL(p‖q_s) = s·KL(p‖a) + log Σ p^(1−s) a^s."""
    p, a = np.random.default_rng(2).dirichlet(np.full(9, 0.3), size=(2, 4))
    shares = np.linspace(0.0, 1.0, 21)
    kls = np.array([recorded(tmp_path, p, a, share=float(s)).build(0).achieved for s in shares])
    line = np.mean(np.sum(p * np.log(p / a), axis=1))
    log_partition = [np.mean(np.log(np.sum(p ** (1 - s) * a**s, axis=1))) for s in shares]
    np.testing.assert_allclose(kls, shares * line + log_partition, rtol=1e-9, atol=1e-13)
    assert np.all(np.diff(kls, 2) > 0)


def test_the_whole_way_to_the_actor_is_attainable(tmp_path: Path) -> None:
    p, a = np.random.default_rng(3).dirichlet(np.ones(6), size=(2, 5))
    whole = recorded(tmp_path, p, a, share=1).build(0).achieved
    assert recorded(tmp_path, p, a, target_kl=whole).build(0).knob == pytest.approx(1.0, abs=1e-8)


def test_actor_file_with_zeros_and_a_target(tmp_path: Path) -> None:
    wider = recorded(tmp_path, [[0.5, 0.5, 0.0]], [[0.1, 0.3, 0.6]], target_kl=0.01).build(0)
    assert wider.achieved == pytest.approx(0.01, rel=RELATIVE_TOLERANCE)
    assert np.isneginf(wider.pair.actor_log_probs[0, 2])
    with pytest.raises(ValueError, match=r"cannot be met"):  # the KL jumps by −log 0.4 at the very end
        recorded(tmp_path, [[0.5, 0.5, 0.0]], [[0.1, 0.3, 0.6]], target_kl=0.5).build(0)
    with pytest.raises(ValueError, match=r"unattainable: .*a\.npy gives no support .* inf at every share above 0"):
        recorded(tmp_path, [[0.5, 0.5]], [[1.0, 0.0]], target_kl=0.01).build(0)


@pytest.mark.parametrize("knob", [{"share": 0.5}, {"target_kl": 0.1}], ids=["share", "target"])
def test_models_with_no_token_in_common_meet_nowhere(tmp_path: Path, knob: dict[str, float]) -> None:
    laws = ([[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"a\.npy: .* no token in common at state 1"):
        recorded(tmp_path, *laws, **knob).build(0)
    assert recorded(tmp_path, *laws, share=1).build(0).achieved == INF


def test_bad_actor_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npy has shape \(1, 3\), .*p\.npy has shape \(1, 2\)"):
        recorded(tmp_path, [[0.5, 0.5]], [[0.2, 0.3, 0.5]], share=0.5).build(0)
    with pytest.raises(ValueError, match=r"^actor\.npy has shape \(8, 40\), the base law \(zipf\) has shape \(2, 3\)"):
        ActorFile(base=Zipf(vocab=3, states=2), path=ACTOR, share=0.5).build(0)
    np.save(tmp_path / "probabilities.npy", np.full((8, 40), 1 / 40))
    for name, message in (("missing.npy", "cannot read logits"), ("probabilities.npy", "holds probabilities")):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            ActorFile(base=SMALL, path=tmp_path / name, share=1).build(0)


@each("dtype", [np.float16, np.float64, np.int8])
def test_advantage_from_a_file(tmp_path: Path, dtype: Any) -> None:
    values = (3 * np.random.default_rng(0).standard_normal((8, 40))).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values.reshape(2, 4, 40))
    for name in ("a.npy", "a.npz"):
        family = LogitNoise(base=SMALL, sigma=0.1, advantage=FileAdvantage(path=tmp_path / name))
        np.testing.assert_array_equal(family.build(0).pair.advantage, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((40, 8)), r"has shape \(40, 8\), the laws have \(8, 40\)"),
        (np.zeros(40), r"has shape \(40,\), the laws have \(8, 40\)"),
        (np.zeros(()), r"has shape \(\), the laws"),
        (np.zeros((2, 3, 0)), r"has shape \(2, 3, 0\), the laws"),
        (np.full((8, 40), np.nan), "holds NaN or inf"),
        (np.full((8, 40), -np.inf), "holds NaN or inf"),
        (np.zeros((8, 40), dtype=np.bool_), "must hold real numbers, got dtype bool"),
        (np.zeros((8, 40), dtype=np.complex128), "must hold real numbers, got dtype complex128"),
        (np.full((8, 40), None), "cannot read an advantage"),
    ],
)
def test_bad_advantage_file_is_refused_by_name(tmp_path: Path, values: Any, message: str) -> None:
    np.save(tmp_path / "bad.npy", values)
    with pytest.raises(ValueError, match=rf"bad\.npy: .*{message}"):
        LogitNoise(base=SMALL, sigma=0.1, advantage=FileAdvantage(path=tmp_path / "bad.npy")).build(0)


@pytest.mark.parametrize(("tokens", "p", "kept"), [(5, 0.4, 2), (20, 0.2, 4), (20, 0.8, 16), (50, 0.5, 25)])
def test_top_p_stops_at_a_mass_that_is_met_exactly(tokens: int, p: float, kept: int, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((1, tokens)))
    built = TopPTruncation(base=LogitsFile(path=tmp_path / "flat.npy"), p=p).build(0)
    assert np.isfinite(built.pair.actor_log_probs).sum() == kept


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


def test_a_stale_actor_has_a_reward_for_each_token() -> None:
    base = np.log(np.full((3, 2), 0.5))
    for reward in (np.zeros((3, 1)), np.zeros((1, 2)), np.zeros(2), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="reward has shape"):
            Ascent(base, reward, 1.0)


def test_ranks_are_kept_by_a_count_for_each_state() -> None:
    ranked = Ranked(np.log(np.full((2, 2), 0.5)))
    for wrong in (np.array([1]), np.array([[1], [1]]), np.array([1.0, 1.0]), np.array([1, 3])):
        with pytest.raises((TypeError, ValueError), match="count "):
            ranked.keep(wrong)
