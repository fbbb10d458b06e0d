"""Plumbing is mended first, a small mismatch needs nothing, and a correction is advised only where it surely helps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.diagnose.advice.advise import PLUMBING, SERIOUS, advise
from jackpot_sim.diagnose.advice.configuration import VERSIONS
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.weighed import Weighed, figures
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.causes.columns import NOTED
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.results import Cause, CauseName, Effect, Figure, State
from jackpot_sim.diagnose.what_if.candidates import candidates, parsed
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.readers.table import TokenTable
from tests.cases import each
from tests.diagnose.advice.worlds import evidence, sample


def dump(spread: float, sequences: int = 120, length: int = 10, seed: int = 0) -> TokenTable:
    """Tokens of all probabilities, of which ℓ has this standard deviation."""
    rng = np.random.default_rng(seed)
    actor = -rng.exponential(1.2, (sequences, length)) - 0.05
    log_ratio = spread * rng.standard_normal(actor.shape) - spread**2 / 2
    return sample(np.minimum(log_ratio, -actor - 1e-3), actor)


def cause(name: CauseName, confidence: float = 0.9) -> Cause:
    return Cause(name=name, confidence=confidence, evidence="the evidence", remedy="do this")


def effects(table: TokenTable, *own: str) -> list[Effect]:
    """The effects of the user's own corrections and of all others; figures of the others are not needed."""
    tried = candidates(own)
    found = Effects([each for each in tried if each.name in own])
    found.add(Batch(table, 0))
    return [*found.results(), *(Effect(name=each.name, label=each.label) for each in tried if each.name not in own)]


SMALL, LARGE, HUGE = dump(0.01), dump(0.5), dump(2.5)


@each("name", PLUMBING)
def test_a_fault_of_plumbing_is_mended_first_however_small_the_mismatch(name: CauseName) -> None:
    for table in (SMALL, LARGE):
        verdict, advice = advise(evidence(table), [cause(name)], [], Target())
        assert verdict.state is State.PROBLEM
        assert name in verdict.sentence
        assert "the evidence" not in verdict.sentence, "which the cause says"
        assert advice.action == "fix-cause"
        assert advice.sentence == "do this"
        assert advice.correction is None
        assert not advice.configuration


def test_a_fault_without_any_token_left_is_still_named() -> None:
    verdict, advice = advise(evidence(None), [cause(CauseName.MISALIGNED)], [], Target())
    assert (verdict.state, advice.action) == (State.PROBLEM, "fix-cause")


def test_a_fault_that_is_unlikely_does_not_come_before_a_likely_cause() -> None:
    causes = [cause(CauseName.STALE, 0.8), cause(CauseName.TEMPERATURE, 0.2)]
    assert advise(evidence(LARGE), causes, [], Target())[1].action == "correct"
    causes[1] = cause(CauseName.TEMPERATURE, 0.6)
    assert advise(evidence(LARGE), causes, [], Target())[1].action == "fix-cause"


@each("names", [(), (CauseName.PRECISION,), (CauseName.STALE,)])
def test_a_small_mismatch_needs_no_correction(names: tuple[CauseName, ...]) -> None:
    verdict, advice = advise(evidence(SMALL), [cause(name) for name in names], [], Target())
    assert verdict.state is State.HEALTHY
    assert advice.action == "none-needed"
    assert advice.correction is None
    assert advice.changes_mind


@each("low", [None, 0.5, 0.95])
def test_the_overlap_would_change_the_advice_only_where_its_bracket_can_tell(low: float | None) -> None:
    made = evidence(SMALL)
    if low is not None:
        ends = {"low": low, "high": low, "meaning": ""}
        made.metrics["overlap_p5_low"] = Figure(name="overlap_p5_low", value=low, **ends)
    _, advice = advise(made, [], [], Target())
    assert any("overlap" in change for change in advice.changes_mind) is (low == 0.95)


@each("name", SERIOUS)
def test_a_small_mean_does_not_hide_a_serious_cause(name: CauseName) -> None:
    assert advise(evidence(SMALL), [cause(name)], [], Target())[0].state is State.PROBLEM


@pytest.mark.parametrize("table", [None, dump(0.5, sequences=5), dump(0.04, sequences=9, length=3)])
def test_few_tokens_get_no_verdict_and_no_advice(table: TokenTable | None) -> None:
    verdict, advice = advise(evidence(table), [], [], Target())
    assert verdict.state is State.UNDECIDED
    assert advice.action == "too-few-tokens"
    assert "would settle it" in advice.sentence


def test_a_large_mismatch_gets_a_correction_that_meets_the_target() -> None:
    verdict, advice = advise(evidence(LARGE), [], effects(LARGE), Target())
    assert verdict.state is State.PROBLEM
    assert advice.action == "correct"
    assert advice.correction is not None
    assert advice.threshold is not None
    assert set(advice.configuration) == set(VERSIONS)
    weighed = Weighed(LARGE)
    found = figures(weighed.sums(parsed(advice.correction)).sum(axis=0))
    none = figures(weighed.sums(estimators.get("none")).sum(axis=0))
    assert found.keep >= 0.95
    assert found.ess >= 0.5
    assert found.bias < none.bias / 2
    assert f"{float(none.bias):.2g}" in advice.sentence


def test_the_first_correction_stays_where_another_leaves_hardly_less_bias() -> None:
    table = dump(0.5, sequences=400)
    advice = advise(evidence(table), [], [], Target())[1]
    assert advice.correction == "tis(clip=2)"
    other = figures(Weighed(table).sums(estimators.get("mis", low=0.2, high=5.0)).sum(axis=0))
    tis = figures(Weighed(table).sums(estimators.get("tis")).sum(axis=0))
    assert 0 < other.bias < 0.5 * tis.bias


def test_a_correction_that_changes_nothing_is_not_advised() -> None:
    """Only a mask that drops nothing has an effective share of 1, and it leaves the bias as it is."""
    advice = advise(evidence(LARGE), [], [], Target(keep=0.5, ess=1.0))[1]
    assert advice.action == "none-is-enough"


def test_the_users_own_correction_must_meet_the_target() -> None:
    table = dump(0.5, sequences=400)
    advice = advise(evidence(table), [], effects(table, "is"), Target(keep=0.8, ess=0.84))[1]
    assert advice.action == "correct"
    assert advice.correction != "is"
    assert any("your own is, which has an effective sample size" in change for change in advice.changes_mind)


def test_a_tighter_target_moves_the_threshold() -> None:
    advice = advise(evidence(LARGE), [], [], Target(bias=0.002))[1]
    assert advice.action == "correct"
    assert advice.threshold is not None
    assert advice.threshold.value is not None
    assert advice.threshold.low is not None
    assert advice.threshold.high is not None
    assert advice.threshold.low <= advice.threshold.value <= advice.threshold.high
    assert "misses the target" in advice.sentence
    assert "bias of at most 0.002" in advice.target


def test_none_is_enough_where_no_correction_meets_the_target() -> None:
    advice = advise(evidence(HUGE), [], [], Target())[1]
    assert advice.action == "none-is-enough"
    assert advice.correction is None


def test_what_more_tokens_would_settle_is_left_open() -> None:
    """At this spread the best keep at an effective share of a half is within chance of 0.95."""
    actions = {advise(evidence(dump(1.3, seed=seed)), [], [], Target())[1].action for seed in range(4)}
    assert "too-few-tokens" in actions
    assert actions <= {"too-few-tokens", "correct", "none-is-enough"}


@each(
    "own, kept",
    [
        ("tis(clip=3)", True),
        ("sequence-tis", False),
        ("mis(low=0.9, high=1.1)", False),
        ("verl:decoupled_k3_rs", False),
    ],
)
def test_the_users_own_correction_stays_where_it_does_as_well(own: str, kept: bool) -> None:
    advice = advise(evidence(LARGE), [], effects(LARGE, own), Target())[1]
    assert advice.action == "correct"
    assert (advice.correction == own) is kept
    assert any(own in change for change in advice.changes_mind) is not kept


def test_corrections_of_a_batch_or_that_are_refused_are_passed_over() -> None:
    table = dataclasses.replace(LARGE, advantages=None)
    advice = advise(evidence(table), [], effects(table, "m2po", "dppo-tv"), Target())[1]
    assert advice.action == "correct"
    assert not any(name in change for name in ("m2po", "dppo") for change in advice.changes_mind)


def test_identical_policies_are_healthy() -> None:
    table = sample(np.zeros((20, 5)), -1.0)
    found: Evidence = evidence(table)
    assert advise(found, [], [], Target())[0].state is State.HEALTHY


def test_few_placeholders_are_no_problem_and_not_the_cause_of_a_mismatch() -> None:
    note = cause(CauseName.PLACEHOLDER, NOTED)
    verdict, advice = advise(evidence(SMALL), [note], [], Target())
    assert (verdict.state, advice.action) == (State.HEALTHY, "none-needed")
    assert "placeholder" not in verdict.sentence
    verdict, advice = advise(evidence(LARGE), [note], effects(LARGE), Target())
    assert (verdict.state, advice.action) == (State.PROBLEM, "correct")
    assert "placeholder" not in verdict.sentence


@each("name", SERIOUS)
def test_the_advice_for_a_serious_cause_begins_with_its_remedy(name: CauseName) -> None:
    _, advice = advise(evidence(LARGE), [cause(name)], effects(LARGE), Target())
    assert advice.sentence.startswith("do this. Until then use tis")
    assert advice.correction is not None


@each("name", SERIOUS)
def test_a_serious_cause_that_is_unlikely_is_no_problem_of_a_small_mismatch(name: CauseName) -> None:
    causes = [cause(CauseName.PRECISION), cause(name, 0.1)]
    assert advise(evidence(SMALL), causes, [], Target())[0].state is State.HEALTHY


def test_between_good_and_bad_is_not_small() -> None:
    table = dump(0.016, sequences=400)
    verdict, advice = advise(evidence(table), [], [], Target())
    assert (verdict.state, advice.action) == (State.HEALTHY, "none-needed")
    assert "between good and bad" in verdict.sentence
    assert "small" not in verdict.sentence
    assert "small" in advise(evidence(SMALL), [], [], Target())[0].sentence


def test_advantages_that_are_all_zero_leave_the_advice_of_a_dump_without_any() -> None:
    zero = dataclasses.replace(LARGE, advantages=np.zeros(len(LARGE)))
    found = [advise(evidence(table), [], [], Target())[1] for table in (zero, LARGE)]
    assert found[0] == found[1]
    assert found[0].action == "correct"


def test_a_correction_of_the_users_own_that_drops_what_needs_no_correction_is_a_problem() -> None:
    harmful, harmless = "verl:decoupled_geo_rs", "tis(clip=2)"
    verdict, advice = advise(evidence(SMALL), [], effects(SMALL, harmful, harmless), Target())
    assert verdict.state is State.PROBLEM
    assert verdict.sentence.startswith(f"Your own correction does the harm: {harmful} keeps 0.")
    assert harmless not in verdict.sentence
    assert "The mismatch is small" in verdict.sentence
    assert advice.sentence.startswith(f"Leave out {harmful}. No correction is needed")
    verdict, advice = advise(evidence(SMALL), [], effects(SMALL, harmless), Target())
    assert verdict.state is State.HEALTHY
    assert advice.sentence.startswith("No correction is needed")
