"""The right cause comes first, in words that say why; without a fault, or with too few sequences, none is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.diagnose import one_pass
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.causes import named
from jackpot_sim.diagnose.causes.columns import NOTED
from jackpot_sim.diagnose.causes.view import View
from jackpot_sim.diagnose.results import CauseName, Effect
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.readers.screening import Screening
from jackpot_sim.readers.table import TokenTable
from tests.cases import each, every
from tests.diagnose.causes.dumps import VOCAB, Change, Dump, causes_of, first_of


def at(**options: float) -> Change:
    """The law of a sampler."""
    law = SamplingLaw(**options)  # type: ignore[arg-type]

    def change(log_probs: Floats, _: Dump) -> Floats:
        return np.asarray(law.log_probs(log_probs))

    return change


def noisy(size: float, where: Callable[[Dump], object] | None = None) -> Change:
    """A law of other weights, at some tokens."""

    def change(log_probs: Floats, dump: Dump) -> Floats:
        return dump.perturbed(log_probs, size, None if where is None else np.asarray(where(dump)))

    return change


def stale(dump: Dump) -> TokenTable:
    lag = dump.rng.integers(4, size=dump.sequences)
    dump.version = dump.step - lag
    far = lag[dump.owner, None] * 0.3 * dump.rng.standard_normal(dump.law.shape)
    return dump.table(policy=lambda law, _: log_softmax(law + far, axis=-1))


def stuck(dump: Dump) -> TokenTable:
    dump.version = np.minimum(dump.step, 4)
    return dump.table(policy=noisy(0.5, lambda d: d.step[d.owner] > 4))


def replica(dump: Dump) -> TokenTable:
    """A third of the sequences, at all steps, come from other weights under the same version."""
    return dump.table(policy=noisy(0.7, lambda d: d.owner % 3 == 0))


def placeholder(value: float) -> Callable[[Dump], TokenTable]:
    def make(dump: Dump) -> TokenTable:
        table = dump.table()
        here = dump.rng.random(len(table)) < 0.05
        assert table.policy_log_probs is not None
        return dataclasses.replace(table, policy_log_probs=np.where(here, value, table.policy_log_probs))

    return make


def misaligned(by: int) -> Callable[[Dump], TokenTable]:
    def make(dump: Dump) -> TokenTable:
        table = dump.table()
        assert table.policy_log_probs is not None
        return dataclasses.replace(table, policy_log_probs=np.roll(table.policy_log_probs, by))

    return make


def bypass(dump: Dump) -> TokenTable:
    table = dump.table()
    return dataclasses.replace(table, policy_log_probs=table.actor_log_probs)


def swapped() -> Ints:
    ids: Ints = np.arange(VOCAB)
    ids[[3, 4, 5, 6]] = [4, 5, 6, 3]
    return ids


FAULTS: dict[str, tuple[CauseName, Callable[[Dump], TokenTable]]] = {
    "hot": (CauseName.TEMPERATURE, lambda d: d.table(actor=at(temperature=1.3))),
    "cold": (CauseName.TEMPERATURE, lambda d: d.table(actor=at(temperature=0.75))),
    "policy heated": (CauseName.TEMPERATURE, lambda d: d.table(policy=at(temperature=1.3))),
    "top-p": (CauseName.TRUNCATED_SAMPLING, lambda d: d.table(actor=at(top_p=0.8))),
    "top-k": (CauseName.TRUNCATED_SAMPLING, lambda d: d.table(actor=at(top_k=4))),
    "top-p of the policy": (CauseName.TRUNCATED_SAMPLING, lambda d: d.table(policy=at(top_p=0.8))),
    "raw": (CauseName.RAW_LOG_PROBS, lambda d: d.table(at(temperature=0.7), at(temperature=0.7), at())),
    "raw on both sides": (CauseName.RAW_LOG_PROBS, lambda d: d.table(actor=at(temperature=0.7), reported=at())),
    "misaligned": (CauseName.MISALIGNED, misaligned(1)),
    "misaligned, the other way": (CauseName.MISALIGNED, misaligned(-1)),
    "0.0": (CauseName.PLACEHOLDER, placeholder(0.0)),
    "+1.0": (CauseName.PLACEHOLDER, placeholder(1.0)),
    "nan": (CauseName.PLACEHOLDER, placeholder(math.nan)),
    "precision": (CauseName.PRECISION, lambda d: d.table(policy=noisy(0.12))),
    "stale": (CauseName.STALE, stale),
    "sync": (CauseName.WEIGHT_SYNC, lambda d: d.table(policy=noisy(0.5, lambda d: d.step[d.owner] > 4))),
    "versions stuck": (CauseName.WEIGHT_SYNC, stuck),
    "a replica": (CauseName.WEIGHT_SYNC, replica),
    "another model": (CauseName.OTHER_MODEL, lambda d: d.table(policy=noisy(0.9))),
    "one sequence": (CauseName.DOMINATED, lambda d: d.table(policy=noisy(1.0, lambda d: d.owner == 17))),
    "prompts": (CauseName.TOKENIZER, lambda d: d.table(policy=noisy(0.8, lambda d: d.position < 6))),
    "ids": (CauseName.TOKENIZER, lambda d: d.table(meaning=swapped(), policy=_sharp, actor=_sharp)),
    "bypass": (CauseName.BYPASS, bypass),
}


def _sharp(law: Floats, _: Dump) -> Floats:
    """Laws in which other ids are unlikely."""
    return log_softmax(6 * law, axis=-1)


@each("name, seed", every(FAULTS, range(2)))
def test_the_cause_comes_first(name: str, seed: int) -> None:
    cause, make = FAULTS[name]
    assert first_of(make(Dump(seed))) == cause


def test_nothing_is_named_without_a_fault() -> None:
    first = [first_of(Dump(seed, noise=0.02).table()) for seed in range(60)]
    assert sum(each is not None for each in first) <= 3


@each("name", FAULTS)
def test_causes_say_why_and_what_to_do_in_one_sentence_each(name: str) -> None:
    for cause in causes_of(FAULTS[name][1](Dump(3))):
        for sentence in (cause.evidence, cause.remedy):
            assert sentence[0].isupper() or sentence[0] in "ℓ0123456789"
            assert sentence.endswith(".")
            assert "\n" not in sentence
            assert "nan" not in sentence
        assert all(map(math.isfinite, cause.figures.values()))


class _NoCorrections:
    """No what-if."""

    def add(self, batch: Batch) -> None: ...

    def merge(self, later: _NoCorrections) -> None: ...

    def results(self) -> list[Effect]:
        return []


@each("name", FAULTS)
def test_the_pass_over_a_dump_gives_what_causes_need(name: str) -> None:
    table = FAULTS[name][1](Dump(6))
    evidence = one_pass.run([table], Screening(), _NoCorrections).evidence
    assert named(evidence) == causes_of(table)


@each("name", FAULTS)
def test_the_order_of_sequences_changes_nothing(name: str) -> None:
    table = FAULTS[name][1](Dump(4))
    other = table.take(np.random.default_rng(0).permutation(table.sequences))
    assert other is not None
    first, second = ({each.name: each.confidence for each in causes_of(dump)} for dump in (table, other))
    assert first.keys() == second.keys()
    assert all(abs(first[each] - second[each]) < 1e-2 for each in first)


@each("name", FAULTS)
def test_few_sequences_name_nothing_but_faults_of_the_columns(name: str) -> None:
    table = FAULTS[name][1](Dump(5)).take(np.arange(5))
    assert table is not None
    of_columns = {CauseName.PLACEHOLDER, CauseName.MISALIGNED, CauseName.BYPASS, CauseName.TOKENIZER}
    assert {cause.name for cause in causes_of(table)} <= of_columns


def test_a_dump_of_nothing_but_placeholders_has_no_other_cause() -> None:
    dump = Dump(0).table()
    table = dataclasses.replace(dump, policy_log_probs=np.zeros(len(dump)))
    assert [cause.name for cause in causes_of(table)] == [CauseName.PLACEHOLDER]


def test_without_versions_stale_weights_are_told_by_sequences_that_agree_and_one_lag_is_left_open() -> None:
    mixed = dataclasses.replace(stale(Dump(1)), weight_version=None)
    assert first_of(mixed) == CauseName.STALE
    alike = dataclasses.replace(Dump(1).table(policy=noisy(0.12)), weight_version=None)
    found = {cause.name: cause.confidence for cause in causes_of(alike)}
    assert found.keys() == {CauseName.PRECISION, CauseName.STALE}
    assert found[CauseName.PRECISION] < 0.7


def test_the_law_that_tokens_follow_tells_raw_log_probs_from_a_temperature_without_any_top_k() -> None:
    for name in ("hot", "cold", "raw"):
        table = dataclasses.replace(FAULTS[name][1](Dump(2)), actor_topk=None, policy_topk=None)
        assert first_of(table) == FAULTS[name][0]


def test_a_lag_that_grows_because_versions_stopped_is_no_good_evidence_of_stale_weights() -> None:
    found = {cause.name: cause.confidence for cause in causes_of(stuck(Dump(2)))}
    assert found[CauseName.STALE] <= 0.5 < found[CauseName.WEIGHT_SYNC]


def even(dump: Dump) -> Dump:
    """The dump with laws that are all about as sharp, so that log p alone tells a temperature."""
    dump.law = log_softmax(3 * dump.rng.standard_normal(dump.law.shape), axis=-1)
    return dump


def test_the_temperature_of_the_sentence_is_the_one_that_was_planted() -> None:
    for heat in (0.7, 0.8, 1.25):
        table = even(Dump(2, sequences=128)).table(actor=at(temperature=heat))
        with_entropy, without = (
            causes_of(each)[0] for each in (table, dataclasses.replace(table, entropy=None, policy_topk=None))
        )
        assert abs(with_entropy.figures["temperature"] - heat) < 0.08
        assert "low" not in with_entropy.figures
        assert without.name == CauseName.TEMPERATURE
        assert without.figures["low"] < heat < without.figures["high"]
        assert without.figures["high"] / without.figures["low"] < 1.1
        assert "log p alone explains" in without.evidence


def test_the_temperature_of_raw_log_probs_is_the_one_that_was_planted_without_any_entropy() -> None:
    table = even(Dump(2, sequences=128)).table(at(temperature=0.8), at(temperature=0.8), at())
    cause = causes_of(dataclasses.replace(table, entropy=None, actor_topk=None, policy_topk=None))[0]
    assert cause.name == CauseName.RAW_LOG_PROBS
    # The policy scores at 0.8, which is as if the actor reported 1/0.8.
    assert cause.figures["low"] < 1 / 0.8 < cause.figures["high"]


def test_the_kept_mass_of_the_sentence_is_the_one_that_was_planted() -> None:
    cause = causes_of(Dump(2).table(actor=at(top_p=0.8)))[0]
    assert 0.8 <= cause.figures["kept_mass_1st_percentile"] <= cause.figures["kept_mass"] <= 1


def test_raw_log_probs_on_both_sides_show_in_the_entropy_or_in_the_top_k_and_in_nothing_else() -> None:
    table = Dump(2).table(actor=at(temperature=0.7), reported=at())
    for gone in ({"entropy": None}, {"actor_topk": None, "policy_topk": None}):
        assert first_of(dataclasses.replace(table, **gone)) == CauseName.RAW_LOG_PROBS
    gone = {"entropy": None, "actor_topk": None, "policy_topk": None}
    assert first_of(dataclasses.replace(table, **gone)) is None


def with_values(value: float, share: float, **columns: Any) -> TokenTable:
    """A dump of which the policy has this value at a share of the tokens, evenly spread."""
    table = Dump(4, sequences=100).table(**columns)
    assert table.policy_log_probs is not None
    here = np.arange(len(table)) % round(1 / share) == 7
    return dataclasses.replace(table, policy_log_probs=np.where(here, value, table.policy_log_probs))


@each("value", [math.nan, 1.0, -math.inf, -9999.0])
def test_few_placeholders_are_a_note_behind_the_causes_and_many_come_first(value: float) -> None:
    (few,) = causes_of(with_values(value, 1 / 1000))
    assert (few.name, few.confidence) == (CauseName.PLACEHOLDER, NOTED)
    found = causes_of(with_values(value, 1 / 1000, policy=noisy(0.7)))
    assert len(found) > 1
    assert found[-1].name == CauseName.PLACEHOLDER
    many = causes_of(with_values(value, 1 / 20))[0]
    assert many.name == CauseName.PLACEHOLDER
    assert many.confidence == 1 or value < -1


def test_the_share_of_placeholders_is_one_of_the_tokens_that_are_trained_on() -> None:
    table = with_values(math.nan, 1 / 500)
    mask = np.arange(len(table)) % 10 == 7
    (cause,) = causes_of(dataclasses.replace(table, mask=mask))
    assert cause.figures["share"] == pytest.approx(1 / 50)
    assert cause.confidence == 1


@pytest.mark.parametrize(("side", "writer"), [("actor", "the engine"), ("policy", "the trainer")])
def test_the_remedy_of_placeholders_names_the_side_that_writes_them(side: str, writer: str) -> None:
    table = Dump(4).table()
    log_probs = np.where(np.arange(len(table)) % 7 == 3, np.nan, getattr(table, f"{side}_log_probs"))
    cause = causes_of(dataclasses.replace(table, **{f"{side}_log_probs": log_probs}))[0]
    assert cause.name == CauseName.PLACEHOLDER
    assert writer in cause.remedy


def test_rounding_above_zero_is_no_placeholder_and_losses_are() -> None:
    assert not causes_of(with_values(1e-3, 1 / 20))
    table = Dump(4).table()
    assert table.policy_log_probs is not None
    cause = causes_of(dataclasses.replace(table, policy_log_probs=-table.policy_log_probs))[0]
    assert cause.name == CauseName.PLACEHOLDER
    assert "or losses, −log p" in cause.remedy


def test_advantages_that_are_missing_are_no_placeholders_of_log_probs() -> None:
    table = Dump(4).table()
    advantages = np.where(np.arange(len(table)) % 3 == 0, math.nan, 1.0)
    assert not causes_of(dataclasses.replace(table, advantages=advantages))


@each("value", [-100.0, -700.0])
def test_one_unlikely_number_at_some_tokens_is_no_temperature(value: float) -> None:
    table = dataclasses.replace(with_values(value, 1 / 50), actor_topk=None, policy_topk=None, entropy=None)
    names = [cause.name for cause in causes_of(table)]
    assert names
    assert CauseName.TEMPERATURE not in names


def lowered(by: float, where: Callable[[Dump], Flags], noise: float = 0.05, **gone: None) -> TokenTable:
    """A dump of nearly equal sides, of which the policy is lower by some nats at some tokens."""
    dump = Dump(7, sequences=60, length=60, noise=noise)
    table = dataclasses.replace(dump.table(), **gone)
    assert table.policy_log_probs is not None
    return dataclasses.replace(table, policy_log_probs=table.policy_log_probs - by * where(dump))


def last(dump: Dump) -> Flags:
    return np.asarray(dump.position == dump.length - 1)


def one_each(dump: Dump) -> Flags:
    """One token of each sequence, anywhere."""
    return np.asarray(dump.position == dump.rng.integers(dump.length, size=dump.sequences)[dump.owner])


def ended(dump: Dump) -> Flags:
    """The last token of every other sequence; the others were cut."""
    return last(dump) & (dump.owner % 2 == 0)


COLUMNS: dict[str, None] = {"entropy": None, "policy_topk": None, "actor_topk": None, "weight_version": None}


@each("by, bare", every((3.0, 8.0, 30.0), (False, True)))
def test_a_mismatch_of_last_tokens_alone_is_one_of_how_completions_end(by: float, bare: bool) -> None:
    for where in (last, ended):
        cause, *others = causes_of(lowered(by, where, **COLUMNS if bare else {}))
        assert cause.name == CauseName.TOKENIZER
        assert "nly the last token" in cause.evidence
        assert not others


@each("bare", [False, True])
def test_last_tokens_of_sequences_that_were_cut_are_like_others(bare: bool) -> None:
    for noise in (0.05, 0.3):
        found = causes_of(lowered(0.0, last, noise, **COLUMNS if bare else {}))
        assert CauseName.TOKENIZER not in {cause.name for cause in found}
    one = causes_of(lowered(30.0, lambda d: last(d) & (d.owner == 5), **COLUMNS if bare else {}))
    assert CauseName.TOKENIZER not in {cause.name for cause in one}


@each("by, bare", every((5.0, 15.0, 30.0), (False, True)))
def test_one_unlikely_token_a_sequence_is_no_temperature_and_said_to_be_few(by: float, bare: bool) -> None:
    found = causes_of(lowered(by, one_each, **COLUMNS if bare else {}))
    assert found
    assert not {cause.name for cause in found} & {CauseName.TEMPERATURE, CauseName.RAW_LOG_PROBS, CauseName.TOKENIZER}
    assert all("of the tokens hold" in cause.evidence for cause in found)
    assert sum(cause.confidence for cause in found) <= 0.5


def test_the_mismatch_is_said_to_be_alike_only_where_it_is() -> None:
    def said(where: Callable[[Dump], object] | None) -> str:
        return causes_of(Dump(3).table(policy=noisy(0.9, where)))[0].evidence

    assert "alike at all steps and positions" in said(None)
    assert "alike at all steps," in said(lambda d: d.position > 14)
    sizes = np.array([0.35, 0.45, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4])
    grows = Dump(3).table(policy=lambda law, d: d.perturbed(law, sizes[d.step[d.owner], None]))
    assert "alike at all positions," in causes_of(grows)[0].evidence
    single = dataclasses.replace(Dump(3).table(policy=noisy(0.9)), step=None)
    assert "alike at all positions," in causes_of(single)[0].evidence


@each(
    "bad, said",
    [
        ((5,), "at step 5 alone: k3 is "),
        ((2, 3), "at step 2 and stays to step 3: k3 is "),
        ((4, 5, 6, 7), "at step 4: k3 is "),
        ((2, 5), "and comes and goes: k3 is "),
    ],
)
def test_a_failed_sync_is_said_to_last_as_long_as_it_does(bad: tuple[int, ...], said: str) -> None:
    table = Dump(1).table(policy=noisy(0.7, lambda d: np.isin(d.step[d.owner], bad)))
    cause = causes_of(table)[0]
    assert cause.name == CauseName.WEIGHT_SYNC
    assert said in cause.evidence
    assert cause.figures["steps"] == len(bad)
    assert ("from there on" in cause.evidence) == (bad[-1] == 7)
    assert (f"back at step {bad[-1] + 1}" in cause.evidence) == (bad in {(5,), (2, 3)})
    here = np.isin(Dump(1).step, bad)[table.owner]
    assert cause.figures["k3_after"] == pytest.approx(View(table).k3[here].mean())
