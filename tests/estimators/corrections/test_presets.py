"""Presets: what the file says about each rule, what it becomes, and what a wrong name is told."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators import Denominator
from jackpot_sim.estimators.corrections.presets import Preset, named
from tests.cases import each

EVERY = list(estimators.presets().values())
EXPRESSIBLE = [preset for preset in EVERY if preset.parts]


def tokens(rows: int = 6, length: int = 5) -> estimators.Tokens:
    """Tokens with everything that any correction looks at."""
    generator = np.random.default_rng(3)
    actor = np.log(generator.uniform(0.05, 0.9, size=(rows, length)))
    ratio = np.minimum(generator.normal(scale=0.4, size=(rows, length)), -actor - 0.01)
    return estimators.Tokens(
        ratio,
        actor_log_probs=actor,
        overlap=np.full((rows, 1), 0.9),
        advantages=generator.normal(size=(rows, 1)),
        mask=np.arange(length) < generator.integers(1, length + 1, size=(rows, 1)),
    )


@each("preset", EVERY)
def test_a_preset_names_its_source_and_version_and_what_it_becomes_or_why_not(preset: Preset) -> None:
    assert preset.source
    assert preset.version
    assert preset.parts or preset.note
    assert preset.sequence in (None, "e^S", "e^G", "e^S and e^G")
    assert named(f"{preset.framework}@{preset.version}:{preset.rule}") == preset


@each("preset", EXPRESSIBLE)
def test_a_preset_is_the_product_of_its_parts(preset: Preset) -> None:
    """The weights of the parts, multiplied by hand: nothing of the file is lost on the way."""
    given = tokens()
    product: list[Floats] = [np.ones((6, 5)), np.ones((6, 5))]
    for part in preset.parts:
        correction = estimators.get(part.kind, **part.parameters)
        if part.batch_normalize:
            correction = estimators.batch_normalize(correction)
        product = [before * np.asarray(more) for before, more in zip(product, correction.weights(given), strict=True)]
    found = estimators.get(preset.name).weights(given)
    np.testing.assert_allclose(np.asarray(found.accept), np.where(given.mask, product[0], 0), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(found.weight), np.where(given.mask, product[1], 0), rtol=1e-12)


def test_a_bound_on_the_inverse_ratio_stays_one() -> None:
    for preset in EXPRESSIBLE:
        inverted = any(part.parameters.get("inverted", False) for part in preset.parts)
        assert inverted == preset.inverted, preset.name


def test_the_readings_of_a_sequence_are_those_of_the_parts() -> None:
    """verl's weight is e^S and its geometric mask e^G; a mask on e^G keeps what one on e^S drops."""
    given = estimators.Tokens(np.full((1, 50), 0.0005))
    assert float(np.asarray(estimators.get("verl:decoupled_geo_rs").weights(given).accept)[0, 0]) == 1
    total = np.asarray(estimators.get("verl:decoupled_seq_is").weights(given).weight)[0, 0]
    assert total == pytest.approx(np.exp(0.025), rel=1e-12)


def test_parameters_of_a_preset_can_be_changed() -> None:
    assert estimators.get("verl:decoupled_token_is", clip=7.0).parameters()["clip"] == 7.0
    changed = estimators.get("verl:decoupled_geo_rs_token_tis", clip=7.0).parameters()
    assert (changed["tis.clip"], changed["sequence-mask-k1.high"]) == (7.0, 1.001)
    with pytest.raises(ValueError, match="estimator 'tis' has no parameter 'low': it takes clip, floor, c2"):
        estimators.get("verl:decoupled_token_is", low=7.0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("verl@0.8.0:decoupled_token_is", "the presets of verl are those of 0.9.1: leave the version out, or give"),
        ("verl:gspo@0.9.1", "the version stands behind the framework: write verl@0.9.1:gspo"),
        ("verl:token_is", r"\(did you mean verl:decoupled_token_is"),
        ("verl:decoupled_token_iss", "did you mean verl:decoupled_token_is "),
        ("verl:zz", r"of verl there are verl:decoupled_token_is"),
        ("nobody:tis", "there are presets of verl"),
        (":tis", "there are presets of verl"),
    ],
)
def test_a_wrong_name_is_told_in_one_sentence(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        estimators.get(name)
    assert len(str(caught.value).splitlines()) == 1


def test_the_denominator_after_rejection() -> None:
    """verl takes rejected tokens out of its count before the update, and leaves them in it in bypass mode."""
    assert estimators.presets()["verl:decoupled_geo_rs"].denominator is Denominator.ACCEPTED
    assert estimators.presets()["verl:bypass_pg_geo_rs"].denominator is Denominator.PROPOSED
    assert estimators.presets()["verl:decoupled_token_icepop"].denominator is Denominator.PROPOSED
