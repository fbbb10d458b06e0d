"""Parts of help texts: the fields of a configuration, the kinds of a union, the columns of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from pydantic import BaseModel
from rich.table import Table

from jackpot_sim.help_pages import of_docstring
from jackpot_sim.studies.configuration import kind_of


def fields(configuration: type, *left_out: str) -> str:
    """The fields of a configuration with their defaults, in parentheses; empty if it has none.

    >>> from jackpot_sim.estimators.corrections.token import TruncatedImportanceSampling
    >>> fields(TruncatedImportanceSampling, "c2")
    '(clip=2.0, floor=0.0)'
    """
    parts = [_field(name, default) for name, default in defaults(configuration).items() if name not in left_out]
    return f"({', '.join(parts)})" if parts else ""


def defaults(configuration: type) -> dict[str, object]:
    """The fields of a configuration but its kind, each with its default, or a marker where there is none."""
    if issubclass(configuration, BaseModel):
        every = {name: field.default for name, field in configuration.model_fields.items()}
    else:
        assert dataclasses.is_dataclass(configuration)
        every = {field.name: field.default for field in dataclasses.fields(configuration)}
    return {name: default for name, default in every.items() if name != "kind"}


def scalars(configuration: type) -> str:
    """The fields with a plain default, without the others."""
    parts = [_field(name, default) for name, default in defaults(configuration).items()]
    return ", ".join(part for part in parts if "=" in part)


def kinds(configurations: Iterable[type], *left_out: str) -> str:
    """The kinds of some configurations with their fields, for a sentence."""
    return "; ".join(f"{kind_of(each)} {fields(each, *left_out)}".strip() for each in configurations)


def pages(configurations: Iterable[type], option: str) -> dict[str, str]:
    """The page of each kind, from its docstring."""
    return {str(kind_of(each)): page(each, f"{kind_of(each)}, {option} {kind_of(each)}") for each in configurations}


def page(configuration: type, title: str) -> str:
    """A configuration's page: what its docstring says, and its fields with their defaults."""
    shown = {name: _field(name, default).partition("=")[2] for name, default in defaults(configuration).items()}
    return f"{title}\n\n{of_docstring(configuration, shown)}"


def _field(name: str, default: object) -> str:
    if default is None:
        return f"{name}=null"
    if isinstance(default, bool):
        return f"{name}={str(default).lower()}"
    return f"{name}={default}" if isinstance(default, int | float | str) else name


def columns_table(title: str, columns: Mapping[str, str]) -> Table:
    """The columns of a table of records, each with its meaning."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("column", no_wrap=True)
    table.add_column("meaning")
    for name, meaning in columns.items():
        table.add_row(name, meaning)
    return table
