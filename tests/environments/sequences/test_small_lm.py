"""The environment of tiny language models: enumerated, drawn, and refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from pydantic import Field, TypeAdapter, ValidationError

from jackpot_sim.core import divergences
from jackpot_sim.environments.language_models.build import Checkpoint, TinyQwen3
from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.sequences.mean_kl import SampledKL
from jackpot_sim.environments.sequences.reward import RandomReward, TokenShareReward
from jackpot_sim.environments.sequences.small_lm import RealisedSequences, SmallLM
from jackpot_sim.environments.sources.kinds import (
    TINY_SOURCES,
    DistilledActor,
    QuantizedKV,
    QuantizedWeights,
    SeparateActor,
    SlidingWindow,
    StaleActor,
    TemperatureSource,
    TinySource,
    TopKSource,
    TopPSource,
    WeightNoise,
)
from jackpot_sim.environments.targets import RELATIVE_TOLERANCE

QUICK = SmallLM(vocab=4, length=3, pretrain_steps=20, source=WeightNoise(sigma=0.2))
"""Forty sequences after each of four prompts."""

SAMPLED = replace(QUICK, memory_limit_gib=1e-6)
"""The same, with too little memory to enumerate them."""


def sequence_kl(realised: RealisedSequences) -> float:
    """KL(p_ref‖q) over whole sequences, by each prompt's mean length: their mean."""
    assert realised.enumerations is not None
    found = []
    for each in realised.enumerations:
        log_p, log_q = (
            each.sequences.log_probs(table) for table in (each.laws.reference_log_probs, each.laws.actor_log_probs)
        )
        found.append(np.exp(log_p) @ (log_p - log_q) / (np.exp(log_p) @ each.sequences.lengths))
    return float(np.mean(found))


def test_every_sequence_is_there_and_the_advantage_is_centred() -> None:
    realised = QUICK.build(0)
    assert realised.prompts.shape == (4, 2)
    assert not np.any(realised.prompts == 0)
    assert realised.enumerations is not None
    assert len(realised.enumerations) == 4
    for each in realised.enumerations:
        probability = np.exp(each.sequences.log_probs(each.laws.policy_log_probs))
        assert each.laws.shape == (13, 4)
        assert len(probability) == 40
        assert probability.sum() == pytest.approx(1)
        assert probability @ each.advantage == pytest.approx(0, abs=1e-12)
        rewarded = np.where(each.sequences.mask, each.sequences.token, 0).sum(-1) % 3 == 0
        assert np.ptp(each.advantage[rewarded]) == np.ptp(each.advantage[~rewarded]) == 0
        assert each.advantage.max() - each.advantage.min() == pytest.approx(1)
        assert each.laws.reference_log_probs is each.laws.policy_log_probs
    assert (realised.knob, realised.target_kl, realised.achieved_se) == (0.2, None, 0)
    assert realised.achieved == pytest.approx(sequence_kl(realised), rel=1e-6)


def test_the_default_meets_its_target() -> None:
    realised = SmallLM().build(0)
    assert realised.target_kl == 0.01
    assert realised.achieved == pytest.approx(0.01, rel=RELATIVE_TOLERANCE)
    assert sequence_kl(realised) == pytest.approx(0.01, rel=1e-6)
    again = SmallLM(source=WeightNoise(sigma=realised.knob)).build(0)
    assert again.achieved == realised.achieved


def test_truncation_is_measured_from_the_actors_side() -> None:
    realised = replace(QUICK, source=TopKSource(k=2)).build(0)
    assert realised.enumerations is not None
    found = []
    for each in realised.enumerations:
        p, q = each.laws.reference_log_probs, each.laws.actor_log_probs
        visits = np.exp(realised.tree.reach(q))
        found.append(visits @ divergences.kl(q, p) / visits.sum())
    assert realised.achieved == pytest.approx(np.mean(found))
    solved = replace(QUICK, source=TopKSource(target_kl=realised.achieved * 1.01)).build(0)
    assert solved.knob == 2
    nucleus = replace(QUICK, source=TopPSource(target_kl=0.1)).build(0)
    assert nucleus.achieved == pytest.approx(0.1, rel=0.5)


def test_updates_lie_between_reference_and_policy() -> None:
    before, after = QUICK.build(0), replace(QUICK, updates=3, learning_rate=1e-2).build(0)
    assert before.enumerations is not None
    assert after.enumerations is not None
    for old, new in zip(before.enumerations, after.enumerations, strict=True):
        np.testing.assert_array_equal(new.laws.reference_log_probs, old.laws.policy_log_probs)
        np.testing.assert_array_equal(new.laws.actor_log_probs, old.laws.actor_log_probs)
        assert np.max(np.abs(new.laws.policy_log_probs - old.laws.policy_log_probs)) > 0.01
        assert np.exp(new.sequences.log_probs(new.laws.policy_log_probs)) @ new.advantage == pytest.approx(0, abs=1e-12)
    assert after.achieved == before.achieved
    assert after.baseline.mean() > before.baseline.mean()


STATELESS = """
import hashlib, sys
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.environments.sources.kinds import StaleActor
assert not {"torch", "transformers"} & set(sys.modules)
import torch
torch.set_num_threads(2); torch.manual_seed(7); torch.rand(3)
env = SmallLM(vocab=4, length=3, pretrain_steps=20, source=StaleActor(steps=3, learning_rate=1e-2), updates=1)
env.build(1)
realised = env.build(5)
assert torch.get_num_threads() == 2
digest = hashlib.sha256()
for each in realised.enumerations:
    for table in (each.laws.policy_log_probs, each.laws.actor_log_probs, each.laws.reference_log_probs, each.advantage):
        digest.update(table.tobytes())
print(digest.hexdigest())
"""


def test_importing_is_light_and_another_process_gives_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", STATELESS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here: dict[str, Any] = {}
    code = STATELESS.replace("assert not", "not").replace("torch.set_num_threads(2)", "torch.set_num_threads(1)")
    code = code.replace("get_num_threads() == 2", "get_num_threads() == 1").replace("print(", "result = (")
    exec(code, here)
    assert done.stdout.strip() == here["result"]


def test_seeds_differ() -> None:
    one, same, other = (QUICK.build(seed) for seed in (1, 1, 2))
    assert one.enumerations is not None
    assert same.enumerations is not None
    assert other.enumerations is not None
    for ours, again, theirs in zip(one.enumerations, same.enumerations, other.enumerations, strict=True):
        np.testing.assert_array_equal(ours.laws.actor_log_probs, again.laws.actor_log_probs)
        assert np.all(ours.laws.policy_log_probs != theirs.laws.policy_log_probs)
        assert np.all(ours.laws.actor_log_probs != theirs.laws.actor_log_probs)
    drawn, redrawn, else_drawn = one.rollouts(0, 8, 2), same.rollouts(0, 8, 2), one.rollouts(1, 8, 2)
    np.testing.assert_array_equal(drawn[0].actor.token, redrawn[0].actor.token)
    assert np.any(drawn[0].actor.token != else_drawn[0].actor.token)
    alike = replace(QUICK, source=WeightNoise(sigma=0)).build(1).rollouts(0, 8, 2)
    assert np.any(alike[0].actor.token != alike[0].policy.token)
    more = one.rollouts(0, 8, 5)
    np.testing.assert_array_equal(more[2].policy.token[:16], drawn[2].policy.token)


def test_threads_are_given_back_after_an_error() -> None:
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="k must be"):
            replace(QUICK, source=TopKSource(k=5)).build(0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("source", [WeightNoise(sigma=0.3), TemperatureSource(temperature=1.5), TopKSource(k=2)])
def test_sampling_agrees_with_enumeration(source: TinySource) -> None:
    exact, drawn = (replace(env, source=source, reward=RandomReward()).build(0) for env in (QUICK, SAMPLED))
    assert drawn.enumerations is None
    assert 0 < drawn.achieved_se < 0.1 * drawn.achieved
    assert abs(drawn.achieved - exact.achieved) < 4 * drawn.achieved_se
    np.testing.assert_allclose(drawn.baseline, exact.baseline, atol=4 / np.sqrt(4096))
    assert np.all(drawn.baseline != exact.baseline)


def test_the_standard_error_is_that_of_repeated_samples() -> None:
    realised = SAMPLED.build(0)
    models = realised.models
    found = []
    for seed in range(24):
        uniforms = np.random.default_rng(seed).random((4, 200, 3))
        found.append(SampledKL(realised.prompts, uniforms, 0).kl(models.reference, models.actor))
    errors = [each.standard_error for each in found]
    assert np.std([each.value for each in found], ddof=1) == pytest.approx(np.mean(errors), rel=0.5)


def test_four_equal_prompts_have_half_the_error() -> None:
    realised, uniforms = SAMPLED.build(0), np.random.default_rng(0).random((1, 100, 3))
    models = realised.models
    one, four = (
        SampledKL(np.tile(realised.prompts[:1], (n, 1)), np.tile(uniforms, (n, 1, 1)), 0).kl(
            models.reference, models.actor
        )
        for n in (1, 4)
    )
    assert one.standard_error > 0
    assert four.value == pytest.approx(one.value, rel=1e-12)
    assert four.standard_error == pytest.approx(one.standard_error / 2, rel=1e-12)


@pytest.mark.parametrize("env", [QUICK, SAMPLED], ids=["enumerated", "drawn"])
def test_equal_prompts_have_draws_of_their_own(env: SmallLM) -> None:
    realised = env.build(0)
    same = np.zeros(2, dtype=np.int64)
    enumerations = realised.enumerations and (realised.enumerations[0],) * 2
    twice = replace(
        realised, prompts=realised.prompts[same], enumerations=enumerations, baseline=realised.baseline[same]
    )
    first, second = twice.rollouts(0, 20, 2)
    np.testing.assert_array_equal(first.actor.token, realised.rollouts(0, 20, 2)[0].actor.token)
    for role in ("actor", "policy"):
        assert np.mean(np.any(getattr(first, role).token != getattr(second, role).token, axis=1)) > 0.2


@pytest.mark.parametrize("end_token", [0, None, 3])
def test_drawn_sequences_are_those_of_the_enumeration(end_token: int | None) -> None:
    changed = {"end_token": end_token, "reward": RandomReward(), "updates": 2, "learning_rate": 1e-2}
    exact, drawn = (replace(env, **changed).build(0) for env in (QUICK, SAMPLED))
    rollouts = zip(exact.rollouts(3, 30, 4), drawn.rollouts(3, 30, 4), strict=True)
    for k, (ours, theirs) in enumerate(rollouts):
        for role in ("actor", "policy"):
            from_table, from_model = getattr(ours, role), getattr(theirs, role)
            assert len(from_model) == 120
            np.testing.assert_array_equal(from_table.mask, from_model.mask)
            np.testing.assert_array_equal(from_table.token[from_table.mask], from_model.token[from_model.mask])
            worth = getattr(ours, f"{role}_advantage") + exact.baseline[k] - drawn.baseline[k]
            np.testing.assert_allclose(getattr(theirs, f"{role}_advantage"), worth, atol=1e-12)
            there = from_table.mask
            for law in ("policy_log_probs", "actor_log_probs", "reference_log_probs"):
                exactly = getattr(ours.laws, law)[from_table.prefix[there]]
                np.testing.assert_allclose(getattr(theirs.laws, law)[from_model.prefix[there]], exactly, atol=1e-9)
        seen = np.unique(np.concatenate([ours.actor.prefix[ours.actor.mask], ours.policy.prefix[ours.policy.mask]]))
        assert theirs.laws.shape == (len(seen), 4)  # each visited prefix once


def test_targets_beyond_enumeration() -> None:
    realised = replace(SAMPLED, prompts=2, source=WeightNoise(target_kl=0.02)).build(0)
    assert realised.achieved == pytest.approx(0.02, rel=RELATIVE_TOLERANCE)
    exact = replace(QUICK, prompts=2, source=WeightNoise(sigma=realised.knob)).build(0)
    assert exact.achieved == pytest.approx(0.02, abs=4 * realised.achieved_se)
    for source in (TopKSource(target_kl=0.1), TopPSource(target_kl=0.1)):
        with pytest.raises(
            ValueError, match=f"target_kl of {source.kind} needs every sequence: give {source.knob_name}"
        ):
            replace(SAMPLED, source=source).build(0)


def test_long_sequences_of_a_large_vocabulary() -> None:
    for vocab in (55, 64):
        env = SmallLM(vocab=vocab, length=12, prompts=1, pretrain_steps=0, source=TopPSource(p=0.9))
        rollouts = env.build(0).rollouts(0, 20, 1)
        assert rollouts[0].laws.shape[1] == vocab
        assert rollouts[0].laws.shape[0] > 100


def test_one_token() -> None:
    realised = SmallLM(length=1, pretrain_steps=5, source=WeightNoise(target_kl=0.05)).build(0)
    assert realised.enumerations is not None
    assert realised.enumerations[0].laws.shape == (1, 5)
    assert realised.achieved == pytest.approx(0.05, rel=RELATIVE_TOLERANCE)


def test_features_only_when_asked_for() -> None:
    env = replace(QUICK, model=TinyQwen3(hidden=8, layers=1), prompts=2, updates=1)
    realised = replace(env, space="parameters").build(0)
    assert env.build(0).features is None
    assert realised.features is not None
    parameters = sum(weight.numel() for weight in realised.models.policy.model.parameters())
    assert [each.shape for each in realised.features] == [(13, 4, parameters)] * 2
    assert realised.enumerations is not None
    # Σ p ∇log p = 0 at every prefix.
    law = np.exp(realised.enumerations[1].laws.policy_log_probs)
    np.testing.assert_allclose(np.einsum("sv,svk->sk", law, realised.features[1]), 0, atol=1e-9)
    with pytest.raises(ValueError, match="space='parameters' needs every sequence"):
        replace(SAMPLED, space="parameters").build(0)


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    QUICK.build(0).models.reference.model.save_pretrained(tmp_path)
    checkpoint = Checkpoint(path=tmp_path)
    ours, theirs = (replace(QUICK, model=checkpoint, pretrain_steps=steps).build(0) for steps in (0, 50))
    assert ours.enumerations is not None
    assert theirs.enumerations is not None
    np.testing.assert_array_equal(
        ours.enumerations[0].laws.policy_log_probs, theirs.enumerations[0].laws.policy_log_probs
    )
    actor = replace(QUICK, source=SeparateActor(actor=checkpoint, share=1.0)).build(0)
    assert actor.achieved < 1e-24  # the policy itself, from disk


# As pydantic sees it.

ADAPTER: TypeAdapter[SmallLM] = TypeAdapter(Annotated[SmallLM, Field()])


@pytest.mark.parametrize("source", TINY_SOURCES, ids=lambda source: source.kind)
def test_every_source_survives_the_round_trip(source: Any) -> None:
    given = SmallLM(source=source(target_kl=0.01), reward=RandomReward())
    assert ADAPTER.validate_json(ADAPTER.dump_json(given)) == given
    assert hash(ADAPTER.validate_python(ADAPTER.dump_python(given))) == hash(given)
    assert (given.knob_name, given.target_kl) == (source.knob_name, 0.01)
    assert given.target_divergence == source.target_divergence


def test_nested_kinds_pick_their_classes() -> None:
    nested = {
        "model": {"kind": "checkpoint", "path": "m"},
        "source": {"kind": "quantized-weights", "format": "int4", "share": 1},
        "reward": {"kind": "token-share", "token": 2},
    }
    expected = SmallLM(
        model=Checkpoint(path=Path("m")),
        source=QuantizedWeights(format=Format.INT4, share=1),
        reward=TokenShareReward(token=2),
    )
    assert ADAPTER.validate_python(nested) == expected
    others = (QuantizedKV(share=1), SlidingWindow(window=3), StaleActor(steps=2), DistilledActor(steps=2))
    for source in others:
        assert (
            ADAPTER.validate_python({"source": {"kind": source.kind, source.knob_name: source.knob}}).source == source
        )
    with pytest.raises(ValidationError, match=r"stale\.stps"):
        ADAPTER.validate_python({"source": {"kind": "stale", "steps": 1, "stps": 1}})


@pytest.mark.parametrize("told", LogProbs)
@pytest.mark.parametrize("source", [TopPSource(p=0.8), TopKSource(k=2)], ids=["top-p", "top-k"])
def test_the_ratio_of_a_policy_to_its_own_cut(told: LogProbs, source: TopPSource | TopKSource) -> None:
    """At every prefix it is the mass that the sampler keeps there; with raw log-probs, or on the support, it is 1."""
    realised = replace(QUICK, source=source, log_probs=told).build(0)
    assert realised.enumerations is not None
    masses = []
    for each in realised.enumerations:
        laws, kept = each.laws, each.laws.actor_log_probs > -np.inf
        mass = np.sum(np.exp(laws.policy_log_probs), axis=-1, where=kept, keepdims=True)
        wanted = np.broadcast_to(mass if told is LogProbs.PROCESSED else 1.0, kept.shape)
        ratio = np.exp(laws.told.policy_log_probs[kept] - laws.told.actor_log_probs[kept])
        np.testing.assert_allclose(ratio, wanted[kept], rtol=1e-12)
        assert laws.told.reference_log_probs is laws.told.policy_log_probs, "no update lies between them"
        masses.append(mass)
    assert np.ptp(masses) > 0.01, "S differs from prefix to prefix"


@pytest.mark.parametrize("told", [LogProbs.RAW, LogProbs.SUPPORT])
def test_after_updates_and_where_sequences_are_drawn_the_laws_stand_on_the_support_too(told: LogProbs) -> None:
    asked = replace(QUICK, source=TopKSource(k=2), updates=2, learning_rate=1e-2, log_probs=told)
    realised = asked.build(0)
    assert realised.enumerations is not None
    drawn = replace(asked, memory_limit_gib=1e-6).build(0).rollouts(0, 4, 3)
    for laws in (*(each.laws for each in realised.enumerations), *(each.laws for each in drawn)):
        assert laws.believed is not None
        new, old = laws.told.policy_log_probs, laws.told.reference_log_probs
        if told is LogProbs.RAW:
            np.testing.assert_array_equal(new, laws.policy_log_probs)
            np.testing.assert_array_equal(old, laws.reference_log_probs)
            np.testing.assert_allclose(laws.told.actor_log_probs, laws.reference_log_probs, rtol=1e-12)
            continue
        kept = laws.actor_log_probs > -np.inf
        assert (kept == (new > -np.inf)).all()
        np.testing.assert_allclose(np.exp(old), np.exp(laws.actor_log_probs), rtol=1e-12)
        assert np.max(np.abs(new[kept] - old[kept])) > 0.01


def test_a_sampler_that_cuts_nothing_leaves_the_laws_as_they_are() -> None:
    for told in (LogProbs.RAW, LogProbs.SUPPORT):
        realised = replace(QUICK, log_probs=told).build(0)
        assert realised.enumerations is not None
        assert all(each.laws.believed is None for each in realised.enumerations)
    with pytest.raises(ValueError, match="'mask' is not a valid LogProbs"):
        replace(QUICK, log_probs="mask")
