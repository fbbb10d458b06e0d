"""The configurations as pydantic sees them: the environments do not import it, the sweep does."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from jackpot_sim.environments.states.advantage import Advantage, BinaryReward, FileAdvantage
from jackpot_sim.environments.states.base_laws import BaseLaw, Dirichlet, LogitsFile, Zipf
from jackpot_sim.environments.states.families import (
    FAMILIES,
    ActorFile,
    LogitNoise,
    LowerOrder,
    MismatchFamily,
    TopKTruncation,
)
from jackpot_sim.environments.states.ngram import Ngram


def adapter(union: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[union, Field(discriminator="kind")])


FAMILY, BASE, ADVANTAGE = adapter(MismatchFamily), adapter(BaseLaw), adapter(Advantage)


def test_nested_kinds_pick_their_classes() -> None:
    given = {"kind": "logit-noise", "sigma": 0.1, "base": {"kind": "zipf"}, "advantage": {"kind": "binary"}}
    assert FAMILY.validate_python(given) == LogitNoise(sigma=0.1, base=Zipf(), advantage=BinaryReward())
    assert FAMILY.validate_python({"kind": "top-k", "target_kl": 0.1}) == TopKTruncation(
        target_kl=0.1, base=Dirichlet()
    )
    ngram = {"kind": "lower-order", "order": 2, "base": {"kind": "ngram", "text": "some.txt"}}
    assert FAMILY.validate_python(ngram) == LowerOrder(order=2, base=Ngram(text=Path("some.txt")))
    assert BASE.validate_python({"kind": "logits-file", "path": "a.npy"}) == LogitsFile(path=Path("a.npy"))
    actor = {"kind": "actor-file", "path": "a.npy", "share": 1, "advantage": {"kind": "file", "path": "adv.npz"}}
    advantage = FileAdvantage(path=Path("adv.npz"))
    assert FAMILY.validate_python(actor) == ActorFile(path=Path("a.npy"), share=1, advantage=advantage)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.kind)
def test_every_family_survives_the_round_trip(family: Any) -> None:
    given = family(target_kl=0.01, **({"path": Path("a.npy")} if family is ActorFile else {}))
    assert FAMILY.validate_json(FAMILY.dump_json(given)) == given
    assert hash(FAMILY.validate_python(FAMILY.dump_python(given))) == hash(given)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"kind": "logit-noise", "sigma": 0.1, "sgma": 1}, "logit-noise.sgma"),
        ({"kind": "logit-noise", "sigma": 0.1, "base": {"kind": "zipf", "vocb": 3}}, "logit-noise.base.zipf.vocb"),
        ({"kind": "top-p", "p": 0.5, "advantage": {"kind": "normal", "mean": 3}}, "top-p.advantage.normal.mean"),
        ({"kind": "logit-noise", "sigma": -1}, "sigma must be"),
        ({"kind": "logit-noise"}, "exactly one of sigma and target_kl, got neither"),
        ({"kind": "top-k", "k": 3, "base": {"kind": "dirichlet", "vocab": 0}}, "vocab must be"),
        ({"kind": "top-k", "k": 3, "base": {"vocab": 5}}, "Unable to extract tag"),
        ({"kind": "lower-order", "order": 1, "base": {"kind": "zipf"}}, "Input should be 'ngram'"),
        ({"kind": "actor-file", "share": 0.5}, "actor-file.path"),
        ({"kind": "actor-file", "path": "a.npy", "share": 1.5}, "share must lie in [0, 1]"),
        ({"kind": "top-p", "p": 0.5, "advantage": {"kind": "file"}}, "top-p.advantage.file.path"),
        ({"kind": "logit-nose", "sigma": 0.1}, "'logit-noise'"),
    ],
)
def test_errors_name_the_field(given: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as error:
        FAMILY.validate_python(given)
    assert where in str(error.value)


@pytest.mark.parametrize("union", [BASE, ADVANTAGE], ids=["base", "advantage"])
def test_unknown_kind_lists_the_known_ones(union: TypeAdapter[Any]) -> None:
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        union.validate_python({"kind": "gamma"})
