"""Whatever is no token that counts in a dump is found, counted and left out, and nothing else is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.left_out import SAMPLES, Reason
from jackpot_sim.readers.screening import Screening
from jackpot_sim.readers.screening.duplicates import digest
from jackpot_sim.readers.screening.values import ROUNDING, RUN, Sides
from jackpot_sim.readers.table import TokenTable, joined
from tests.cases import each

NAN, INF = math.nan, math.inf


def table(actor: Sequence[Floats] | Floats, policy: Sequence[Floats] | Floats, **columns: Any) -> TokenTable:
    """Sequences with these log-probs, from one file: a list of arrays, or a row each."""
    lengths = [len(each) for each in actor]
    file = columns.pop("file", "dump.jsonl")
    size = sum(lengths)
    columns = {"mask": np.ones(size, dtype=np.bool_), **columns}
    return TokenTable(
        tuple(map(str, range(len(lengths)))),
        tuple(f"{file}, line {line}" for line in range(1, len(lengths) + 1)),
        np.append(0, np.cumsum(lengths)),
        np.concatenate([np.arange(length) for length in lengths]),
        actor_log_probs=np.concatenate(list(actor)).astype(np.float64),
        policy_log_probs=np.concatenate(list(policy)).astype(np.float64),
        **columns,
    )


def laws(
    tokens: int, noise: float = 0.05, temperature: float = 1.0, seed: int = 0, vocabulary: int = 30
) -> tuple[Floats, Floats, Floats]:
    """Tokens drawn from softmaxes of LM-like sharpness: log q, log p and the token ids, (tokens,) each."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((tokens, vocabulary)) * rng.gamma(1.0, 8.0, (tokens, 1))
    q = log_softmax(logits / temperature, axis=-1)
    p = log_softmax(logits + noise * rng.standard_normal(logits.shape), axis=-1)
    drawn = np.argmax(q + rng.gumbel(size=q.shape), axis=-1)[:, None]
    return tuple(np.take_along_axis(x, drawn, axis=-1)[:, 0] for x in (q, p, np.arange(vocabulary) + 0 * drawn))


def rows(values: Floats, length: int = 20) -> Floats:
    return values.reshape(-1, length)


def screened(*tables: TokenTable) -> tuple[Screening, TokenTable | None]:
    """The screening of these tables, whose account must balance, and what is left of the last."""
    screening = Screening()
    kept = [screening.screen(each) for each in tables]
    assert screening.read == sum(map(len, tables)) == screening.used + sum(screening.left_out.count.values())
    assert screening.used == sum(len(each) for each in kept if each is not None)
    assert screening.sequences_used == sum(each.sequences for each in kept if each is not None)
    assert screening.sequences_read == sum(each.sequences for each in tables)
    for reason, sample in screening.left_out.sample.items():
        assert 0 < len(sample) <= min(SAMPLES, screening.left_out.count[reason])
    return screening, kept[-1]


def test_tokens_that_count_stay_as_they_are() -> None:
    actor, policy, token = laws(2000)
    clean = table(rows(actor), rows(policy), token=token.astype(np.int64))
    screening, kept = screened(clean)
    assert kept is clean
    assert not screening.left_out.count
    assert not screening.bypass
    assert screening.shifted == {-1: 0, 1: 0}


ONE_BAD = [
    ("policy", NAN, Reason.MISSING),
    ("actor", NAN, Reason.MISSING),
    ("actor", -INF, Reason.INFINITE),
    ("policy", INF, Reason.INFINITE),
    ("actor", -9999.0, Reason.INFINITE),
    ("policy", 1.0, Reason.ONE),
    ("policy", 0.5, Reason.POSITIVE),
    ("actor", 2 * ROUNDING, Reason.POSITIVE),
]


@each("side, value, reason", ONE_BAD)
def test_a_log_prob_that_is_none_is_left_out(side: str, value: float, reason: Reason) -> None:
    actor, policy, _ = laws(60)
    bad = {"actor": actor, "policy": policy}[side]
    bad[47] = value
    screening, kept = screened(table(rows(actor), rows(policy)))
    assert screening.left_out.count == {reason: 1}
    assert screening.left_out.sample == {reason: [f"dump.jsonl, line 3, position 7 ({side})"]}
    assert kept is not None
    assert 7 not in kept.position[kept.owner == 2]
    assert kept.actor_log_probs is not None
    assert np.array_equal(kept.actor_log_probs, np.delete(actor, 47))


@pytest.mark.parametrize("value", [1e-7, 4e-6, 0.9 * ROUNDING])
def test_a_log_prob_above_zero_by_rounding_is_read_as_zero_and_counted(value: float) -> None:
    actor, policy, _ = laws(60)
    actor[5], policy[5] = value, -1e-6
    screening, kept = screened(table(rows(actor), rows(policy)))
    assert not screening.left_out.count
    assert kept is not None
    assert kept.actor_log_probs is not None
    assert kept.policy_log_probs is not None
    assert screening.rounded == 1
    assert kept.actor_log_probs[5] == 0.0
    assert np.array_equal(np.delete(kept.actor_log_probs, 5), np.delete(actor, 5))
    assert np.array_equal(kept.policy_log_probs, policy)


def test_what_the_mask_excludes_counts_as_masked_whatever_it_holds() -> None:
    actor, policy, _ = laws(60)
    mask = np.ones(60, dtype=np.bool_)
    mask[[3, 4, 5, 6]] = False
    actor[3], policy[4], actor[5] = NAN, 1.0, INF
    screening, _ = screened(table(rows(actor), rows(policy), mask=mask))
    assert screening.left_out.count == {Reason.MASKED: 4}
    assert screening.left_out.sample[Reason.MASKED][0] == "dump.jsonl, line 1, position 3"


def test_the_first_position_and_ends_without_log_probs_are_padding() -> None:
    actor, policy, _ = laws(60)
    actor, policy = rows(actor), rows(policy)
    actor[0, 0] = NAN  # no position before it predicts it
    actor[1, -3:] = policy[1, -3:] = NAN
    actor[2, :2] = policy[2, :2] = NAN
    policy[2, 9] = NAN
    screening, _ = screened(table(actor, policy))
    assert screening.left_out.count == {Reason.PADDING: 6, Reason.MISSING: 1}


def test_a_sequence_without_any_log_probs_is_missing() -> None:
    actor, policy, _ = laws(40)
    actor[:20] = policy[:20] = NAN
    screening, _ = screened(table(rows(actor), rows(policy)))
    assert screening.left_out.count == {Reason.MISSING: 20}
    assert screening.sequences_used == 1


@each("first, last", [(40, 0), (0, 40), (30, 50), (3, 20)])
def test_long_runs_of_zeros_on_both_sides_at_an_end_are_padding_without_token_ids(first: int, last: int) -> None:
    actor, policy, _ = (rows(column, 50) for column in laws(1000))
    ends = [[np.concatenate([np.zeros(first), row, np.zeros(last)]) for row in side] for side in (actor, policy)]
    long = sum(size for size in (first, last) if size >= RUN)
    screening, kept = screened(table(*ends))
    assert kept is not None
    assert 20 * long <= screening.left_out.count[Reason.PADDING] < 20 * (long + 4)
    assert not screening.left_out.count.keys() - {Reason.PADDING}


def test_zeros_of_policies_that_are_certain_throughout_are_no_padding() -> None:
    actor, policy, _ = (rows(column, 50).copy() for column in laws(1000))
    for side in (actor, policy):
        side[:, :20] = 0.0
        side[:, 25::2] = 0.0
    screening, _ = screened(table(actor, policy))
    assert not screening.left_out.count


def test_zeros_at_one_token_up_to_the_end_are_padding_but_for_the_first() -> None:
    actor, policy, token = laws(40)
    actor, policy, token = rows(actor), rows(policy), rows(token).astype(np.int64)
    actor[1, 12:] = policy[1, 12:] = 0.0
    token[1, 11], token[1, 12:] = 7, 2
    screening, _ = screened(table(actor, policy, token=token.reshape(-1)))
    assert screening.left_out.count == {Reason.PADDING: 7}
    without, _ = screened(table(actor, policy))
    assert not without.left_out.count


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_zeros_that_stand_for_no_log_prob_are_left_out(side: int, share: float) -> None:
    actor, policy, _ = laws(4000, seed=1)
    placed = np.random.default_rng(2).random(4000) < share
    columns = [actor, policy]
    columns[side] = np.where(placed, 0.0, columns[side])
    screening, kept = screened(table(*map(rows, columns)))
    expected = placed & (columns[1 - side] < -1e-3)
    assert screening.left_out.count == {Reason.ZERO: np.count_nonzero(expected)}
    assert kept is not None
    sides = Sides.of(kept)
    assert np.abs(sides.actor - sides.policy).max() < 1


def rounded(values: Floats) -> Floats:
    """Log-probs of probabilities that were rounded to half precision: 0.0 for whatever is certain enough."""
    likely = values > -7  # half precision has nothing below
    return np.where(likely, np.log(np.exp(np.where(likely, values, 0)).astype(np.float16).astype(np.float64)), values)


def top_p(tokens: int, share: float) -> tuple[Floats, Floats]:
    """log q of a sampler that keeps the likeliest tokens up to a mass, and log p of its untruncated law."""
    rng = np.random.default_rng(4)
    p = log_softmax(rng.standard_normal((tokens, 30)) * rng.gamma(1.0, 8.0, (tokens, 1)), axis=-1)
    ordered = np.sort(np.exp(p), axis=-1)[:, ::-1]
    cut = np.take_along_axis(ordered, np.argmax(np.cumsum(ordered, -1) >= share, -1)[:, None], -1)
    q = np.where(np.exp(p) >= cut, p, -INF)
    single = np.isfinite(q).sum(-1, keepdims=True) == 1
    q = np.where(single, np.where(np.isfinite(q), 0.0, q), log_softmax(q, axis=-1))
    drawn = np.argmax(q + rng.gumbel(size=q.shape), axis=-1)[:, None]
    return np.take_along_axis(q, drawn, -1)[:, 0], np.take_along_axis(p, drawn, -1)[:, 0]


TRUE_ZEROS = {
    "noise": laws(4000, noise=0.3, seed=3)[:2],
    "another model": laws(4000, noise=5.0, seed=3)[:2],
    "cold actor": laws(4000, temperature=0.1, seed=3)[:2],
    **{f"top-p {share}": top_p(4000, share) for share in (0.9, 0.6, 0.3)},
}


@each("name", TRUE_ZEROS)
def test_a_certain_token_has_a_true_log_prob_of_zero(name: str) -> None:
    actor, policy = map(rounded, TRUE_ZEROS[name])
    assert np.count_nonzero((actor == 0) != (policy == 0)) > 10
    screening, _ = screened(table(rows(actor), rows(policy)))
    assert Reason.ZERO not in screening.left_out.count


def test_zeros_on_both_sides_are_two_certain_policies() -> None:
    actor, policy, _ = laws(400)
    actor[::3] = policy[::3] = 0.0
    screening, _ = screened(table(rows(actor), rows(policy)))
    assert not screening.left_out.count


@pytest.mark.parametrize("side", [0, 1])
def test_a_column_of_zeros_leaves_nothing(side: int) -> None:
    columns = list(laws(400)[:2])
    columns[side] = np.zeros(400)
    screening, kept = screened(table(*map(rows, columns)))
    assert screening.left_out.count == {Reason.ALL_ZERO: 400}
    assert kept is None
    assert not screening.bypass


def test_a_sequence_of_zeros_on_one_side_is_left_out_whole_and_no_other() -> None:
    actor, policy, _ = laws(400)
    policy = rows(policy)
    policy[4] = 0.0
    screening, _ = screened(table(rows(actor), policy))
    assert screening.left_out.count == {Reason.ALL_ZERO: 20}
    assert screening.left_out.sample[Reason.ALL_ZERO][0] == "dump.jsonl, line 5, position 0 (policy)"


def test_a_short_answer_that_both_sides_are_certain_of_counts() -> None:
    screening, kept = screened(table([np.zeros(2), np.array([-0.1])], [np.zeros(2), np.array([-0.2])]))
    assert kept is not None
    assert not screening.left_out.count


def test_a_sequence_of_another_rank_is_a_duplicate_in_the_same_table_and_in_the_next() -> None:
    actor, policy, _ = laws(2000, seed=5)
    first = table(rows(actor, 100), rows(policy, 100), file="0_0.pt")
    second = dataclasses.replace(first, place=tuple(each.replace("0_0", "0_1") for each in first.place))
    for tables in ([first, second], [joined([first, second])]):
        screening, _ = screened(*tables)
        assert screening.left_out.count == {Reason.DUPLICATE: 2000}
        assert screening.left_out.sample[Reason.DUPLICATE][0] == "0_1.pt, line 1"


def test_equal_short_answers_are_duplicates_only_from_a_file_that_repeats_another() -> None:
    actor, policy, _ = laws(400, seed=5)
    short = np.array([-0.3, -0.01])
    answers = table([short] * 8, [short - 0.1] * 8, file="0_0.pt")
    screening, _ = screened(answers, dataclasses.replace(answers, place=tuple(f"0_1.pt, line {i}" for i in range(8))))
    assert not screening.left_out.count
    long = table([actor, short], [policy, short - 0.1], file="0_0.pt")
    screening, _ = screened(long, dataclasses.replace(long, place=("0_1.pt, line 1", "0_1.pt, line 2")))
    assert screening.left_out.count == {Reason.DUPLICATE: 402}


def test_what_differs_in_one_bit_or_in_the_step_is_no_duplicate() -> None:
    actor, policy, token = laws(100, seed=5)
    one = table([actor], [policy], token=token.astype(np.int64), step=np.array([1]))
    changes: list[dict[str, Any]] = [
        {"actor_log_probs": np.nextafter(actor, np.where(np.arange(100) == 50, -INF, actor))},
        {"policy_log_probs": np.nextafter(policy, np.where(np.arange(100) == 50, -INF, policy))},
        {"token": token.astype(np.int64) + (np.arange(100) == 99)},
        {"step": np.array([2])},
        {"actor_log_probs": actor[::-1].copy(), "policy_log_probs": policy[::-1].copy()},
        {"actor_log_probs": policy, "policy_log_probs": actor},
    ]
    digests = {int(digest(x, Sides.of(x))[0]) for x in [one, *(dataclasses.replace(one, **x) for x in changes)]}
    assert len(digests) == 1 + len(changes)
    assert not screened(one, *(dataclasses.replace(one, **change) for change in changes))[0].left_out.count


@pytest.mark.parametrize("move", [-1, 1])
@pytest.mark.parametrize("length", [4, 20])
def test_a_side_that_is_moved_by_one_is_found(move: int, length: int) -> None:
    actor, policy, _ = laws(400, seed=6)
    actor = np.roll(rows(actor, length), move, axis=1)
    screening, kept = screened(table(actor, rows(policy, length)))
    assert screening.shifted[-move] == 0
    assert screening.shifted[move] == screening.left_out.count[Reason.MISALIGNED] > 300
    assert kept is None or len(kept) < 100


def test_one_sequence_that_is_moved_is_left_out_alone() -> None:
    actor, policy, _ = laws(400, seed=6)
    policy = rows(policy)
    policy[7] = np.append(policy[7, 1:], 0.0)
    screening, _ = screened(table(rows(actor), policy))
    assert screening.left_out.count == {Reason.MISALIGNED: 20}
    assert screening.left_out.sample == {Reason.MISALIGNED: ["dump.jsonl, line 8"]}
    assert screening.shifted == {-1: 0, 1: 20}


def test_a_few_tokens_do_not_tell_whether_they_are_moved() -> None:
    actor, policy, _ = laws(8, seed=6)
    screening, kept = screened(table([np.roll(actor, 1)], [policy]))
    assert screening.shifted == {-1: 0, 1: 0}
    assert kept is not None


@each("name", [*TRUE_ZEROS, "hot actor"])
def test_no_real_mismatch_looks_moved(name: str) -> None:
    """4,000 sequences of 16 tokens and as many of 4, of which none may look moved: below 1 in 1,000."""
    knobs: dict[str, dict[str, float]] = {
        "noise": {"noise": 0.3},
        "another model": {"noise": 5.0},
        "cold actor": {"temperature": 0.1},
        "hot actor": {"temperature": 2.0},
    }
    actor, policy = laws(64_000, seed=7, vocabulary=10, **knobs.get(name, {}))[:2]  # type: ignore[arg-type]
    for length in (17, 4):
        size = 64_000 // length * length
        screening, _ = screened(table(rows(actor[:size], length), rows(policy[:size], length)))
        assert screening.shifted == {-1: 0, 1: 0}


def test_bypass_is_both_columns_equal_bit_for_bit() -> None:
    actor = laws(400)[0]
    equal = table(rows(actor), rows(actor))
    screening, kept = screened(equal)
    assert screening.bypass
    assert kept is equal
    other = actor.copy()
    other[390] = np.nextafter(other[390], -INF)
    unequal = table(rows(actor), rows(other))
    assert not screened(equal, unequal)[0].bypass
    assert not screened(unequal, equal)[0].bypass
    assert not Screening().bypass


def test_tokens_that_both_sides_are_certain_of_are_no_bypass() -> None:
    screening, kept = screened(table([np.zeros(3)], [np.zeros(3)]))
    assert kept is not None
    assert not screening.bypass


def test_advantages_that_are_no_numbers_are_missing_and_a_column_without_any_is_none() -> None:
    actor, policy, _ = laws(40)
    advantages = np.ones(40)
    advantages[21] = NAN
    screening, _ = screened(table(rows(actor), rows(policy), advantages=advantages))
    assert screening.left_out.count == {Reason.NO_ADVANTAGE: 1}
    _, kept = screened(table(rows(actor), rows(policy), advantages=np.full(40, NAN)))
    assert kept is not None
    assert kept.advantages is None


def test_a_side_that_is_not_there_is_refused() -> None:
    one = dataclasses.replace(table([np.array([-1.0])], [np.array([-1.0])]), policy_log_probs=None)
    with pytest.raises(ValueError, match="lacks the log-probs of a side"):
        Screening().screen(one)


def test_the_account_balances_whatever_a_dump_holds() -> None:
    rng = np.random.default_rng(8)
    values = np.array([NAN, INF, -INF, 1.0, 0.0, 0.3, 1e-7, -9999.0, -0.5, -3.0])
    for _ in range(200):
        lengths = rng.integers(1, 9, 6)
        columns = [[rng.choice(values, n) for n in lengths] for _ in range(2)]
        mask = rng.random(int(lengths.sum())) < 0.8
        one = table(*columns, mask=mask, token=rng.integers(0, 3, int(lengths.sum())))
        screened(one, one)


def test_a_sequence_that_was_cut_to_one_likely_token_throughout_counts() -> None:
    """Top-p 0.7 leaves one token where the policy gives at least 0.7: log q is 0.0, and log p lies above log 0.7."""
    actor, policy, _ = laws(400)
    actor, policy = rows(actor), rows(policy)
    actor[4], policy[4] = 0.0, math.log(0.75)
    screening, _ = screened(table(actor, policy))
    assert not screening.left_out.count
