"""The registry takes whole corrections of free names, and tells the author of another one what to write."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.corrections import registry
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
    with pytest.raises(TypeError, match=sentence):
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
    with pytest.raises(ValueError, match=sentence):
        registry.register(*names)(correction)
    assert estimators.names() == before


def test_parameters_that_may_be_none_are_numbers() -> None:
    registry.register("new")(halved(cap=None, c2=1.5))
    assert registry.parameter_types()["cap"] is float
    assert estimators.get("new", cap=2.0).parameters() == {"cap": 2.0, "c2": 1.5}
    with pytest.raises(ValueError, match="new: cap must be a number, got 'wide'"):
        estimators.get("new", cap="wide")
