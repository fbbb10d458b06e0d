"""The figures of the one pass: those of `summaries`, of verl, and of plain numpy where the dump is large or wild."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jackpot_sim.core import log_ratios
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.measure.figures import FIRST, figures
from jackpot_sim.diagnose.measure.full_laws import FullLaws
from jackpot_sim.diagnose.measure.metrics import MEANINGS, Metrics
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.summaries import SAMPLED, summaries
from tests.cases import each
from tests.diagnose.measure.tables import cut, drawn, filled, rows_of, scored, table_of
from tests.frameworks.batches import CLAMPED
from tests.frameworks.stored import stored

VERL = stored("verl")


def of(batches: list[Batch]) -> dict[str, Figure]:
    return figures(filled(Metrics, batches), filled(FullLaws, batches), filled(Sample, batches))


def known(value: float | None) -> float:
    return math.nan if value is None else value


@pytest.mark.parametrize("scale", [0.02, 1.5])
@pytest.mark.parametrize("sizes", [(), (7, 100, 1)])
def test_a_small_dump_has_the_figures_and_intervals_of_summaries(scale: float, sizes: tuple[int, ...]) -> None:
    table = drawn(200, scale=scale)
    found = of(cut(table, *sizes))
    assert set(found) == set(MEANINGS)
    first = [name for name in FIRST if name in MEANINGS]
    assert list(found)[: len(first)] == first
    for wanted in summaries(scored(table), {}):
        mine = found[wanted.figure]
        for value, there in ((mine.value, wanted.value), (mine.low, wanted.low), (mine.high, wanted.high)):
            assert known(value) == pytest.approx(there, rel=1e-9, nan_ok=True), wanted.figure
        assert mine.meaning == SAMPLED[wanted.figure]


@each("name", [name for name in VERL["batches"] if name != CLAMPED])
def test_the_figures_are_verls(name: str) -> None:
    batch, wanted = VERL["batches"][name], VERL["presets"]["disabled"][name]["metrics"]
    found = of(cut(rows_of(batch["policy"], batch["actor"], batch["mask"]), 2))
    names = {
        "kl": "k1",
        "k3_kl": "k3",
        "chi2_token": "chi_square_token",
        "chi2_seq": "chi_square_sequence",
        "log_ppl_diff": "log_perplexity_gap",
        "ppl_ratio": "perplexity_ratio",
    }
    for key, mine in names.items():
        assert found[mine].value == pytest.approx(wanted[key], rel=1e-6, abs=1e-8), key


def test_figures_that_summaries_do_not_have() -> None:
    table = drawn(300, scale=1.5, shift=-0.3)
    found, ratio = of(cut(table, 100)), Batch(table, 0).log_ratio
    total = np.add.reduceat(ratio, table.starts[:-1])
    assert table.actor_log_probs is not None
    wanted = {
        "abs_log_ratio_mean": np.abs(ratio).mean(),
        "far_share": (np.abs(ratio) > 1).mean(),
        "confident_disagreement": ((table.actor_log_probs >= math.log(0.5)) & (ratio < -2)).mean(),
        "ratio_mean": np.exp(ratio).mean(),
        "ratio_mean_sequence": np.exp(total).mean(),
        "ratio_error": np.exp(np.abs(ratio)).mean(),
    }
    for name, value in wanted.items():
        mine = found[name]
        assert mine.value == pytest.approx(value, rel=1e-12), name
        if mine.low is not None and mine.high is not None:
            assert mine.low < value < mine.high, name


@pytest.mark.parametrize("sequences", [64, 5 * GROUPS])
def test_shares_of_rare_tokens_have_intervals_of_sequences(sequences: int) -> None:
    """Tokens of which none was seen, or those of one sequence alone, in sequences of ten tokens."""
    for rare in (0, 1, 6):
        ratio = np.zeros(10 * sequences)
        ratio[30 : 30 + rare] = -3.0
        actor = np.full(len(ratio), -0.1)
        found = of(cut(table_of(actor + ratio, actor, np.full(sequences, 10)), 40))
        for name in ("far_share", "confident_disagreement"):
            value, low, high = (known(each) for each in (found[name].value, found[name].low, found[name].high))
            assert value == pytest.approx(rare / len(ratio))
            assert (low > 0) == (rare > 0)
            # Whole sequences, of which none was seen: (1 − high)^sequences = 2.5 %; of one, 5.6 times the share.
            none = 1 - 0.025 ** (1 / sequences)
            assert high == pytest.approx(none, rel=1e-6) if rare == 0 else 5 * value < high < 1.6 * none


def test_beyond_the_groups_an_interval_leaves_a_group_out() -> None:
    table = drawn(3 * GROUPS + 50, scale=0.4)
    found = of(cut(table, 700))
    whole = summaries(scored(table), {}, cluster=np.arange(table.sequences) % GROUPS)
    for wanted in whole:
        mine = found[wanted.figure]
        assert mine.value == pytest.approx(wanted.value, rel=1e-9), wanted.figure
        if wanted.figure not in ("abs_log_ratio_median", "abs_log_ratio_p99", "chi_square_token_trimmed"):
            assert known(mine.low) == pytest.approx(wanted.low, rel=1e-9, nan_ok=True), wanted.figure


@pytest.mark.parametrize("shift", [90.0, -90.0])
def test_ratios_of_sequences_beyond_floats_overflow_only_where_the_figure_does(shift: float) -> None:
    """S is about 20·(±90): e^S and its square are no floats, and the effective share is that of S less its maximum."""
    generator = np.random.default_rng(0)
    lengths = np.full(40, 20)
    ratio = shift + 0.02 * generator.normal(size=800)
    actor = np.full(800, -100.0)
    found = of(cut(table_of(actor + ratio, actor, lengths), 11))
    total = np.add.reduceat(ratio, np.arange(0, 800, 20))
    share = float(log_ratios.effective_sample_size(np.exp(total - total.max())))
    assert found["ess_fraction_sequence"].value == pytest.approx(share, rel=1e-9)
    assert found["ess_fraction_sequence"].low is not None
    assert (found["chi_square_sequence"].value is None) == (shift > 0)
    assert shift > 0 or found["chi_square_sequence"].value == pytest.approx(-1)
    assert found["k3"].value == pytest.approx(np.mean(np.expm1(ratio) - ratio), rel=1e-12)


def test_a_mean_that_is_a_float_is_found_where_its_sum_is_none() -> None:
    """e^{2S} overflows at one sequence of four thousand, and its mean, e^{713 − log 4000}, does not."""
    ratio = np.zeros(4000)
    ratio[1234] = 713 / 2
    actor = np.full(4000, -400.0)
    found = of(cut(table_of(actor + ratio, actor, np.ones(4000, dtype=int)), 1000, 1000))
    assert found["chi_square_sequence"].value == pytest.approx(math.exp(713 - math.log(4000)), rel=1e-10)
    assert found["ess_fraction_token"].value == pytest.approx(1 / 4000, rel=1e-10)
    assert found["chi_square_largest_share"].value == pytest.approx(1)


def test_tiny_mismatches_keep_their_digits() -> None:
    """χ² of ℓ = ±1e-9 is the mean of 2ℓ + 2ℓ²: from the mean of r² itself no digit of it would be left."""
    ratio = 1e-9 * np.where(np.arange(1000) % 2, 1.0, -1.0)
    actor = np.full(1000, -0.5)
    found = of(cut(table_of(actor + ratio, actor, np.full(100, 10)), 3))
    exact = (actor + ratio) - actor
    assert found["chi_square_token"].value == pytest.approx(np.mean(2 * exact + 2 * exact**2), rel=1e-9)
    assert found["k3"].value == pytest.approx(np.mean(exact**2) / 2, rel=1e-9)


def test_the_correlation_of_probabilities_near_1_keeps_its_digits() -> None:
    """1 − p of about 1e-7: the variance of p is 1e-14, of which p itself has two digits."""
    generator = np.random.default_rng(0)
    actor = -1e-7 * generator.exponential(size=1000)
    policy = actor * np.exp(0.3 * generator.normal(size=1000))
    found = of(cut(table_of(policy, actor, np.full(100, 10)), 7))
    wanted = np.corrcoef(np.expm1(policy), np.expm1(actor))[0, 1]
    assert found["probability_correlation"].value == pytest.approx(wanted, rel=1e-9)


def test_one_sequence_has_figures_and_no_intervals() -> None:
    found = of(cut(drawn(1)))
    assert found["k3"].value is not None
    assert {each.low for each in found.values()} == {None}


def test_no_token_has_no_figures() -> None:
    assert figures(Metrics(), FullLaws(), Sample()) == {}
