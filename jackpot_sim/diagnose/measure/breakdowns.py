"""The mismatch by one property of the tokens at a time.

Positions and lengths are cut at powers of two, entropies and probabilities at fixed numbers, so that slices are the
same for all dumps and bounded in number. Steps and weight versions have a slice each, and memory grows with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.metrics import FAR, disagrees_confidently
from jackpot_sim.diagnose.results import Breakdown, Row

FIGURES = ("k1", "k3", "abs_log_ratio_mean", "far_share", "probability_gap", "confident_disagreement")
"""The figures of a slice, means over its tokens, as `metrics` describes them."""
PROBABILITIES = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
"""The lower ends of slices by the actor's probability of the token."""
ENTROPIES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0)
"""The lower ends of slices by the entropy of the policy's law, nats."""

Sums: TypeAlias = Floats
"""Tokens, sequences and Σ of each figure, (slices, 2 + figures)."""
Key: TypeAlias = tuple[int, ...]


def _above(ends: tuple[float, ...], values: Floats) -> Ints:
    place = np.searchsorted(np.array(ends[1:]), values, side="right")
    return np.where(np.isnan(values), -1, place)


def _octave(values: Ints) -> Ints:
    """The number of binary digits: 0 → 0, 1 → 1, 2 and 3 → 2, 4 to 7 → 3."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _octave_name(place: int) -> str:
    first, last = 2**place // 2, 2**place - 1
    return str(first) if first >= last else f"{first}–{last}"


def _range_name(ends: tuple[float, ...], last: str) -> Callable[[int], str]:
    names = [f"{low:g}–{high:g}" for low, high in zip(ends, [*ends[1:], None], strict=True) if high is not None]
    return [*names, last].__getitem__


_FIXED: Mapping[str, tuple[Callable[[Batch], Ints | None], Callable[[int], str]]] = {
    "position": (lambda batch: _octave(batch.table.position), _octave_name),
    "length": (lambda batch: _octave(batch.table.lengths)[batch.table.owner], _octave_name),
    "entropy": (
        lambda batch: None if batch.table.entropy is None else _above(ENTROPIES, batch.table.entropy),
        _range_name(ENTROPIES, f"over {ENTROPIES[-1]:g}"),
    ),
    "probability": (
        lambda batch: _above(PROBABILITIES, np.exp(batch.actor_log_probs)),
        _range_name(PROBABILITIES, f"{PROBABILITIES[-1]:g}–1"),
    ),
}
"""The slice of each token and the name of a slice, by the property; −1, or None of all, where the dump lacks it."""


class Breakdowns:
    """An accumulator of sums over slices."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[Key, Floats]] = {by: {} for by in (*_FIXED, "step", "version")}

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        values = _values(batch)
        for by, (slices, _) in _FIXED.items():
            place = slices(batch)
            if place is not None:
                sums = _summed(place, values, batch)
                self._collect(by, [(each,) for each in range(len(sums))], sums)
        table = batch.table
        step = None if table.step is None else table.step[table.owner]
        if step is not None:
            steps, place = np.unique(step, return_inverse=True)
            self._collect("step", [(int(each),) for each in steps], _summed(place, values, batch))
        if table.weight_version is not None:
            pairs = [table.weight_version] if step is None else [table.weight_version, step]
            keys, place = _unique(pairs)
            self._collect("version", keys, _summed(place, values, batch))

    def merge(self, later: Self) -> None:
        """Takes in the sums of the batches that come next."""
        for by, sums in later._sums.items():
            self._collect(by, list(sums), np.array(list(sums.values())))

    def results(self) -> list[Breakdown]:
        """The breakdowns by the properties that the dump has, without empty slices."""
        versions = self._sums["version"]
        found = [Breakdown(by=by, rows=_rows(self._sums[by], name)) for by, (_, name) in _FIXED.items()]
        for by, sums in (
            ("step", self._sums["step"]),
            ("weight-version", _regrouped(versions, _version)),
            ("lag", _regrouped(versions, _lag(versions))),
        ):
            found.append(Breakdown(by=by, rows=_rows(sums, str)))
        return [each for each in found if each.rows]

    def _collect(self, by: str, keys: list[Key], sums: Sums) -> None:
        mine = self._sums[by]
        for key, each in zip(keys, sums, strict=True):
            if each[0]:
                mine[key] = mine[key] + each if key in mine else each


def _values(batch: Batch) -> list[Floats]:
    far = (batch.size > FAR).astype(np.float64)
    return [-batch.log_ratio, batch.k3, batch.size, far, batch.probability_gap, disagrees_confidently(batch)]


def _summed(place: Ints, values: list[Floats], batch: Batch) -> Sums:
    """The sums over slices from the slice of each token, (N,), −1 for none."""
    owner = batch.table.owner
    if place.min() < 0:
        live = place >= 0
        place, owner, values = place[live], owner[live], [each[live] for each in values]
    count, sequences = int(place.max(initial=-1)) + 1, batch.table.sequences
    there = np.zeros(sequences * count, dtype=bool)
    there[owner * count + place] = True
    with overflow_to_inf():
        sums = [np.bincount(place, minlength=count)] + [np.bincount(place, each, count) for each in values]
    return np.stack([sums[0], there.reshape(sequences, count).sum(axis=0), *sums[1:]], axis=-1).astype(np.float64)


def _unique(columns: list[Ints]) -> tuple[list[Key], Ints]:
    """The tuples of integers that occur, in order, and the place of each row's among them, (N,)."""
    place = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, inner = np.unique(column, return_inverse=True)
        place = place * len(values) + inner
    _, first, place = np.unique(place, return_index=True, return_inverse=True)
    return [tuple(int(column[each]) for column in columns) for each in first], place


def _version(key: Key) -> Key | None:
    return key[:1]


def _lag(sums: Mapping[Key, Floats]) -> Callable[[Key], Key | None]:
    """The number of versions by which a token's weights are older than the newest in its step."""
    newest: dict[int, int] = {}
    for version, *step in sums:
        if step:
            newest[step[0]] = max(version, newest.get(step[0], version))

    def lag(key: Key) -> Key | None:
        return (newest[key[1]] - key[0],) if len(key) > 1 else None

    return lag


def _regrouped(sums: Mapping[Key, Floats], to: Callable[[Key], Key | None]) -> dict[Key, Floats]:
    """The sums by another key; those whose key is None are left out."""
    found: dict[Key, Floats] = {}
    for key, each in sums.items():
        new = to(key)
        if new is not None:
            found[new] = found[new] + each if new in found else each
    return found


def _rows(sums: Mapping[Key, Floats], name: Callable[[int], str]) -> list[Row]:
    return [_row(name(key[0]), *sums[key].tolist()) for key in sorted(sums)]


def _row(name: str, tokens: float, sequences: float, *figures: float) -> Row:
    means = {figure: value / tokens for figure, value in zip(FIGURES, figures, strict=True)}
    known = {figure: mean if np.isfinite(mean) else None for figure, mean in means.items()}
    return Row(slice=name, tokens=int(tokens), sequences=int(sequences), figures=known)
