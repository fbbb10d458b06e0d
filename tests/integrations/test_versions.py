"""Versions of trainers that no test has seen."""

from __future__ import annotations

import warnings
from importlib import metadata

import pytest

from jackpot_sim.integrations.versions import TESTED, warn_untested
from jackpot_sim.requirements import UntestedVersionWarning


def test_a_version_outside_the_tested_range_warns_with_the_range_once(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_untested.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    with pytest.warns(UntestedVersionWarning, match=r"tested with skyrl>=0\.3\.0,<0\.4, and skyrl 9\.9 is installed"):
        warn_untested("skyrl")
    warn_untested("skyrl")
    warn_untested.cache_clear()


def test_a_tested_version_and_a_checkout_without_one_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_untested.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for trainer in TESTED:
            warn_untested(trainer)  # not installed
        warn_untested.cache_clear()
        monkeypatch.setattr(metadata, "version", lambda name: "0.3.1.dev0+main")
        warn_untested("skyrl")
        assert told == []
        warn_untested("miles")
        assert [each.category for each in told] == [UntestedVersionWarning]
    warn_untested.cache_clear()
