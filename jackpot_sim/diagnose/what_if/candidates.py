"""The corrections that are tried on a dump: the user's own, the registered ones, and those of frameworks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jackpot_sim import estimators
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.corrections import presets, registry
from jackpot_sim.estimators.corrections.batch import BatchNormalized
from jackpot_sim.estimators.corrections.composed import Combined, RaoBlackwell

_TERM = re.compile(r"\s*([\w.:@+-]+)\s*")
_WRAPPERS: dict[str, Callable[[Correction], Correction]] = {
    "rao-blackwell": estimators.rao_blackwell,
    "batch-normalize": estimators.batch_normalize,
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A correction to be tried, or the reason why it cannot be.

    Attributes:
        name: the correction as `--correction` takes it.
        label: the correction here, with its parameters; empty where there is none.
        correction: the correction; None where no correction here expresses the rule.
        refused: the reason, where there is none.
    """

    name: str
    label: str
    correction: Correction | None
    refused: str | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """The same for corrections that are equal: of one type with the same parameters."""
        assert self.correction is not None
        return type(self.correction), self.correction.name, repr(sorted(self.correction.parameters().items()))


def candidates(own: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """The user's own corrections, then each registered one at its defaults, then each preset; each name once.

    Args:
        own: corrections as `parsed` reads them.

    Raises:
        ValueError: as `parsed`.
    """
    found = {name.strip(): _of(name.strip(), parsed(name)) for name in own}
    for name in registry.names():
        found.setdefault(name, _of(name, registry.get(name)))
    for name, preset in presets.presets().items():
        if name not in found:
            told = Candidate(name, "", None, preset.note)
            found[name] = _of(name, preset.correction()) if preset.parts else told
    return tuple(found.values())


def _of(name: str, correction: Correction) -> Candidate:
    return Candidate(name, label(correction), correction)


def label(correction: Correction) -> str:
    """The correction with its parameters, as `parsed` reads it: `tis(clip=2, floor=0) & veto(threshold=0.0001)`."""
    if isinstance(correction, Combined):
        return " & ".join(label(part) for part in correction.parts)
    if isinstance(correction, RaoBlackwell | BatchNormalized):
        return f"{correction.name.partition('(')[0]}({label(correction.of)})"
    given = {name: value for name, value in correction.parameters().items() if value is not None}
    inside = ", ".join(f"{name}={_short(value)}" for name, value in given.items())
    return f"{correction.name}({inside})" if inside else correction.name


def _short(value: float | str) -> str:
    return str(value).lower() if isinstance(value, bool | str) else f"{value:.12g}"


def parsed(text: str) -> Correction:
    """The correction that a text names.

    It is the name of a registered correction or of a preset, with parameters in brackets where they are not the
    defaults; `rao-blackwell(…)` and `batch-normalize(…)` wrap one, and ` & ` multiplies several.

    >>> parsed("tis(clip=3) & veto").name
    'tis & veto'
    >>> parsed("verl:decoupled_token_is")
    TruncatedImportanceSampling(clip=2.0, floor=0.0, c2=None)

    Raises:
        ValueError: the text cannot be read, or names no correction, or as `estimators.get`.
    """
    correction, end = _product(text, 0)
    if end < len(text):
        raise _unreadable(text, end)
    return correction


def _product(text: str, start: int) -> tuple[Correction, int]:
    """The product of corrections that begins at `start`, and where it ends."""
    correction, end = _term(text, start)
    while text[end : end + 1] == "&":
        other, end = _term(text, end + 1)
        correction = estimators.combined(correction, other)
    return correction, end


def _term(text: str, start: int) -> tuple[Correction, int]:
    found = _TERM.match(text, start)
    if found is None:
        raise _unreadable(text, start)
    name, end = found[1], found.end()
    if text[end : end + 1] != "(":
        return estimators.get(name), end
    if name == "centred":
        raise ValueError("centred changes what an update subtracts and no weight: name the correction inside it")
    if name in _WRAPPERS:
        correction, end = _product(text, end + 1)
        correction = _WRAPPERS[name](correction)
    else:
        inside, bracket, _ = text[end + 1 :].partition(")")
        if not bracket:
            raise _unreadable(text, len(text))
        correction, end = estimators.get(name, **dict(_parameters(text, inside))), end + 1 + len(inside)
    if text[end : end + 1] != ")":
        raise _unreadable(text, end)
    behind = len(text[end + 1 :]) - len(text[end + 1 :].lstrip())
    return correction, end + 1 + behind


def _parameters(text: str, inside: str) -> Iterator[tuple[str, float | str | bool]]:
    for part in filter(str.strip, inside.split(",")):
        name, equal, value = (each.strip() for each in part.partition("="))
        if not equal or not name or not value:
            raise _unreadable(text, text.index(part))
        yield name, _value(value)


def _value(text: str) -> float | str | bool:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _unreadable(text: str, at: int) -> ValueError:
    rest = text[at:].strip()
    where = f"at {rest!r}" if rest else "at its end"
    return ValueError(
        f"the correction {text!r} cannot be read {where}: write a name, as in tis, with parameters as in tis(clip=3), "
        "and & between several"
    )
