"""The registry takes whole corrections of free names, and tells the author of another one what to write."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.completeness import RegistrationError
from jackpot_sim.estimators.corrections.correction import Correction, TokenCorrection, is_ours
from tests.estimators.gap_mask import ProbabilityGapMask


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


class Halved(TokenCorrection):
    def weight(self, tokens: Tokens) -> Any:
        return tokens.ones() / 2


def halved(**parameters: Any) -> Any:
    """A correction with parameters of these defaults."""
    fields = [(name, Any, dataclasses.field(default=default)) for name, default in parameters.items()]
    return dataclasses.make_dataclass("Halved", fields, bases=(Halved,), frozen=True)


@dataclass(frozen=True)
class Nothing(TokenCorrection):
    pass


@dataclass(frozen=True)
class Unlevelled(Correction):
    def weight(self, tokens: Tokens) -> Any:
        return tokens.ones()


@dataclass(frozen=True)
class Required(Halved):
    epsilon: float


def test_a_new_correction_is_known_by_its_name_and_its_aliases() -> None:
    registry.register("gap-mask", "vendor:gap")(ProbabilityGapMask)
    assert estimators.get("vendor:gap", gap=0.3) == ProbabilityGapMask(0.3)
    assert "gap-mask" in estimators.names()
    assert "vendor:gap" not in estimators.names()
    assert registry.plugged_in(["tis", "vendor:gap", "gap-mask", "no such name"]) == ("gap-mask",)
    assert "gap-mask" not in registry.ours()
    assert not is_ours(ProbabilityGapMask)
    assert {name for name in estimators.names() if is_ours(registry.registered(name))} == set(registry.ours())


def test_a_class_that_is_defined_again_takes_the_place_of_its_old_self() -> None:
    registry.register("half")(halved(of_what=1.0))
    again = registry.register("half")(halved(of_what=2.0))
    assert registry.registered("half") is again


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        (dict, "dict is no correction: derive its class from TokenCorrection or SequenceCorrection"),
        (ProbabilityGapMask(), "is no correction: derive its class"),
        (Halved, r"Halved is no frozen dataclass: write @dataclass\(frozen=True\) above it, below @register"),
        (Nothing, "Nothing defines neither accept nor weight"),
        (Unlevelled, "Unlevelled lacks level: derive it from TokenCorrection or SequenceCorrection, or define it"),
    ],
)
def test_what_is_no_whole_correction_is_refused(correction: Any, sentence: str) -> None:
    with pytest.raises(RegistrationError, match=sentence):
        registry.register("new")(correction)
    assert "new" not in estimators.names()


@pytest.mark.parametrize(
    ("names", "correction", "sentence"),
    [
        (("tis",), ProbabilityGapMask, "the name 'tis' is taken by an estimator of jackpot_sim: register it under"),
        (("new", "icepop"), ProbabilityGapMask, "the name 'icepop' is taken by an estimator of jackpot_sim"),
        (("half",), ProbabilityGapMask, "the name 'half' is taken by Halved of "),
        (("my mask",), ProbabilityGapMask, "ProbabilityGapMask is registered as 'my mask': give a name of letters"),
        (("tis(2)",), ProbabilityGapMask, "give a name of letters"),
        ((), ProbabilityGapMask, "give a name of letters"),
        (("new",), Required, "new: give its parameter epsilon a default, a number, a name, or true or false"),
        (("new",), halved(edges=(1.0, 2.0)), "new: give its parameter edges a default"),
        (("new",), halved(needs=1.0), "new: a parameter cannot be called needs, as a part of every correction is"),
        (("new",), halved(name="x"), "new: a parameter cannot be called name"),
        (
            ("new",),
            halved(clip="soft"),
            "new: its parameter clip is a name, and that of .*tis is a number, in one column of the records: give it",
        ),
        (("new",), halved(inverted=1.0), "inverted is a number, and that of .*mask-k1 is true or false"),
    ],
)
def test_a_name_that_is_taken_or_a_parameter_that_does_not_fit_is_refused(
    names: Any, correction: Any, sentence: str
) -> None:
    registry.register("half")(halved())
    before = estimators.names()
    with pytest.raises(RegistrationError, match=sentence):
        registry.register(*names)(correction)
    assert estimators.names() == before


def test_parameters_that_may_be_none_are_numbers() -> None:
    registry.register("new")(halved(cap=None, c2=1.5))
    assert registry.parameter_types()["cap"] is float
    assert estimators.get("new", cap=2.0).parameters() == {"cap": 2.0, "c2": 1.5}
    with pytest.raises(ValueError, match="new: cap must be a number, got 'wide'"):
        estimators.get("new", cap="wide")


# ------------------------------------------------------------------ installed packages

PACKAGED = """
from dataclasses import dataclass
from jackpot_sim.estimators import TokenCorrection, register

@register({name!r})
@dataclass(frozen=True)
class Packaged(TokenCorrection):
    share: float = 0.5

    def weight(self, tokens):
        return self.share * tokens.ones()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five packages that name corrections in the entry-point group, three of which cannot be used."""
    sources = {
        "alpha_masks": PACKAGED.format(name="alpha-share"),
        "broken_masks": f"{PACKAGED.format(name='broken-share')}\nimport no_such_package\n",
        "clashing_masks": PACKAGED.format(name="tis"),
        "empty_masks": "",
        "omega_masks": PACKAGED.format(name="omega-share"),
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\nmasks = {name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.unusable_packages.cache_clear()
    yield
    registry.unusable_packages.cache_clear()
    for name in sources:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("installed")
def test_installed_packages_are_loaded_when_a_name_is_looked_up_that_is_not_ours() -> None:
    assert estimators.get("tis") == estimators.get("tis")
    assert "alpha_masks" not in sys.modules, "nobody asked for it"
    assert estimators.get("omega-share", share=0.25).weights(np.zeros(2)).weight.tolist() == [0.25, 0.25]
    assert {"alpha-share", "omega-share"} <= set(estimators.names())
    assert "broken-share" not in estimators.names(), "a package that fails leaves nothing behind"


@pytest.mark.usefixtures("installed")
def test_a_broken_package_is_told_where_somebody_looks_for_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'broken-share'") as caught:
        estimators.get("broken-share")
    told = str(caught.value)
    assert "the package broken-masks cannot be used: mend line 13 of broken_masks.py (ModuleNotFoundError" in told
    assert "the package clashing-masks cannot be used: Packaged: the name 'tis' is taken by an estimator of" in told
    assert "the package empty-masks cannot be used: it registers no correction" in told
    assert "\n" not in told
    assert len(registry.unusable_packages()) == 3
