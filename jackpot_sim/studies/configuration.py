"""Reading a study: the mapping in a file, the grid that its lists span, and one sentence for a mistake."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jackpot_sim.commands import whole_number
from jackpot_sim.studies.errors import StudyError

Model = TypeVar("Model", bound=BaseModel)

Location: TypeAlias = Sequence[int | str]
"""The place of an error as pydantic tells it: names of fields, places in lists, kinds of unions."""

Kinds: TypeAlias = Callable[[Location], Mapping[int | str, type]]
"""The place of an error → the configurations there, by their kind or the field that they are in."""

Place: TypeAlias = Callable[[Location], str]
"""The place of an error → its name."""

_UNKNOWN_FIELD = ("extra_forbidden", "unexpected_keyword_argument")


def expand(value: object, name: str = "") -> list[object]:
    """The grid of all combinations of the lists inside nested mappings, for instance {a: [1, 2]} as [{a: 1}, {a: 2}].

    Args:
        value: a mapping, a list of such, or a plain value.
        name: the field that it stands in, for the error.

    Raises:
        ValueError: a list is empty, and so would empty the grid; the message names its field.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{name or 'the list'} is empty")
        return [each for item in value for each in expand(item, name)]
    if isinstance(value, Mapping):
        axes = [[(key, each) for each in expand(item, str(key))] for key, item in value.items()]
        return [dict(combination) for combination in itertools.product(*axes)]
    return [value]


def read_mapping(path: Path) -> dict[str, object]:
    """The mapping in a YAML or TOML file.

    Raises:
        StudyError: it cannot be read, is neither YAML nor TOML by its suffix, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            mapping: object = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            mapping = yaml.safe_load(text)
        else:
            raise StudyError(f"config {path} must end in .yaml, .yml or .toml")
    except OSError as error:
        raise StudyError(f"config {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # PyYAML lets ValueError through, for 2020-13-45
        raise StudyError(f"config {path} cannot be parsed: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, dict):
        raise StudyError(f"config {path} must hold a mapping of study fields, not {type(mapping).__name__}")
    return mapping


def dotted(location: Location) -> str:
    """The name of a place, kinds of unions included."""
    return ".".join(str(part) for part in location)


def parse(
    model: type[Model], mapping: Mapping[str, object], kinds: Kinds = lambda _: {}, place: Place = dotted
) -> Model:
    """The `model` that a mapping describes.

    Args:
        model: the class to read the mapping as.
        mapping: its fields.
        kinds: gives the configurations whose fields are listed where an unknown one was given.
        place: names the place of an error.

    Raises:
        StudyError: a field is unknown, missing or out of range; the message explains the first one, and names the
            places of others.
    """
    try:
        return _validated(model, mapping)
    except ValidationError as error:
        # A misspelt field often leaves another one missing: the misspelling comes first.
        errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] not in _UNKNOWN_FIELD)
        raise StudyError(_sentence(errors[0], kinds, place) + _others(errors, place)) from error


def _validated(model: type[Model], mapping: Mapping[str, object]) -> Model:
    """The model, with texts such as 1e9 read as whole numbers where they are not taken as they are."""
    try:
        return model.model_validate(mapping)
    except ValidationError as error:
        numbers = _with_whole_numbers(mapping)
        if numbers == mapping:
            raise
        try:
            return model.model_validate(numbers)
        except ValidationError as other:
            raise (other if other.error_count() <= error.error_count() else error) from None


def _with_whole_numbers(value: object) -> object:
    """A configuration with the whole numbers in powers of ten, which YAML and a command line give as text."""
    if isinstance(value, Mapping):
        return {key: _with_whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_whole_numbers(each) for each in value]
    return whole_number(value) if isinstance(value, str) else value


_NAMED = 3
"""The places of further errors that are named."""


def _others(errors: Sequence[ErrorDetails], place: Place) -> str:
    """The number of errors beyond the first, and the places of some; "" without any."""
    _, *places = dict.fromkeys(place(each["loc"]) or "study" for each in errors)
    named = f": {', '.join(places[:_NAMED])}" if places else ""
    return f" (and {len(errors) - 1} more{named})" if len(errors) > 1 else ""


def _sentence(error: ErrorDetails, kinds: Kinds, place: Place) -> str:
    location, message, kind = error["loc"], error["msg"], error["type"]
    where = place(location) or "study"
    message = message.removeprefix("Value error, ")
    if kind in _UNKNOWN_FIELD:
        message = "there is no such field" + _known_fields(location, kinds(location))
    elif kind == "union_tag_invalid":
        known_kinds = [tag.strip().strip("'") for tag in error["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(str(error["ctx"]["tag"]).replace("_", "-"), known_kinds, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"there is no kind {error['ctx']['tag']!r}{hint} (known: {', '.join(known_kinds)})"
    elif kind == "union_tag_not_found":
        message = "its kind is missing" + _option(f"{where}.kind")
    elif kind == "missing":
        message = "it is missing" + _option(where)
    return f"{where}: {message}"


def _option(place: str) -> str:
    """The option that gives a field below others; nothing for a place in a list, which no option names."""
    _, *below = place.split(".")
    if not below or any(part.isdecimal() for part in below):
        return ""
    return f": give --{place.replace('_', '-')}"


def _known_fields(location: Location, configurations: Mapping[int | str, type]) -> str:
    """The fields of the configuration in which an unknown one was given: that of the last kind on the way."""
    kinds = [part for part in location[:-1] if part in configurations]
    if not kinds:
        return ""
    names = [name for name in field_types(configurations[kinds[-1]]) if name != "kind"]
    return f" ({kinds[-1]} has {', '.join(names) or 'no fields'})"


def kinds_of(model: type) -> Kinds:
    """The configurations on the way from `model` to a place in it, whether pydantic's or dataclasses."""

    def kinds(location: Location) -> Mapping[int | str, type]:
        on_the_way: dict[int | str, type] = {}
        candidates: list[type] = [model]
        for part in location[:-1]:
            if isinstance(part, int):  # a place in a list
                continue
            if len(candidates) > 1:
                candidates = [each for each in candidates if kind_of(each) == part]
            else:
                candidates = _configurations(field_types(candidates[0]).get(part)) if candidates else []
            if len(candidates) == 1:
                on_the_way[part] = candidates[0]
        return on_the_way

    return kinds


def place_in(model: type) -> Place:
    """A function that names a place as a file spells it: without the kinds that pydantic adds to a union's field."""

    def place(location: Location) -> str:
        parts: list[str] = []
        candidates: list[type] = [model]
        for part in location:
            if len(candidates) > 1 and any(kind_of(each) == part for each in candidates):
                candidates = [each for each in candidates if kind_of(each) == part]
                continue
            parts.append(str(part))
            if isinstance(part, int):  # a place in a list
                continue
            one = len(candidates) == 1
            candidates = _configurations(field_types(candidates[0]).get(str(part))) if one else []
        return ".".join(parts)

    return place


def field_types(configuration: type) -> dict[str, object]:
    """The types of a configuration's fields, by name."""
    if issubclass(configuration, BaseModel):
        return {name: field.annotation for name, field in configuration.model_fields.items()}
    assert dataclasses.is_dataclass(configuration)
    hints = get_type_hints(configuration)
    return {field.name: hints[field.name] for field in dataclasses.fields(configuration)}


def _configurations(annotation: object) -> list[type]:
    """The configurations in the type of a field."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return [annotation]
    return [each for part in get_args(annotation) for each in _configurations(part)]


def kind_of(configuration: type) -> object:
    """The `kind` by which a configuration is told from others in a file; None where it has none."""
    if issubclass(configuration, BaseModel):
        field = configuration.model_fields.get("kind")
        return None if field is None else field.default
    return getattr(configuration, "kind", None)
