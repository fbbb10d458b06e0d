"""A sharp slice of the coverage of intervals; `python -m tests.interval_coverage` shows all of it."""

from __future__ import annotations

import pytest

from tests.interval_coverage import WORLDS, Row, analysed, diagnosed, diagnostics, shares, simulate

SHARP = ("k2", "k3", "chi_square_token", "ess_fraction_token", "kl_policy_actor", "overlap", "probability_gap")


def test_figures_of_twelve_sequences_that_differ_as_wholes_are_covered() -> None:
    """Percentile intervals of a bootstrap cover k2 and k3 at 0.74 here."""
    rows = simulate(diagnostics(WORLDS["sequence"], 12), 250, 0, SHARP)
    for figure in ("k2", "k3", "overlap", "probability_gap", "kl_policy_actor"):
        # A binomial of 250 at 0.95 has a standard deviation of 0.014.
        assert 0.91 <= rows[figure].coverage <= 0.99, figure
        assert rows[figure].share_marked == 0, figure


def test_weights_of_sequences_are_covered_or_unresolved() -> None:
    """Percentile intervals of a bootstrap cover the effective share of 16 at 0.41 and of 64 at 0.55."""
    names = ("chi_square_sequence", "ess_fraction_sequence")
    for clusters in (16, 64):
        for figure, row in simulate(diagnostics(WORLDS["mild"], clusters), 150, 1, names).items():
            assert row.coverage > 0.87, figure
            assert row.share_marked < 0.3, figure
    for row in simulate(diagnostics(WORLDS["strong"], 64), 30, 2, names).values():
        assert row.verdict == "unresolved"


def test_a_dump_with_more_sequences_than_groups_is_covered() -> None:
    names = ("dump k3", "dump chi_square_token", "dump ess_fraction_token", "dump probability_gap")
    rows = simulate(diagnosed(WORLDS["sequence"], 600), 80, 4, names)
    assert {*names} <= {*rows}
    for figure, row in rows.items():
        assert row.coverage >= 0.875, figure  # three standard deviations of a binomial of 80 at 0.95
        assert row.share_marked == 0, figure


def test_shares_of_tokens_are_covered() -> None:
    """Intervals on the logit scale cover the first at 0.11, and of the last they hold most of 0 to 1."""
    for kind, share, sequences, longest in (
        ("icc 1", 0.01, 64, 0.2),
        ("icc 0.5", 0.9, 16, 0.6),
        ("icc 0.5", 0.01, 64, 0.15),
        ("long", 0.999, 256, 0.06),
        ("part", 0.01, 600, 0.02),
        ("icc 0", 0.001, 64, 0.005),
    ):
        (row,) = simulate(shares(kind, share, sequences), 200, 5).values()
        assert row.coverage >= 0.91, kind
        assert row.share_marked == 0, kind
        assert max(row.lengths) < longest or kind == "icc 0", kind
        assert sorted(row.lengths)[150] < longest, kind


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_are_covered(seeds: int) -> None:
    for figure, row in simulate(analysed(seeds, 12), 80, 3).items():
        assert row.coverage >= 0.875, figure  # three standard deviations of a binomial of 80 at 0.95


def test_a_row_says_what_it_is() -> None:
    assert Row(printed=1000, covered=950).verdict == "ok"
    assert Row(printed=1000, covered=890).verdict == Row(printed=1000, covered=999).verdict == "OUTSIDE"
    assert Row(printed=1000, covered=910).verdict == "ok?"
    assert Row(printed=1, covered=0, marked=9).verdict == "unresolved"
    assert Row(printed=1000, covered=890).judged("kl") == "OUTSIDE"
    assert Row(printed=1000, covered=890).judged("kl ±") == "short"
    assert Row(printed=1000, covered=999).judged("kl ±") == "long"
    assert Row(printed=1000, covered=950).judged("kl ±") == "ok"
