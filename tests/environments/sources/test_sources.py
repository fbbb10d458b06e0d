"""Every source of an actor gets every contract test, from the one list `CASES`."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim.environments.language_models.build import TinyQwen3, build
from jackpot_sim.environments.language_models.formats import Format, rounded
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import Pretraining, StrideLanguage
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.sequences.mean_kl import ExactKL
from jackpot_sim.environments.sequences.reward import SumReward
from jackpot_sim.environments.sources.actor_source import ActorSource, Setting, TinyTask, moved
from jackpot_sim.environments.sources.kinds import (
    TINY_SOURCES,
    DistilledActor,
    QuantizedKV,
    QuantizedWeights,
    SeparateActor,
    SlidingWindow,
    StaleActor,
    TemperatureSource,
    TopKSource,
    TopPSource,
    WeightNoise,
)
from jackpot_sim.environments.sources.tiny_models import GeometricMixture
from jackpot_sim.environments.targets import RELATIVE_TOLERANCE, Target

TREE = PrefixTree(4, 3, end_token=0)
PROMPTS = np.array([[1, 2, 3], [3, 1, 1]])
LANGUAGE = StrideLanguage(TREE, prompt_length=3)
SMALL = TinyQwen3(hidden=16)
BASE = Pretraining(build(SMALL, 4, keyed_generator(0, "base")), LANGUAGE, 1e-2, keyed_generator(0)).after(40)
REFEREE = ExactKL(TREE, PROMPTS)


@dataclass(frozen=True)
class Case:
    source: type[ActorSource]
    outwards: tuple[Any, ...]  # knobs from little mismatch to much
    target: float
    bad: tuple[Any, ...]
    identity: Any = None
    continuous: bool = False
    whole: range | None = None  # the values of a discrete knob, where neighbours can be compared
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, **given: Any) -> ActorSource:
        return self.source(**dict(self.options), **given)

    def at(self, knob: Any, seed: int = 0) -> tuple[Scorer, Scorer]:
        source = self(**{self.source.knob_name: knob})
        return source.actors(setting(source, seed))(knob)

    def kl(self, knob: Any, seed: int = 0) -> float:
        return mean_kl(self.source, *self.at(knob, seed))


def setting(source: ActorSource, seed: int = 0) -> Setting:
    generator = partial(keyed_generator, seed, "test")
    return Setting(
        base=BASE,
        generator=generator,
        other=build(source.other, 4, generator("other")) if source.other is not None else None,
        positions=PROMPTS.shape[1] + TREE.length,
        laws=lambda: REFEREE.laws(CausalLM(BASE)),
        task=TinyTask(PROMPTS, TREE, lambda tokens, mask: SumReward().of(tokens, mask, 4, generator("reward"))),
    )


def mean_kl(source: type[ActorSource], reference: Scorer, actor: Scorer) -> float:
    forwards = source.target_divergence == "kl_policy_actor"
    return REFEREE.kl(*((reference, actor) if forwards else (actor, reference))).value


def table(scorer: Scorer) -> np.ndarray:
    return scorer.log_probs(PROMPTS, TREE)


STUDENT = TinyQwen3(hidden=8, layers=1)

CASES = (
    Case(WeightNoise, (0.01, 0.1, 0.5), 0.01, (-0.1, math.inf, math.nan), identity=0.0, continuous=True),
    Case(TemperatureSource, (1.01, 1.5, 4.0), 0.01, (0.0, -1.0, math.nan), identity=1.0, continuous=True),
    Case(TopKSource, (3, 2, 1), 0.2, (0, 2.5), identity=4, whole=range(1, 5)),
    Case(TopPSource, (0.95, 0.7, 0.1), 0.1, (0.0, 1.5, math.nan), identity=1.0),
    Case(QuantizedWeights, (0.1, 1, 20), 0.01, (-0.1, math.inf), identity=0.0, continuous=True),
    Case(QuantizedKV, (0.1, 1, 20), 0.01, (-0.1, math.inf), identity=0.0),
    Case(SlidingWindow, (5, 3, 2), 0.3, (1, 2.5), identity=6, whole=range(2, 7)),
    Case(StaleActor, (1, 8, 32), 0.01, (-1, 0.5), identity=0, whole=range(99), options=(("learning_rate", 1e-3),)),
    Case(DistilledActor, (64, 16, 0), 0.2, (-1, 0.5), whole=range(99), options=(("student", STUDENT),)),
    Case(
        SeparateActor, (0.05, 0.3, 1.0), 0.01, (-0.1, 1.1), identity=0.0, continuous=True, options=(("actor", SMALL),)
    ),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.source.__name__)


def test_every_source_has_a_case() -> None:
    assert {case.source for case in CASES} == set(TINY_SOURCES)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.identity is not None], ids=lambda case: case.source.__name__
)
def test_no_mismatch_at_the_knobs_own_end(case: Case) -> None:
    reference, actor = case.at(case.identity)
    np.testing.assert_allclose(table(actor), table(reference), rtol=0, atol=1e-12)
    assert case.kl(case.identity) < 1e-24


@every_case
def test_kl_grows_outwards_and_one_model_moves(case: Case) -> None:
    kls = [case.kl(knob) for knob in case.outwards]
    assert 0 < kls[0] < kls[1] < kls[2] < math.inf
    near, far = case.at(case.outwards[0]), case.at(case.outwards[-1])
    fixed, moved = (1, 0) if case.source is StaleActor else (0, 1)
    np.testing.assert_array_equal(table(near[fixed]), table(far[fixed]))
    np.testing.assert_array_equal(table(near[fixed]), table(CausalLM(BASE)))
    assert np.any(table(near[moved]) != table(far[moved]))


@every_case
def test_target_is_reached(case: Case) -> None:
    source = case(target_kl=case.target)
    given = setting(source)
    actors = source.actors(given)
    target = Target("KL", case.target, lambda knob: mean_kl(case.source, *actors(knob)))
    knob = source.solve(target, given)
    assert case.kl(knob) == pytest.approx(case.target, rel=RELATIVE_TOLERANCE if case.continuous else 0.9)
    if case.whole is not None:
        around = [case.kl(near) for near in (knob - 1, knob + 1) if near in case.whole]
        missed = abs(math.log(case.kl(knob) / case.target))
        assert all(missed <= abs(math.log(kl / case.target)) for kl in around if kl > 1e-20)


def test_a_quantised_cache_meets_a_target_to_its_grid_and_its_jumps() -> None:
    source = QuantizedKV(target_kl=0.01)
    actors = source.actors(setting(source))
    target = Target("KL", 0.01, lambda knob: mean_kl(QuantizedKV, *actors(knob)))
    assert target.kl_at(source.solve(target, setting(source))) == pytest.approx(0.01, rel=0.1)


@every_case
def test_the_seed_decides_all_noise(case: Case) -> None:
    knob = case.outwards[1]
    ours, again, other = (tuple(map(table, case.at(knob, seed))) for seed in (3, 3, 4))
    np.testing.assert_array_equal(ours, again)
    deterministic = (TemperatureSource, TopKSource, TopPSource, QuantizedWeights, QuantizedKV, SlidingWindow)
    assert np.any(np.not_equal(ours, other)) == (case.source not in deterministic)


@every_case
def test_tables_rollouts_and_scores_are_of_one_law(case: Case) -> None:
    _, actor = case.at(case.outwards[1])
    uniforms, law = np.random.default_rng(0).random((40, 3)), table(actor)
    expected = TREE.draw(law[1], uniforms)
    tokens, mask = actor.draw(PROMPTS[1], uniforms, 0)
    np.testing.assert_array_equal(mask, expected.mask)
    np.testing.assert_array_equal(tokens[mask], expected.token[mask])
    along = actor.log_probs_along(PROMPTS[1], tokens)
    np.testing.assert_allclose(along[mask], law[1][expected.prefix][mask], atol=1e-9)


@every_case
def test_bad_configurations_are_refused_by_name(case: Case) -> None:
    name = case.source.knob_name
    for bad in case.bad:
        with pytest.raises(ValueError, match=f"^{name} must .*got {bad}"):
            case(**{name: bad})
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^target_kl must be positive and finite"):
            case(target_kl=bad)
    with pytest.raises(ValueError, match=f"exactly one of {name} and target_kl, got neither"):
        case()
    with pytest.raises(ValueError, match=f"exactly one of {name} and target_kl, got both"):
        case(target_kl=0.1, **{name: case.outwards[0]})


@pytest.mark.parametrize("source", [StaleActor, DistilledActor])
def test_learning_rates_are_positive(source: Any) -> None:
    with pytest.raises(ValueError, match=r"^learning_rate must be positive"):
        source(steps=1, learning_rate=0.0)


# What single sources promise beyond the contract.


def parameters(scorer: Any) -> dict[str, np.ndarray]:
    return {name: weight.detach().numpy() for name, weight in scorer.model.named_parameters()}


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=["weight-noise", "quantized-weights"])
def test_one_direction_in_weights_is_scaled_by_the_knob(case: Case) -> None:
    start = parameters(CausalLM(BASE))
    small, large = (parameters(case.at(knob)[1]) for knob in (0.5, 8.0))
    moved = [name for name in start if np.any(large[name] != start[name])]
    assert moved
    for name in moved:
        np.testing.assert_allclose((small[name] - start[name]) * 16, large[name] - start[name], atol=1e-12)
        if case.source is WeightNoise:
            assert np.std((large[name] - start[name]) / start[name].std() / 8) == pytest.approx(1, abs=0.25)
    outside = {"model.embed_tokens.weight", "lm_head.weight"}
    assert outside & set(moved) == (outside if case.source is WeightNoise else set())
    assert not any("norm" in name for name in moved)


@pytest.mark.parametrize("to", list(Format))
def test_share_one_is_the_format_itself(to: Format) -> None:
    source = QuantizedWeights(format=to, share=1, group=8)
    weights = parameters(source.actors(setting(source))(1)[1])
    name = "model.layers.1.mlp.down_proj.weight"
    group = 8 if to is Format.INT4 else None
    expected = rounded(BASE.get_parameter(name).detach(), to, group).numpy()
    np.testing.assert_allclose(weights[name], expected, atol=1e-15)
    again = rounded(torch.from_numpy(expected), to, group).numpy()
    np.testing.assert_allclose(again, expected, rtol=1e-12)  # what the format holds, it keeps


@pytest.mark.parametrize(
    ("to", "values", "kept"),
    [
        (Format.BF16, [1 + 2**-8, 1 + 3 * 2**-8, 3.0], [1.0, 1 + 2**-6, 3.0]),
        (Format.FP8_E4M3, [448.0, 17.0, 19.0, -1.0625, 2**-9], [448.0, 16.0, 20.0, -1.0, 2**-9]),
        (Format.FP8_E5M2, [57344.0, 9.0, 11.0, -1.125], [57344.0, 8.0, 12.0, -1.0]),
        (Format.INT8, [127.0, 0.4, 0.6, 2.5, -3.5], [127.0, 0.0, 1.0, 2.0, -4.0]),
        (Format.INT4, [-7.0, 0.4, 3.6], [-7.0, 0.0, 4.0]),
        (Format.INT8, [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_what_a_format_keeps(to: Format, values: list[float], kept: list[float]) -> None:
    """By hand: 8, 3 and 2 bits of fraction; integers to 127 and 7; ties to even; scales of 1."""
    found = rounded(torch.tensor([values], dtype=torch.float64), to)
    assert found.tolist() == [kept]
    # Each row has a scale of its own.
    if to is not Format.BF16:
        both = rounded(torch.tensor([values, [1000 * value for value in values]], dtype=torch.float64), to)
        np.testing.assert_allclose(both, [kept, 1000 * np.array(kept)], rtol=1e-12)


def test_a_group_has_its_own_scale() -> None:
    values = torch.tensor([[7.0, 3.2, 0.07, 0.032, 70.0]], dtype=torch.float64)
    np.testing.assert_allclose(rounded(values, Format.INT4, 2), [[7.0, 3.0, 0.07, 0.03, 70.0]], rtol=1e-12)


def test_formats_lie_in_the_order_of_their_bits() -> None:
    order = (Format.BF16, Format.INT8, Format.FP8_E4M3, Format.FP8_E5M2, Format.INT4)
    weights = [Case(QuantizedWeights, (), 1, (), options=(("format", to),)).kl(1) for to in order]
    cache = [Case(QuantizedKV, (), 1, (), options=(("format", to),)).kl(1) for to in order[:-1]]
    assert weights == sorted(weights)
    assert cache == sorted(cache)


def test_formats_are_known() -> None:
    assert QuantizedWeights(format="int4", share=1).format is Format.INT4  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'int3' is not a valid Format"):
        QuantizedWeights(format="int3", share=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"format of quantized-kv must be bf16.*got int4"):
        QuantizedKV(format=Format.INT4, share=1)
    with pytest.raises(ValueError, match=r"^group must be"):
        QuantizedWeights(share=1, group=0)


def test_both_sides_of_a_temperature() -> None:
    def solved(colder: bool) -> float:
        source = TemperatureSource(target_kl=0.02, colder=colder)
        actors = source.actors(setting(source))
        target = Target("KL", 0.02, lambda knob: mean_kl(TemperatureSource, *actors(knob)))
        return source.solve(target, setting(source))

    assert solved(True) < 1 < solved(False)


def test_the_ends_of_a_mixture_are_its_models() -> None:
    first, second = CausalLM(BASE), CausalLM(build(SMALL, 4, keyed_generator(9)))
    for share, end in ((0, first), (1, second)):
        np.testing.assert_array_equal(table(GeometricMixture(first, second, share)), table(end))
    middle = table(GeometricMixture(first, second, 0.5))
    gap = middle - (table(first) + table(second)) / 2
    np.testing.assert_allclose(gap, gap[..., :1] + np.zeros(4), atol=1e-12)
    np.testing.assert_allclose(np.exp(middle).sum(-1), 1, atol=1e-12)


def test_a_direction_has_the_shape_of_its_parameter() -> None:
    model = build(TinyQwen3(hidden=8, layers=1, heads=2), 4, np.random.default_rng(0))
    name = "model.norm.weight"
    for wrong in (torch.ones(1), torch.ones(()), torch.ones((1, 8)), torch.ones(8, dtype=torch.int64)):
        with pytest.raises((TypeError, ValueError), match="directions "):
            moved(model, {name: wrong}, 0.5)
    with pytest.raises(ValueError, match="prompts has shape"):
        TinyTask(np.array([1, 2]), TREE, lambda tokens, mask: mask.sum(-1) / 1.0)
