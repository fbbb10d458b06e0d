"""One colour and one marker for each estimator and each method, in all figures and reports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Look(NamedTuple):
    """The colour and the marker of one estimator, method or source, in all figures."""

    color: str
    marker: str


# Okabe and Ito's colours, which readers with any common colour blindness tell apart.
LOOKS = {
    "none": Look("#999999", "x"),
    "is": Look("#000000", "+"),
    "tis": Look("#E69F00", "s"),
    "mis": Look("#F0E442", "D"),
    "mask-k1": Look("#CC79A7", "<"),
    "mask-k2": Look("#CC79A7", "v"),
    "mask-k3": Look("#CC79A7", ">"),
    "obrs": Look("#0072B2", "o"),
    "jackpot": Look("#D55E00", "^"),
    "rao-blackwell(jackpot)": Look("#009E73", "P"),
    "overlap-tis": Look("#56B4E9", "X"),
    # Corrections of whole sequences, which are never drawn beside masks of tokens or overlap-tis.
    "sequence-is": Look("#0072B2", "o"),
    "sequence-tis": Look("#56B4E9", "v"),
    "sequence-mis": Look("#CC79A7", "D"),
    "geometric-tis": Look("#882255", "<"),
}
"""The look of each estimator."""

METHODS = {
    "on-policy": Look("#000000", "*"),
    "none": Look("#999999", "h"),  # an x, as elsewhere, would look like the mark of a run that is lost
    "off-policy": Look("#999999", "h"),
    "distillation": Look("#56B4E9", "v"),
    "no-clip": Look("#CC79A7", "D"),
    "tis": LOOKS["tis"],
    "mis": LOOKS["mis"],
    "sequence-mis": Look("#CC79A7", "v"),
    "sequence-tis": Look("#882255", "<"),
    "centred-none": Look("#56B4E9", "d"),
    "centred-tis": Look("#0072B2", "X"),
    "obrs": LOOKS["obrs"],
    "overlap-tis": LOOKS["overlap-tis"],
    "jackpot": LOOKS["jackpot"],
    "jackpot-lab": Look("#8C510A", ">"),
    "rao-blackwell": LOOKS["rao-blackwell(jackpot)"],
    "cispo": Look("#0072B2", "X"),
    "sapo": Look("#009E73", "d"),
}
"""The look of each method of a study of training; methods with the same look are never drawn together."""

_FURTHER = (
    Look("#0072B2", "o"),
    Look("#56B4E9", "v"),
    Look("#CC79A7", "D"),
    Look("#882255", "<"),
    Look("#E69F00", "s"),
    Look("#009E73", "P"),
    Look("#000000", "d"),
    Look("#F0E442", ">"),
)


def of_methods(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method; methods that `METHODS` lacks, or whose look another one has, get the remaining ones."""
    return _looks(methods, METHODS)


def of_estimators(estimators: Sequence[str]) -> dict[str, Look]:
    """A look for each estimator, by its name without parameters where `LOOKS` has that."""
    return _looks(estimators, {each: LOOKS[name] for each in estimators if (name := each.partition("(")[0]) in LOOKS})


def _looks(names: Sequence[str], known: Mapping[str, Look]) -> dict[str, Look]:
    taken = {known[each].color for each in names if each in known}
    left = _further([look for look in _FURTHER if look.color not in taken] or list(_FURTHER))
    out: dict[str, Look] = {}
    for each in names:
        own = known.get(each)
        out[each] = next(left) if own is None or own in out.values() else own
    return out


def _further(looks: Sequence[Look]) -> Iterator[Look]:
    """The looks, then their colours with each other's markers, so that many methods are told apart."""
    for turn in itertools.count():
        for at, look in enumerate(looks):
            yield look if turn % len(looks) == 0 else Look(look.color, looks[(at + turn) % len(looks)].marker)
