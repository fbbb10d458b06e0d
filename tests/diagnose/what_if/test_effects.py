"""The effects of corrections, beside a slow path that pads all rollouts to one array."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import entropy
from typing_extensions import override

from jackpot_sim import estimators
from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.log_ratios import ess_fraction
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.results import Effect, Figure
from jackpot_sim.diagnose.what_if.candidates import Candidate, candidates
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.diagnose.what_if.overlaps import overlap
from jackpot_sim.diagnose.what_if.tally import Tally
from jackpot_sim.estimators import (
    Correction,
    Denominator,
    SequenceCorrection,
    TokenCorrection,
    Tokens,
    TokenWeights,
    given,
)
from jackpot_sim.estimators.corrections.correction import Level
from jackpot_sim.estimators.rollouts.weights import scale, weigh, weight_figures
from jackpot_sim.readers.table import TokenTable
from tests.cases import each
from tests.diagnose.what_if.dumps import dump, padded, scattered

OWN = ("rao-blackwell(obrs(lam=1.5))", "obrs(lam=0.8) & veto(threshold=0.5)", "batch-normalize(sequence-tis)")
LENGTHS = np.random.default_rng(7).permutation(np.arange(1, 61))


def tried(tables: Sequence[TokenTable], of: Sequence[Candidate]) -> list[Effect]:
    effects, first = Effects(of), 0
    for table in tables:
        effects.add(Batch(table, first))
        first += table.sequences
    return effects.results()


@dataclass(frozen=True)
class Fading(TokenCorrection):
    """A user's correction whose masks are drawn, and are 0 at some tokens."""

    name = "fading"

    @override
    def accept(self, tokens: Tokens) -> Array:
        return tokens.xp.clip(1 + 9 * tokens.log_ratio, 0.0, 1.0)

    @override
    def weight(self, tokens: Tokens) -> Array:
        return 3 * tokens.ratio**-2


@dataclass(frozen=True)
class Halved(SequenceCorrection):
    """A user's correction with one drawn mask and one weight for all tokens of a sequence."""

    name = "halved"

    @override
    def accept(self, tokens: Tokens) -> Array:
        return tokens.xp.full_like(tokens.log_ratio[:, :1], 0.5)

    @override
    def weight(self, tokens: Tokens) -> Array:
        return tokens.xp.exp(tokens.log_ratio[:, :1])


FEW = candidates(OWN)[: len(OWN) + len(estimators.names())]
"""Those of `OWN`, and the registered ones."""
TRIED = [
    *(each for each in candidates(OWN) if each.correction is not None),
    *(Candidate(each.name, each.name, each) for each in (Fading(), Halved())),
]
EVEN = dump(1, LENGTHS)
"""A dump with as many sequences in each quarter by length."""
ROLLOUTS = padded(EVEN)
EFFECTS = {each.name: each for each in tried([EVEN], TRIED)}


def slow(correction: Correction, of: TokenTable = EVEN) -> TokenWeights[Floats]:
    """The pair on padded rollouts, (S, longest)."""
    z = None if correction.overlap_lam is None else overlap(Batch(of, 0), float(correction.overlap_lam))
    return weigh(padded(of), correction, None if z is None else scattered(of, z))


def near(found: float | Figure | None, wanted: float) -> bool:
    """True where a figure is right, or null for what is not finite."""
    value = found.value if isinstance(found, Figure) else found
    return not np.isfinite(wanted) if value is None else value == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@np.errstate(all="ignore")
@each("candidate", TRIED)
def test_shares_and_sums_are_those_of_padded_rollouts(candidate: Candidate) -> None:
    found, (accept, weight) = EFFECTS[candidate.name], slow(given(candidate.correction))
    live, advantage = ROLLOUTS.mask, np.where(ROLLOUTS.mask, ROLLOUTS.advantage[:, None], 0.0)
    both = TokenWeights(accept, weight).expected()
    size = np.abs(advantage)
    assert found.refused is None
    assert near(found.kept, accept.sum() / live.sum())
    assert near(found.signal, (accept * size).sum() / size.sum())
    for value, part in ((found.kept_positive, advantage > 0), (found.kept_negative, advantage < 0)):
        assert near(value, (both * advantage)[part].sum() / advantage[part].sum())
    assert near(found.sequences_kept, np.mean(1 - np.prod(np.where(live, 1 - accept, 1.0), axis=-1)))
    assert near(found.ess, ess_fraction(both.sum(), (both * weight).sum(), live.sum()))
    assert near(found.weight_mean, both.sum() / accept.sum())
    assert near(found.weight_max, np.max(weight, where=accept > 0, initial=-np.inf))
    quarters = np.split(np.argsort(ROLLOUTS.lengths), 4)
    for value, rows in zip(found.by_length, quarters, strict=True):
        assert near(value, accept[rows].sum() / live[rows].sum())


def test_masks_of_sequences_are_drawn_token_by_token() -> None:
    (found,) = tried([dump(3, np.full(12, 5))], TRIED[-1:])
    assert near(found.sequences_kept, 1 - 0.5**5)
    assert near(found.kept, 0.5)


@np.errstate(all="ignore")
@each("candidate", TRIED)
def test_figures_without_chance_are_those_of_rollouts(candidate: Candidate) -> None:
    """The figures that rollouts have of drawn masks, where a mask is not drawn."""
    correction = given(candidate.correction)
    found, (accept, weight) = EFFECTS[candidate.name], slow(correction)
    if np.any((accept > 0) & (accept < 1)):
        return
    mask, one, three = accept > 0, np.zeros(len(ROLLOUTS), np.int64), np.arange(len(ROLLOUTS)) % 3
    figures, _ = weight_figures(ROLLOUTS, mask, accept * weight, Level.TOKEN, three)
    assert near(found.kept, figures["acceptance_rate"])
    assert near(found.ess, figures["ess_fraction"])
    for denominator in Denominator:
        divisors = scale(ROLLOUTS, mask, accept * weight, denominator, correction.unit, one)
        assert near(found.gradient_scale[denominator], (accept * weight).sum() / live_tokens() / divisors[0])


def live_tokens() -> int:
    return int(ROLLOUTS.mask.sum())


@np.errstate(all="ignore")
@each("candidate", TRIED)
def test_effective_kl_is_that_of_two_laws_over_the_tokens(candidate: Candidate) -> None:
    found, pair = EFFECTS[candidate.name], slow(given(candidate.correction))
    ratio, both = np.exp(ROLLOUTS.log_ratio[ROLLOUTS.mask]), pair.expected()[ROLLOUTS.mask]
    assert near(found.effective_kl, float(entropy(ratio, both)))
    assert near(found.effective_kl_reverse, float(entropy(both, ratio)))


@each("candidate", TRIED)
def test_the_tail_of_weights_is_a_quantile_over_kept_tokens(candidate: Candidate) -> None:
    accept, weight = (each[ROLLOUTS.mask] for each in slow(given(candidate.correction)))
    value = given(EFFECTS[candidate.name].weight_p99)
    assert value <= given(EFFECTS[candidate.name].weight_max)
    order = np.argsort(weight)
    share = np.cumsum(accept[order]) / accept.sum()
    wanted = weight[order][np.searchsorted(share, 0.99 - 1e-12)]
    assert value == pytest.approx(wanted, rel=2**-8 + 1e-12)


@each("candidate", TRIED)
def test_intervals_of_shares_are_those_of_sequences(candidate: Candidate) -> None:
    correction = given(candidate.correction)
    accept, _ = slow(correction)
    size = np.where(ROLLOUTS.mask, np.abs(ROLLOUTS.advantage[:, None]), 0.0)
    for name, weight in (("kept", ROLLOUTS.mask.astype(np.float64)), ("signal", size)):
        found = given(getattr(EFFECTS[candidate.name], name))
        _, low, high = intervals.of_share((accept * weight).sum(axis=-1), weight.sum(axis=-1))
        if not correction.rejects:
            assert accept[ROLLOUTS.mask].min() == 1
            low = high = 1.0
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6), name


def test_what_only_weighs_keeps_all_for_sure() -> None:
    sure = {each.name for each in TRIED if given(EFFECTS[each.name].kept).low == 1}
    assert {"none", "tis", "rao-blackwell(obrs(lam=1.5))", "batch-normalize(sequence-tis)"} <= sure
    assert not {"icepop", "obrs", "veto", "obrs(lam=0.8) & veto(threshold=0.5)", "fading"} & sure


def test_a_share_kept_of_which_few_sequences_tell_has_an_interval_that_says_so() -> None:
    """A mask that drops no sequence of 80 may drop some of others, and one that drops one drops no half of them."""
    mask = Candidate("mask", "mask", estimators.get("sequence-mask-k1", low=0.9, high=1.1))
    for dropped in (0, 1):
        table = dump(0, np.full(80, 10), spread=0.0)
        ratio = np.repeat(np.where(np.arange(80) < dropped, 1.0, 0.01), 10)
        table = dataclasses.replace(table, actor_log_probs=given(table.policy_log_probs) - ratio)
        kept = given(tried([table], [mask])[0].kept)
        assert kept.value == pytest.approx(1 - dropped / 80)
        assert 0.9 < given(kept.low) < given(kept.value) <= given(kept.high) <= 1
        assert (kept.high == 1) == (dropped == 0)


@each("candidate", TRIED)
def test_the_control_rejects_as_much(candidate: Candidate) -> None:
    """Random rejection with a drawn mask, averaged over many draws, of tokens or of sequences."""
    found, correction = EFFECTS[candidate.name], given(candidate.correction)
    control, share = found.random_control, given(given(found.kept).value)
    assert control["kept"] == control["signal"] == control["kept_positive"] == control["ess"] == share
    assert control["gradient_scale_accepted"] == 1
    assert control["gradient_scale_proposed"] == share
    assert near(control["effective_kl"], given(EFFECTS["none"].effective_kl))
    if correction.unit is Level.SEQUENCE:
        assert control["sequences_kept"] == share
    else:
        assert near(control["sequences_kept"], np.mean(1 - (1 - share) ** ROLLOUTS.lengths))


ALONE = [
    each for each in FEW if not given(each.correction).looks_at_batch and given(each.correction).overlap_lam is None
]
"""Corrections for which nothing is fitted to a batch."""


@pytest.mark.parametrize(("cuts", "parts"), [((), 1), ((1, 59), 2), ((20, 31, 44), 2), ((7, 20, 44, 50), 1)])
def test_the_split_into_batches_and_among_workers_changes_nothing(cuts: tuple[int, ...], parts: int) -> None:
    wanted = [EFFECTS[each.name] for each in ALONE]
    edges = [0, *cuts, len(LENGTHS)]
    pieces = [given(EVEN.take(np.arange(*ends))) for ends in pairwise(edges)]
    whole, workers = Effects(ALONE), [Effects(ALONE) for _ in pieces]
    for effects, table, first in zip(workers, pieces, edges, strict=False):
        effects.add(Batch(table, first))
    while len(workers) > parts:
        last = workers.pop()
        workers[-1].merge(pickle.loads(pickle.dumps(last)))
    for effects in workers:
        whole.merge(effects)
    assert differences(whole.results(), wanted) == []


def differences(found: Sequence[Effect], wanted: Sequence[Effect]) -> list[tuple[str, str]]:
    """The corrections and figures that differ by more than rounding."""
    pairs = [(each.name, numbers(each), numbers(want)) for each, want in zip(found, wanted, strict=True)]
    return [(name, key) for name, got, want in pairs for key, value in want.items() if not near(got[key], value)]


def numbers(effect: Effect) -> dict[str, float]:
    """The numbers of an effect by name; −1 for null."""
    dumped = effect.model_dump()
    flat = {name: value for name, value in dumped.items() if not isinstance(value, dict | list)}
    for name, value in dumped.items():
        inside = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}.{key}": each for key, each in inside}
    return {name: -1.0 if value is None else value for name, value in flat.items() if not isinstance(value, str)}


def test_a_batch_is_the_sequences_of_a_step() -> None:
    table = dump(3, np.full(24, 5), steps=3)
    looking = [each for each in FEW if given(each.correction).looks_at_batch]
    together = tried([table], looking)
    steps = [given(table.take(np.flatnonzero(given(table.step) == step))) for step in range(3)]
    assert looking
    assert differences(tried(steps, looking), together) == []
    changed = {name for name, _ in differences(tried([dataclasses.replace(table, step=None)], looking), together)}
    assert changed == {each.name for each in looking} - {"m2po"}  # of which nothing is dropped here


def test_what_a_correction_lacks_is_said() -> None:
    bare = dataclasses.replace(EVEN, advantages=None, actor_topk=None)
    found = {each.name: each for each in tried([bare], FEW)}
    assert "needs advantages" in given(found["topr"].refused)
    assert "top-k" in given(found["jackpot"].refused)
    tis = found["tis"]
    assert tis.refused is None
    assert (tis.kept_positive, tis.kept_negative) == (None, None)
    assert given(tis.signal).value == given(tis.kept).value
    assert "advantages are lacking" in given(tis.signal).meaning


def test_what_some_tokens_lack_is_said_too() -> None:
    holes = given(EVEN.advantages).copy()
    holes[5] = np.nan
    found = {each.name: each for each in tried([EVEN, dataclasses.replace(EVEN, advantages=holes)], FEW)}
    assert "for some tokens" in given(found["topr"].refused)
    assert found["tis"].kept_positive is None
    first, later = Effects(FEW), Effects(FEW)
    first.add(Batch(EVEN, 0))
    later.add(Batch(dataclasses.replace(EVEN, advantages=holes), EVEN.sequences))
    first.merge(later)
    assert differences(first.results(), list(found.values())) == []
    assert [each.refused for each in first.results()] == [each.refused for each in found.values()]
    backwards = {each.name: each for each in tried([dataclasses.replace(EVEN, advantages=holes), EVEN], FEW)}
    assert backwards["topr"] == found["topr"]


def test_rules_that_no_correction_expresses_are_listed_with_the_reason() -> None:
    found = {each.name: each for each in tried([EVEN], candidates())}
    assert "no weight on A" in given(found["verl:dro"].refused)


def test_without_a_token_nothing_is_tried() -> None:
    assert all("no token" in given(each.refused) for each in tried([], FEW))


def test_equal_corrections_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[object] = []
    monkeypatch.setattr(Tally, "add", lambda self, *_: added.append(self))
    same = candidates(("tis", "tis(clip=2)", "verl:decoupled_token_is"))[:3]
    tried([given(EVEN.take(np.arange(3)))], same)
    assert len(added) == 1


def test_a_correction_that_keeps_nothing_has_no_weights() -> None:
    (found,) = tried([EVEN], candidates(("mis(low=50, high=60)",))[:1])
    assert found.by_length == [0, 0, 0, 0]
    assert (given(found.kept).value, given(found.ess).value) == (0, None)
    assert (found.weight_mean, found.weight_p99, found.weight_max) == (None, None, None)
    assert (found.effective_kl, found.effective_kl_reverse) == (None, None)
    assert found.gradient_scale == {"proposed": 0, "accepted": None, "self_normalized": None}


def test_a_weight_that_overflows_is_null_and_no_error() -> None:
    far = dataclasses.replace(EVEN, policy_log_probs=given(EVEN.actor_log_probs) + 800.0)
    found = {each.name: each for each in tried([far], FEW)}
    assert found["is"].weight_max is None
    assert given(found["tis"].ess).value == pytest.approx(1)
    assert given(found["sequence-mis"].kept).value == 0
    assert found["sequence-mis"].weight_max is None


def test_a_plug_in_that_fails_is_refused_with_its_reason() -> None:
    @dataclass(frozen=True)
    class Failing(TokenCorrection):
        name = "failing"

        @override
        def accept(self, tokens: Tokens) -> Array:
            raise RuntimeError("of no use")

    (found,) = tried([EVEN], [Candidate("failing", "failing", Failing())])
    assert "of no use" in given(found.refused)
