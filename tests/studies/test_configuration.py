"""How a study is read: the grid of its lists, its file, and the sentence for what is wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from jackpot_sim.studies.configuration import expand, parse, read_mapping
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.estimator_spec import Frozen

# --- the grid ---------------------------------------------------------------------------------------------


def test_lists_inside_mappings_are_axes() -> None:
    grid = expand({"a": [1, 2], "b": {"c": [3, 4], "d": 5}})
    assert grid == [{"a": a, "b": {"c": c, "d": 5}} for a in (1, 2) for c in (3, 4)]
    assert expand([{"a": [1, 2]}, {"a": 3}]) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert expand("text") == ["text"]


def test_an_empty_list_is_named() -> None:
    with pytest.raises(ValueError, match="c is empty"):
        expand({"a": {"c": []}})
    with pytest.raises(ValueError, match="the list is empty"):
        expand([])


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.yaml", b"env: [", "cannot be parsed"),
        ("a.yaml", b"name: 2020-13-45", "cannot be parsed"),
        ("a.yaml", b"\xff\xfe\x00", "cannot be parsed"),
        ("a.yaml", b"[" * 5000, "cannot be parsed"),
        ("a.yaml", b"", "must hold a mapping of study fields, not NoneType"),
        ("a.yaml", b"- 1", "not list"),
        ("a.yaml", b"!!python/object:os.system {}", "cannot be parsed"),
        ("a.toml", b"a = ", "cannot be parsed"),
        ("a.json", b"{}", "must end in .yaml, .yml or .toml"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StudyError) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("where", ["missing.yaml", ".", "missing/deep.yaml"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, where: str) -> None:
    with pytest.raises(StudyError, match="cannot be read") as caught:
        read_mapping(tmp_path / where)
    assert str(tmp_path / where) in str(caught.value)


# --- sentences --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    kind: Literal["round"] = "round"
    radius: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    width: float = 1.0
    height: float = 1.0


class Drawing(Frozen):
    shape: Annotated[Round | Square, Field(discriminator="kind")]
    copies: Annotated[int, Field(ge=1)] = 1


def known(location: Sequence[Any]) -> Mapping[Any, type[Any]]:
    return {"round": Round, "square": Square} if location[0] == "shape" else {}


def test_a_mapping_becomes_the_model_asked_for() -> None:
    assert parse(Drawing, {"shape": {"kind": "square", "width": "2"}}) == Drawing(shape=Square(width=2))


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        (
            {"shape": {"kind": "square", "with": 2}},
            "shape.square.with: there is no such field (square has width, height)",
        ),
        ({"shape": {"kind": "round"}, "copy": 2}, "copy: there is no such field"),
        (
            {"shape": {"kind": "rounded"}},
            "shape: there is no kind 'rounded'; did you mean 'round'? (known: round, square)",
        ),
        ({"shape": {}}, "shape: its kind is missing: give --shape.kind"),
        ({"copies": 2}, "shape: it is missing"),
        ({"copies": 0, "shap": 1}, "shap: there is no such field (and 2 more: shape, copies)"),
    ],
)
def test_what_is_wrong_is_one_sentence(mapping: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse(Drawing, mapping, known)
    assert str(caught.value) == sentence


def test_without_kinds_no_fields_are_listed() -> None:
    with pytest.raises(StudyError, match=r"there is no such field$"):
        parse(Drawing, {"shape": {"kind": "square", "with": 2}})
