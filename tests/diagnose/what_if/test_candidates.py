"""The names of corrections, as --correction takes them."""

from __future__ import annotations

import pytest

from jackpot_sim import estimators
from jackpot_sim.diagnose.what_if.candidates import candidates, label, parsed
from jackpot_sim.estimators import batch_normalize, combined, rao_blackwell
from jackpot_sim.estimators.corrections import presets, registry
from tests.cases import each


def test_all_that_can_be_tried_is_listed_once_the_users_own_first() -> None:
    found = candidates(["verl:decoupled_token_is", " tis(clip=3) "])
    names = [each.name for each in found]
    assert names[:2] == ["verl:decoupled_token_is", "tis(clip=3)"]
    assert names[2 : 2 + len(registry.names())] == list(registry.names())
    assert set(names[2 + len(registry.names()) :]) == set(presets.presets()) - set(names[:1])
    assert len(set(names)) == len(names)
    assert [each.name for each in found if each.correction is None] == [
        name for name, preset in presets.presets().items() if not preset.parts
    ]


def test_equal_corrections_have_the_same_key() -> None:
    keys = {each.name: each.key for each in candidates(["tis(clip=2)", "tis(clip=3)"]) if each.correction is not None}
    assert keys["tis"] == keys["tis(clip=2)"] == keys["verl:decoupled_token_is"] != keys["tis(clip=3)"]
    assert keys["sequence-mask-k1"] != keys["verl:decoupled_geo_rs"]  # the same bounds, on 1/ratio
    assert len({keys["slime:mis"], keys["tis"], keys["veto"]}) == 3


@each(
    "text, wanted",
    [
        ("tis", estimators.get("tis")),
        ("icepop", estimators.get("mis")),
        ("verl@0.9.1:decoupled_token_is(clip=4)", estimators.get("tis", clip=4.0)),
        ("mask-k1( low = 0.5,high=2 , inverted=true)", estimators.get("mask-k1", low=0.5, high=2.0, inverted=True)),
        ("jackpot(clip_on=ratio)", estimators.get("jackpot", clip_on="ratio")),
        ("tis&veto", combined(estimators.get("tis"), estimators.get("veto"))),
        (
            "rao-blackwell(obrs) & batch-normalize(tis(clip=3) & veto)",
            combined(
                rao_blackwell(estimators.get("obrs")),
                batch_normalize(combined(estimators.get("tis", clip=3.0), estimators.get("veto"))),
            ),
        ),
    ],
)
def test_texts_name_corrections(text: str, wanted: estimators.Correction) -> None:
    assert parsed(text) == wanted


def test_labels_are_read_back() -> None:
    for each_one in candidates(["rao-blackwell(jackpot) & veto", "batch-normalize(tis)"]):
        if each_one.correction is not None:
            again = parsed(each_one.label)
            assert again == each_one.correction
            assert label(again) == each_one.label


@each(
    "text, told",
    [
        ("", "cannot be read at its end"),
        ("tis(", "cannot be read at its end"),
        ("tis(clip=3", "cannot be read at its end"),
        ("tis)", r"cannot be read at '\)'"),
        ("tis(clip)", r"cannot be read at 'clip\)'"),
        ("tis & ", "cannot be read at its end"),
        ("tis veto", "cannot be read at 'veto'"),
        ("rao-blackwell(tis", "cannot be read at its end"),
        ("tiss", "did you mean 'tis'"),
        ("verl:none", "unknown preset"),
        ("verl:dro", "can't be expressed"),
        ("tis(clip=0)", "clip must be positive"),
        ("tis(clip=x)", "clip must be a number"),
        ("tis(cap=2)", "no parameter 'cap'"),
        ("centred(tis)", "name the correction inside it"),
        ("jackpot & obrs & overlap-tis(lam=2)", "different lam"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        candidates([text])
