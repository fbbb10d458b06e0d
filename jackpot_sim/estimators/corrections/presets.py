"""Presets: the corrections that training frameworks run, by the frameworks' own names.

`presets.toml` has one table for each framework, with the version that was read, and one for each of its rules: where
it stands in the framework, what it becomes here, and its denominator. A rule that no correction here expresses is
listed with the reason.

>>> from jackpot_sim import estimators
>>> estimators.get("verl:decoupled_token_is")
TruncatedImportanceSampling(clip=2.0, floor=0.0, c2=None)
>>> estimators.get("verl@0.9.1:decoupled_token_is", clip=3.0).parameters()["clip"]
3.0
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeAlias, cast

from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.corrections.composed import combined
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.parameters import Parameter
from jackpot_sim.estimators.statistics import Denominator

Value: TypeAlias = bool | float | str
"""A parameter as the file has it."""


@dataclass(frozen=True)
class Part:
    """One correction of those that a preset multiplies."""

    kind: str
    parameters: Mapping[str, Value]
    batch_normalize: bool

    def correction(self, changed: Mapping[str, Parameter | str | None]) -> Correction:
        """The correction, with some parameters other than the preset's."""
        correction = registry.get(self.kind, **{**self.parameters, **changed})
        return batch_normalize(correction) if self.batch_normalize else correction

    @property
    def label(self) -> str:
        """The correction as estimators of studies are labelled, for instance `tis(clip=2)`."""
        inside = ", ".join(f"{name}={_short(value)}" for name, value in sorted(self.parameters.items()))
        label = f"{self.kind}({inside})" if inside else self.kind
        return f"batch-normalize({label})" if self.batch_normalize else label


@dataclass(frozen=True)
class Preset:
    """A rule of a training framework, and what it becomes here."""

    framework: str
    rule: str
    version: str
    """The version or commit of the framework that was read."""
    source: str
    """Where the rule stands in the framework, and its option."""
    parts: tuple[Part, ...]
    """The corrections that are multiplied; empty where none expresses the rule."""
    denominator: Denominator
    """The divisor of the framework's sums."""
    aggregation: str | None
    """The aggregation of losses that belongs to the rule, as `update.aggregation` of training; None: any."""
    bypass: bool
    """True where the ratio is p_new/p_rollout and there is no other, as with `update.bypass` of training."""
    sequence: str | None
    """The ratio that the framework means by a sequence's: e^S, or e^G, the geometric mean; None: none."""
    inverted: bool
    """True where the framework's bounds act on 1/r."""
    note: str
    """What else a user should know, or the reason why no correction here expresses the rule."""

    @property
    def name(self) -> str:
        """The name that `get` takes, `framework:rule`."""
        return f"{self.framework}:{self.rule}"

    @property
    def becomes(self) -> str:
        """The corrections here, for instance `tis(clip=2) & veto`; empty where none expresses the rule."""
        return " & ".join(part.label for part in self.parts)

    def correction(self, **parameters: Parameter | str | None) -> Correction:
        """The correction.

        Args:
            **parameters: values other than the preset's, for the first of its parts.

        Raises:
            ValueError: no correction here expresses the rule, or as `get`.
        """
        if not self.parts:
            raise ValueError(f"{self.name} can't be expressed as a correction: {self.note}")
        first, *others = self.parts
        return (
            combined(first.correction(parameters), *(part.correction({}) for part in others))
            if others
            else (first.correction(parameters))
        )


def get(name: str, **parameters: Parameter | str | None) -> Correction:
    """The correction called `name`: a registered one, or a preset, `framework:rule`.

    >>> get("tis", clip=2.0)
    TruncatedImportanceSampling(clip=2.0, floor=0.0, c2=None)

    Args:
        name: the name; that of a preset may name the framework's version, `framework@version:rule`.
        **parameters: the correction's parameters; of a preset, those of the first correction that it multiplies.

    Raises:
        ValueError: no such correction, preset or version, no such parameter, or a parameter outside its range.
    """
    preset = named(name)
    return registry.get(name, **parameters) if preset is None else preset.correction(**parameters)


def named(name: str) -> Preset | None:
    """The preset called `name`; None where the name has no colon, or is that of a registered correction.

    Raises:
        ValueError: no such preset, or another version of its framework.
    """
    before, colon, rule = name.partition(":")
    if not colon or registry.is_registered(name):
        return None
    framework, at, version = before.partition("@")
    plain, late, wanted = rule.partition("@")
    if late:
        raise ValueError(f"{name!r}: the version stands behind the framework: write {framework}@{wanted}:{plain}")
    preset = presets().get(f"{framework}:{rule}")
    if preset is None:
        every = "python -m jackpot_sim.sweep --presets lists all"
        raise ValueError(f"unknown preset {name!r}{_hint(framework, rule)}; {every}")
    if at and version != preset.version:
        raise ValueError(
            f"{name!r}: the presets of {framework} are those of {preset.version}: leave the version out, or give the "
            "correction and its parameters by themselves"
        )
    return preset


def _hint(framework: str, rule: str) -> str:
    """The names that are close to a wrong one, first those of the same framework."""
    own = [name for name, each in presets().items() if each.framework == framework]
    near = [f"{framework}:{rule}" for rule in difflib.get_close_matches(rule, [each.partition(":")[2] for each in own])]
    near = near or difflib.get_close_matches(f"{framework}:{rule}", presets(), cutoff=0.7)
    if near:
        return f" (did you mean {' or '.join(near)}?)"
    if own:
        return f" (of {framework} there are {', '.join(own)})"
    return f" (there are presets of {', '.join(dict.fromkeys(each.framework for each in presets().values()))})"


@cache
def presets() -> Mapping[str, Preset]:
    """The presets by name, in the order of the file."""
    text = (resources.files("jackpot_sim.estimators.corrections") / "presets.toml").read_text(encoding="utf-8")
    found = [
        _preset(framework, str(table["version"]), rule, cast("Mapping[str, object]", fields))
        for framework, table in tomllib.loads(text).items()
        for rule, fields in table["rules"].items()
    ]
    return {each.name: each for each in found}


_FIELDS = {"source", "becomes", "denominator", "aggregation", "bypass", "sequence", "inverted", "note"}


def _preset(framework: str, version: str, rule: str, fields: Mapping[str, object]) -> Preset:
    """The preset that a table of the file describes.

    Raises:
        ValueError: the table has a field that no preset has.
    """
    if unknown := set(fields) - _FIELDS:
        raise ValueError(f"{framework}:{rule}: there is no field {', '.join(sorted(unknown))}")
    optional = {name: cast("str | None", fields.get(name)) for name in ("aggregation", "sequence")}
    return Preset(
        framework=framework,
        rule=rule,
        version=version,
        source=str(fields["source"]),
        parts=tuple(map(_part, cast("list[Mapping[str, Value]]", fields.get("becomes", [])))),
        denominator=Denominator(str(fields.get("denominator", "proposed"))),
        aggregation=optional["aggregation"],
        bypass=bool(fields.get("bypass", False)),
        sequence=optional["sequence"],
        inverted=bool(fields.get("inverted", False)),
        note=str(fields.get("note", "")),
    )


def _part(fields: Mapping[str, Value]) -> Part:
    own = {name: value for name, value in fields.items() if name not in ("kind", "batch_normalize")}
    return Part(str(fields["kind"]), own, bool(fields.get("batch_normalize", False)))


def _short(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool | str) else f"{value:.12g}"
